//! W3C Trace Context: the trace that a request belongs to, from its `traceparent` header, or a new trace.

use std::collections::HashMap;

use axum::http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context, TraceFlags,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, TraceContextExt, TraceState},
};
use opentelemetry_sdk::{
    propagation::TraceContextPropagator,
    trace::{IdGenerator, RandomIdGenerator},
};

use crate::metrics::RequestSpan;

const TRACE_PARENT: &str = "traceparent";

/// Length of a `traceparent` of version 00. Later versions may append fields.
const TRACE_PARENT_LENGTH: usize = "00-00000000000000000000000000000000-0000000000000000-00".len();

/// The trace of a request and the request's own span in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TraceContext {
    span: SpanContext,
    parent: Option<SpanContext>,
}

impl TraceContext {
    /// Continues the trace of the client. Without a valid `traceparent` header it starts a new trace that is not sampled.
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let parent = extract(headers);
        let ids = RandomIdGenerator::default();
        let (trace_id, flags, state) = match &parent {
            Some(parent) => (parent.trace_id(), parent.trace_flags(), parent.trace_state().clone()),
            None => (ids.new_trace_id(), TraceFlags::NOT_SAMPLED, TraceState::NONE),
        };
        Self { span: SpanContext::new(trace_id, ids.new_span_id(), flags, false, state), parent }
    }

    /// The client's span, if it sent one.
    pub(super) fn parent(&self) -> Option<&SpanContext> {
        self.parent.as_ref()
    }

    /// Takes over the ids and flags of the exported span.
    pub(super) fn adopt(&mut self, exported: &RequestSpan) {
        self.span = exported.context().clone();
    }

    /// 32 hexadecimal digits.
    pub(super) fn trace_id(&self) -> String {
        self.span.trace_id().to_string()
    }

    /// 16 hexadecimal digits.
    pub(super) fn span_id(&self) -> String {
        self.span.span_id().to_string()
    }

    /// The request's span in the format of `traceparent`, for the `traceresponse` header.
    pub(super) fn to_header(&self) -> HeaderValue {
        let mut headers = HashMap::new();
        let context = Context::new().with_remote_span_context(self.span.clone());
        TraceContextPropagator::new().inject_context(&context, &mut headers);
        let value = headers.remove(TRACE_PARENT).expect("the ids of a span are valid");
        HeaderValue::try_from(value).expect("hexadecimal digits and hyphens")
    }
}

/// The client's span. The propagator tolerates fields of other lengths, which the standard does not.
fn extract(headers: &HeaderMap) -> Option<SpanContext> {
    let headers = Headers(headers);
    let header = headers.get(TRACE_PARENT)?.as_bytes();
    // Only later versions may append fields.
    let valid_length = match header.get(TRACE_PARENT_LENGTH) {
        None => header.len() == TRACE_PARENT_LENGTH,
        Some(next) => *next == b'-' && !header.starts_with(b"00"),
    };
    if !valid_length {
        return None;
    }
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    Some(context.span().span_context().clone()).filter(SpanContext::is_valid)
}

/// Request headers for a propagator. A header that is sent more than once counts as missing.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.0.get_all(key).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn trace_of(headers: &[&str]) -> TraceContext {
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(TRACE_PARENT, HeaderValue::from_str(value).unwrap());
        }
        TraceContext::from_headers(&map)
    }

    #[test]
    fn continues_the_trace_of_the_client_with_a_new_span() {
        let trace = trace_of(&[&format!("00-{TRACE}-{PARENT}-01")]);
        assert_eq!(trace.trace_id(), TRACE);
        assert_ne!(trace.span_id(), PARENT);
        assert_eq!(trace.to_header(), format!("00-{TRACE}-{}-01", trace.span_id()));
        assert!(trace.parent().is_some_and(|parent| parent.span_id().to_string() == PARENT && parent.is_sampled()));
        assert_eq!(trace_of(&[&format!("cc-{TRACE}-{PARENT}-01-more")]).trace_id(), TRACE, "a later version");
    }

    #[test]
    fn reads_the_sampled_flag_and_ignores_the_others() {
        for (flags, sampled) in [("00", false), ("01", true), ("02", false), ("03", true), ("ff", true)] {
            let trace = trace_of(&[&format!("00-{TRACE}-{PARENT}-{flags}")]);
            assert_eq!((trace.trace_id().as_str(), trace.span.is_sampled()), (TRACE, sampled), "{flags}");
        }
    }

    #[test]
    fn starts_a_new_trace_without_a_valid_header() {
        let zeros = "0".repeat(32);
        let invalid = [
            String::new(),
            "nonsense".into(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}-01-"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-1"),
        ];
        for header in &invalid {
            let trace = trace_of(&[header]);
            assert!(trace.span.is_valid() && trace.trace_id() != TRACE, "{header}");
            assert!(trace.parent().is_none() && !trace.span.is_sampled(), "{header}");
        }
        let valid = format!("00-{TRACE}-{PARENT}-01");
        assert_ne!(trace_of(&[&valid, &valid]).trace_id(), TRACE, "sent twice");
        assert_ne!(trace_of(&[]).trace_id(), trace_of(&[]).trace_id(), "each request has its own trace");
    }
}
