//! The images of one request and their predictions: several in flight where the engine has room, each under its own permit.

use std::sync::Arc;

use futures_util::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};

use crate::{
    http::{
        ApiError,
        extract::{Form, unknown_part},
        header_fields,
    },
    inference::RequestPermit,
    service::{Content, ModelSelection, NewPrediction, Predictor},
};

/// An image as it was sent.
pub(in crate::http) struct File {
    pub(in crate::http) name: Option<String>,
    /// The image, or the reason why it is none.
    pub(in crate::http) content: Result<Content, ApiError>,
}

/// The outcome for one file.
pub(in crate::http) struct FileResult {
    /// Position in the request, from 0.
    pub(in crate::http) index: usize,
    pub(super) file_name: Option<String>,
    pub(in crate::http) outcome: Result<NewPrediction, ApiError>,
}

/// Reads the images of a request one after the other, and classifies as many at once as it has permits for. Dropping it stops both.
pub(in crate::http) struct PredictionStream {
    predictor: Predictor,
    selection: Arc<ModelSelection>,
    files: BoxStream<'static, Result<File, ApiError>>,
    in_flight: FuturesUnordered<BoxFuture<'static, (FileResult, RequestPermit)>>,
    /// Permit of the next image: at first the request's own; while an image holds it, another one is requested.
    permit: Option<RequestPermit>,
    read: usize,
    all_read: bool,
    /// Failure of the request as a whole, reported last.
    failure: Option<ApiError>,
}

/// Each `file` of a form, read on demand.
pub(super) fn of_form(Form(form): Form) -> BoxStream<'static, Result<File, ApiError>> {
    stream::try_unfold(form, |mut form| async move {
        let Some(field) = form.next_field().await? else { return Ok(None) };
        let part = header_fields::part_name(field.headers());
        if part != "file" {
            return Err(ApiError::Invalid(vec![unknown_part(&part)]));
        }
        let name = header_fields::file_name(field.headers());
        let content = Ok(Content::Encoded(field.bytes().await?));
        Ok(Some((File { name, content }, form)))
    })
    .into_stream()
    .boxed()
}

impl PredictionStream {
    /// `permit` is the request's own, so that at least one image is always in flight.
    pub(in crate::http) fn new(
        predictor: Predictor,
        selection: ModelSelection,
        permit: RequestPermit,
        files: BoxStream<'static, Result<File, ApiError>>,
    ) -> Self {
        Self {
            predictor,
            selection: Arc::new(selection),
            files,
            in_flight: FuturesUnordered::new(),
            permit: Some(permit),
            failure: None,
            read: 0,
            all_read: false,
        }
    }

    /// The next finished image, in any order; an error is the request's own and the last item.
    pub(in crate::http) async fn next(&mut self) -> Option<Result<FileResult, ApiError>> {
        loop {
            self.request_permit();
            let may_read = !self.all_read && self.permit.is_some();
            tokio::select! {
                Some((result, permit)) = self.in_flight.next() => {
                    self.permit = self.permit.take().or(Some(permit)).filter(|_| !self.all_read);
                    return Some(Ok(result));
                }
                file = self.files.next(), if may_read => match file {
                    Some(Ok(file)) => self.begin(file),
                    Some(Err(error)) => self.end_with(Some(error)),
                    None => self.end_with(None),
                },
                else => return self.failure.take().map(Err),
            }
        }
    }

    /// Stops reading; images in flight are still returned.
    fn end_with(&mut self, failure: Option<ApiError>) {
        self.all_read = true;
        self.permit = None;
        self.failure = failure;
    }

    /// Requests one more permit while all are in use, if a batch still has room.
    fn request_permit(&mut self) {
        let engine = self.predictor.engine();
        if self.permit.is_none() && !self.all_read && self.in_flight.len() < engine.max_batch_size() {
            self.permit = engine.admit_another();
        }
    }

    fn begin(&mut self, File { name, content }: File) {
        let permit = self.permit.take().expect("a file is read only with a permit");
        let (predictor, selection, index) = (self.predictor.clone(), Arc::clone(&self.selection), self.read);
        self.read += 1;
        self.in_flight.push(Box::pin(async move {
            let outcome = match content {
                Ok(content) => predictor.predict(&selection, content).await.map_err(ApiError::from),
                Err(error) => Err(error),
            };
            (FileResult { index, file_name: name, outcome }, permit)
        }));
    }
}
