//! W3C Trace Context: the trace that a request belongs to, from `traceparent`, or a new one.

use axum::http::{HeaderMap, HeaderValue};
use uuid::Uuid;

use crate::metrics::{ParentSpan, RequestSpan};

const TRACE_PARENT: &str = "traceparent";

/// Which trace a request belongs to, and its own place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TraceContext {
    /// 32 lower-case hexadecimal digits, not all zero.
    trace_id: String,
    /// 16 of them.
    span_id: String,
    /// Two of them, as sent.
    flags: String,
    /// The client's place in the trace, where it sent one.
    parent_id: Option<String>,
}

impl TraceContext {
    /// What the client sent; a header that is not as it should be is as none, and begins a new trace.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut sent = headers.get_all(TRACE_PARENT).iter();
        let only = match (sent.next(), sent.next()) {
            (Some(only), None) => only.to_str().ok(),
            _ => None,
        };
        match only.and_then(parse) {
            Some((trace_id, parent_id, flags)) => Self {
                trace_id: trace_id.to_owned(),
                span_id: span_id(),
                flags: flags.to_owned(),
                parent_id: Some(parent_id.to_owned()),
            },
            None => Self {
                trace_id: Uuid::now_v7().simple().to_string(),
                span_id: span_id(),
                flags: "00".to_owned(),
                parent_id: None,
            },
        }
    }

    /// What the client said of its own part.
    pub(super) fn parent(&self) -> Option<ParentSpan<'_>> {
        let sampled = u8::from_str_radix(&self.flags, 16).is_ok_and(|flags| flags & 1 == 1);
        Some(ParentSpan { trace_id: &self.trace_id, span_id: self.parent_id.as_deref()?, sampled })
    }

    /// Takes the names under which the collector gets the request.
    pub(super) fn adopt(&mut self, exported: &RequestSpan) {
        (self.trace_id, self.span_id) = (exported.trace_id(), exported.span_id());
        self.flags = if exported.is_sampled() { "01" } else { "00" }.to_owned();
    }

    pub(super) fn id(&self) -> &str {
        &self.trace_id
    }

    pub(super) fn span_id(&self) -> &str {
        &self.span_id
    }

    /// The trace with the server's own place in it.
    pub(super) fn answer(&self) -> HeaderValue {
        let Self { trace_id, span_id, flags, .. } = self;
        HeaderValue::try_from(format!("00-{trace_id}-{span_id}-{flags}")).expect("hexadecimal digits and hyphens")
    }
}

/// The random half of an identifier; its first bits, the variant, keep it from being zero.
fn span_id() -> String {
    let (_, random) = Uuid::now_v7().as_u64_pair();
    format!("{random:016x}")
}

/// `version-trace-parent-flags`: without the version. Versions above 00 may have more behind them.
fn parse(text: &str) -> Option<(&str, &str, &str)> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let whole = version != "00" || parts.next().is_none();
    let good = is_hex(version, 2) && version != "ff" && is_hex(flags, 2) && is_id(trace, 32) && is_id(parent, 16);
    (good && whole).then_some((trace, parent, flags))
}

fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|digit| digit != b'0')
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    fn of(sent: &[&str]) -> TraceContext {
        let mut headers = HeaderMap::new();
        for value in sent {
            headers.append(TRACE_PARENT, HeaderValue::from_str(value).unwrap());
        }
        TraceContext::of(&headers)
    }

    #[test]
    fn a_trace_that_was_begun_goes_on_under_a_new_span() {
        let trace = of(&[&format!("00-{TRACE}-{PARENT}-01")]);
        assert_eq!((trace.id(), trace.flags.as_str()), (TRACE, "01"));
        assert_ne!(trace.span_id(), PARENT);
        assert_eq!(trace.answer(), format!("00-{TRACE}-{}-01", trace.span_id()));
        assert_eq!(parse(trace.answer().to_str().unwrap()), Some((TRACE, trace.span_id(), "01")));
        assert!(trace.parent().is_some_and(|parent| parent.span_id == PARENT && parent.sampled));
        assert_eq!(of(&[&format!("cc-{TRACE}-{PARENT}-01-more")]).id(), TRACE, "a later version");
    }

    #[test]
    fn what_is_no_trace_begins_a_new_one() {
        let zeros = "0".repeat(32);
        let bad = [
            String::new(),
            "nonsense".into(),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-1"),
        ];
        for sent in &bad {
            let trace = of(&[sent]);
            assert!(is_id(trace.id(), 32) && trace.id() != TRACE, "{sent}");
        }
        let good = format!("00-{TRACE}-{PARENT}-01");
        assert_ne!(of(&[&good, &good]).id(), TRACE, "two of them");
        assert_ne!(of(&[]), of(&[]), "each has its own");
    }
}
