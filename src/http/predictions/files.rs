//! The images of one request and their predictions: several in flight where the engine has room, each under its own permit.

use std::sync::Arc;

use futures_util::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio_util::sync::CancellationToken;

use crate::{
    http::{
        ApiError,
        body::{self, Received},
        extract::unknown_part,
        form::Form,
    },
    inference::RequestPermit,
    service::{Content, ModelSelection, NewPrediction, Predictor},
};

/// An image as it was sent.
pub(in crate::http) struct File {
    pub(in crate::http) name: Option<String>,
    pub(in crate::http) content: FileContent,
}

/// The content of a file.
pub(in crate::http) enum FileContent {
    /// The body of a request.
    Body(Received),
    /// A part of a form.
    Part(Received),
    /// Read already.
    Read(Content),
}

impl FileContent {
    /// Reads the file, or says why it is no image.
    async fn read(self) -> Result<Content, ApiError> {
        match self {
            Self::Body(received) => body::check_image(received.load().await?).map(Content::Encoded),
            Self::Part(received) => received.load().await.map(Content::Encoded),
            Self::Read(content) => Ok(content),
        }
    }
}

/// The outcome for one file.
pub(in crate::http) struct FileResult {
    /// Position in the request, from 0.
    pub(in crate::http) index: usize,
    pub(super) file_name: Option<String>,
    pub(in crate::http) outcome: Result<NewPrediction, ApiError>,
}

/// Reads the images of a request one after the other, and classifies as many at once as it has permits for. Dropping it stops both.
///
/// While the client is slow, the request holds no permit: it receives one image at a time, which then waits for a permit. So clients that
/// stop in the middle of a body take nothing from others.
pub(in crate::http) struct PredictionStream {
    predictor: Predictor,
    selection: Arc<ModelSelection>,
    files: BoxStream<'static, Result<File, ApiError>>,
    in_flight: FuturesUnordered<BoxFuture<'static, (FileResult, Option<RequestPermit>)>>,
    /// Permit of the next image: at first the request's own; while an image holds it, another one is requested.
    permit: Option<RequestPermit>,
    /// Cancelled once the client is too slow to hold a permit.
    slow: CancellationToken,
    read: usize,
    all_read: bool,
    /// Failure of the request as a whole, reported last.
    failure: Option<ApiError>,
}

/// Each `file` of a form, read on demand.
pub(super) fn of_form(form: Form) -> BoxStream<'static, Result<File, ApiError>> {
    stream::try_unfold(form, |mut form| async move {
        let Some(part) = form.next_part().await? else { return Ok(None) };
        let part_name = part.name();
        if part_name != "file" {
            return Err(ApiError::Invalid(vec![unknown_part(&part_name)]));
        }
        let name = part.file_name();
        let content = FileContent::Part(part.receive().await?);
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
        slow: CancellationToken,
        files: BoxStream<'static, Result<File, ApiError>>,
    ) -> Self {
        Self {
            predictor,
            selection: Arc::new(selection),
            files,
            in_flight: FuturesUnordered::new(),
            permit: Some(permit),
            slow,
            failure: None,
            read: 0,
            all_read: false,
        }
    }

    /// The next finished image, in any order; an error is the request's own and the last item.
    pub(in crate::http) async fn next(&mut self) -> Option<Result<FileResult, ApiError>> {
        loop {
            self.request_permit();
            let holds_permit = !self.all_read && self.permit.is_some();
            let may_read = holds_permit || !self.all_read && self.slow.is_cancelled() && self.in_flight.is_empty();
            tokio::select! {
                Some((result, permit)) = self.in_flight.next() => {
                    let keep = !self.all_read && !self.slow.is_cancelled();
                    self.permit = self.permit.take().or(permit).filter(|_| keep);
                    return Some(Ok(result));
                }
                () = self.slow.cancelled(), if holds_permit => self.permit = None,
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
        if self.permit.is_none()
            && !self.all_read
            && !self.slow.is_cancelled()
            && self.in_flight.len() < engine.max_batch_size()
        {
            self.permit = engine.admit_another();
        }
    }

    fn begin(&mut self, File { name, content }: File) {
        let permit = self.permit.take();
        let (predictor, selection, index) = (self.predictor.clone(), Arc::clone(&self.selection), self.read);
        self.read += 1;
        self.in_flight.push(Box::pin(async move {
            let (outcome, permit) = match admitted(&predictor, permit).await {
                Ok(permit) => (predict(&predictor, &selection, content).await, Some(permit)),
                Err(error) => (Err(error), None),
            };
            (FileResult { index, file_name: name, outcome }, permit)
        }));
    }
}

/// The permit, or another one where the request has given its own away.
async fn admitted(predictor: &Predictor, permit: Option<RequestPermit>) -> Result<RequestPermit, ApiError> {
    match permit {
        Some(permit) => Ok(permit),
        None => Ok(predictor.engine().admit_later().await?),
    }
}

async fn predict(
    predictor: &Predictor,
    selection: &ModelSelection,
    content: FileContent,
) -> Result<NewPrediction, ApiError> {
    Ok(predictor.predict(selection, content.read().await?).await?)
}
