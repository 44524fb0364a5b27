//! The images of one request on their way to their answers: several at once where there is room, each with a place of its own.

use std::sync::Arc;

use futures_util::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};

use super::{
    answer::PredictionAnswer,
    classify::{Content, Wanted, classify},
};
use crate::{
    http::{ApiError, AppState, extract::Form},
    inference::RequestPermit,
};

/// An image as it was sent.
pub(in crate::http) struct File {
    pub(in crate::http) name: Option<String>,
    pub(in crate::http) content: Content,
}

/// What became of an image.
pub(in crate::http) struct Answered {
    /// Its place in the request, from 0.
    pub(in crate::http) index: usize,
    pub(super) file_name: Option<String>,
    pub(in crate::http) outcome: Result<PredictionAnswer, ApiError>,
}

/// Reads the images of a request one after the other, and classifies as many at once as it has places for. Dropped, it stops both.
pub(in crate::http) struct Files {
    state: AppState,
    wanted: Arc<Wanted>,
    incoming: BoxStream<'static, Result<File, ApiError>>,
    under_way: FuturesUnordered<BoxFuture<'static, (Answered, RequestPermit)>>,
    /// For the next image. The request's own at first; while an image has it, another one is asked for.
    place: Option<RequestPermit>,
    read: usize,
    all_read: bool,
    /// What was wrong with the request, to be told last.
    failure: Option<ApiError>,
}

/// Each `file` of a form, read as it is asked for.
pub(super) fn of_form(Form(form): Form) -> BoxStream<'static, Result<File, ApiError>> {
    stream::try_unfold(form, |mut form| async move {
        let Some(field) = form.next_field().await? else { return Ok(None) };
        if field.name() != Some("file") {
            let name = field.name().unwrap_or_default();
            return Err(ApiError::invalid(&format!("/{name}"), "the form takes `file` alone, once or repeated"));
        }
        let name = field.file_name().map(str::to_owned);
        let content = Content::Encoded(field.bytes().await?);
        Ok(Some((File { name, content }, form)))
    })
    .into_stream()
    .boxed()
}

impl Files {
    /// `place` is the request's: it always has at least one, so that it always goes on.
    pub(in crate::http) fn new(
        state: AppState,
        wanted: Wanted,
        place: RequestPermit,
        incoming: BoxStream<'static, Result<File, ApiError>>,
    ) -> Self {
        let wanted = Arc::new(wanted);
        Self {
            state,
            wanted,
            incoming,
            under_way: FuturesUnordered::new(),
            place: Some(place),
            failure: None,
            read: 0,
            all_read: false,
        }
    }

    /// The next image that is done, in whatever order; an error is the request's own and its last.
    pub(in crate::http) async fn next(&mut self) -> Option<Result<Answered, ApiError>> {
        loop {
            self.find_place();
            let may_read = !self.all_read && self.place.is_some();
            tokio::select! {
                Some((answered, place)) = self.under_way.next() => {
                    self.place = self.place.take().or(Some(place)).filter(|_| !self.all_read);
                    return Some(Ok(answered));
                }
                file = self.incoming.next(), if may_read => match file {
                    Some(Ok(file)) => self.begin(file),
                    Some(Err(error)) => self.end_with(Some(error)),
                    None => self.end_with(None),
                },
                else => return self.failure.take().map(Err),
            }
        }
    }

    /// Reads no more; what was read is still answered.
    fn end_with(&mut self, failure: Option<ApiError>) {
        self.all_read = true;
        self.place = None;
        self.failure = failure;
    }

    /// While all of its places are taken, one more if there is room, and if a batch has use for it.
    fn find_place(&mut self) {
        let engine = &self.state.engine;
        if self.place.is_none() && !self.all_read && self.under_way.len() < engine.max_batch_size() {
            self.place = engine.admit_another();
        }
    }

    fn begin(&mut self, File { name, content }: File) {
        let place = self.place.take().expect("it is read only with a place");
        let (state, wanted, index) = (self.state.clone(), Arc::clone(&self.wanted), self.read);
        self.read += 1;
        self.under_way.push(Box::pin(async move {
            let outcome = classify(&state, &wanted, content).await;
            (Answered { index, file_name: name, outcome }, place)
        }));
    }
}
