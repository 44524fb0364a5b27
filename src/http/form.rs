//! Multipart bodies, read part by part. The number of parts, their heads, and the memory of the parser are bounded.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::BodyDataStream,
    extract::{FromRequest, Request},
    http::header,
};
use bytes::Bytes;
use encoding_rs::{Encoding, UTF_8};
use futures_util::{Stream, StreamExt};

use super::{
    ApiError,
    body::{self, BodyError, Receipt, Received, Receiver, declared_length},
    header_fields,
    transfers::Transfers,
};
use crate::service::FieldError;

/// Maximum size of the head of a part, and of the text before the first part, in bytes.
const MAX_HEAD_BYTES: u64 = 64 << 10;

/// Maximum size of a text field, in bytes.
const MAX_TEXT_BYTES: u64 = 64 << 10;

/// A multipart body.
pub(super) struct Form {
    parts: multer::Multipart<'static>,
    progress: Progress,
    transfers: Transfers,
    max_part_bytes: u64,
    declared: Option<u64>,
    parts_read: u32,
}

/// A part of a form.
pub(super) struct Part {
    field: multer::Field<'static>,
    transfers: Transfers,
    max_bytes: u64,
}

/// Limits on the size of a form and of each part, in bytes.
#[derive(Clone, Copy)]
pub(super) struct FormLimits {
    pub(super) form: u64,
    pub(super) part: u64,
}

impl Form {
    /// The form of a request whose media type is `multipart/form-data`.
    pub(super) fn of(request: Request, limits: FormLimits) -> Result<Self, ApiError> {
        let boundary = header_fields::parameter(request.headers(), header::CONTENT_TYPE, "boundary");
        let is_form = body::media_type(request.headers()) == "multipart/form-data";
        let boundary = boundary.filter(|boundary| is_form && !boundary.is_empty()).ok_or_else(|| {
            ApiError::UnsupportedType("send a form: Content-Type: multipart/form-data; boundary=…".into())
        })?;
        Self::with_boundary(request, boundary, limits)
    }

    /// The parts of a multipart body.
    pub(super) fn with_boundary(request: Request, boundary: String, limits: FormLimits) -> Result<Self, ApiError> {
        let transfers = Receipt::of(&request)?.transfers;
        let declared = declared_length(&request);
        if declared.is_some_and(|declared| declared > limits.form) {
            return Err(BodyError::TooLarge(limits.form).into());
        }
        let progress = Progress::default();
        let body = request.into_body().into_data_stream();
        let chunks = Chunks { body, progress: progress.clone(), limit: limits.form, is_paused: false };
        let parts = multer::Multipart::new(chunks, boundary);
        Ok(Self { parts, progress, transfers, max_part_bytes: limits.part, declared, parts_read: 0 })
    }

    /// The next part; `None` after the last one. A part must be read, or is skipped.
    pub(super) async fn next_part(&mut self) -> Result<Option<Part>, ApiError> {
        let max_parts = self.transfers.limits.max_form_parts;
        self.progress.begin_head();
        let field = self.parts.next_field().await.map_err(|error| invalid(&error))?;
        self.progress.end_head();
        let Some(field) = field else { return Ok(None) };
        self.parts_read += 1;
        if self.parts_read > max_parts {
            return Err(ApiError::TooLarge(format!(
                "the form has more than {max_parts} parts (THORAX_MAX_FORM_PARTS): send it in several requests"
            )));
        }
        let max_bytes = self.declared.unwrap_or(u64::MAX).min(self.max_part_bytes);
        Ok(Some(Part { field, transfers: self.transfers.clone(), max_bytes }))
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = ApiError;

    /// A form of the size of an upload.
    async fn from_request(request: Request, _state: &S) -> Result<Self, ApiError> {
        let limit = Receipt::of(&request)?.max_upload_bytes();
        Self::of(request, FormLimits { form: limit, part: limit })
    }
}

impl Part {
    /// Name; empty if it has none.
    pub(super) fn name(&self) -> String {
        header_fields::part_name(self.field.headers())
    }

    /// File name, if it has one.
    pub(super) fn file_name(&self) -> Option<String> {
        header_fields::file_name(self.field.headers())
    }

    /// Receives the part.
    pub(super) async fn receive(self) -> Result<Received, ApiError> {
        let receiver = Receiver::new(&self.transfers, None, self.max_bytes)?;
        self.receive_by(receiver).await
    }

    /// Receives the part into a file.
    pub(super) async fn receive_file(self) -> Result<Received, ApiError> {
        let receiver = Receiver::in_file(&self.transfers, self.max_bytes).await?;
        self.receive_by(receiver).await
    }

    async fn receive_by(mut self, mut receiver: Receiver) -> Result<Received, ApiError> {
        while let Some(chunk) = self.field.chunk().await.map_err(|error| invalid(&error))? {
            receiver.push(&chunk).await?;
        }
        receiver.finish().await
    }

    /// The text of a field, in the character set that the part declares.
    pub(super) async fn text(mut self) -> Result<String, ApiError> {
        let name = self.name();
        let mut bytes = Vec::new();
        while let Some(chunk) = self.field.chunk().await.map_err(|error| invalid(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MAX_TEXT_BYTES {
                let error = FieldError::new(format!("/{name}"), format!("exceeds {MAX_TEXT_BYTES} bytes"));
                return Err(ApiError::Invalid(vec![error]));
            }
        }
        let declared = header_fields::parameter(self.field.headers(), header::CONTENT_TYPE, "charset");
        let encoding = declared.and_then(|name| Encoding::for_label(name.as_bytes())).unwrap_or(UTF_8);
        Ok(encoding.decode(&bytes).0.into_owned())
    }
}

fn invalid(error: &multer::Error) -> ApiError {
    match error {
        multer::Error::StreamReadFailed(cause) => ApiError::of_body(cause.as_ref()),
        _ => ApiError::Malformed(format!("invalid multipart body: {error}")),
    }
}

/// Number of bytes that the parser has received, and the number at which the head of a part is too long.
#[derive(Clone, Default)]
struct Progress {
    received: Arc<AtomicU64>,
    head_limit: Arc<AtomicU64>,
}

impl Progress {
    fn begin_head(&self) {
        self.head_limit.store(self.received.load(Ordering::Relaxed) + MAX_HEAD_BYTES, Ordering::Relaxed);
    }

    fn end_head(&self) {
        self.head_limit.store(u64::MAX, Ordering::Relaxed);
    }
}

/// The chunks of a body, one whenever the parser looks for more. The parser would buffer all that has arrived, without a limit.
struct Chunks {
    body: BodyDataStream,
    progress: Progress,
    limit: u64,
    is_paused: bool,
}

impl Stream for Chunks {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.is_paused) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let fail = |error: BodyError| Poll::Ready(Some(Err(axum::Error::new(error))));
        let received = self.progress.received.load(Ordering::Relaxed);
        if received > self.progress.head_limit.load(Ordering::Relaxed) {
            return fail(BodyError::PartHead(MAX_HEAD_BYTES));
        }
        let polled = self.body.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(chunk))) = &polled {
            let received = received + chunk.len() as u64;
            if received > self.limit {
                return fail(BodyError::TooLarge(self.limit));
            }
            self.progress.received.store(received, Ordering::Relaxed);
            self.is_paused = true;
        }
        polled
    }
}
