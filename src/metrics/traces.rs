//! OpenTelemetry spans of requests, exported over OTLP/HTTP when a collector is configured.

use std::time::Duration;

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Span, SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer, TracerProvider},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};

/// Timeout for the export of the last spans at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Span exporter; without a collector no spans are created.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Exporter>);

#[derive(Clone, Debug)]
struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// Trace context sent by the client (W3C `traceparent`).
#[derive(Clone, Copy, Debug)]
pub struct ParentSpan<'a> {
    /// Trace id, 32 hexadecimal digits.
    pub trace_id: &'a str,
    /// Span id, 16 hexadecimal digits.
    pub span_id: &'a str,
    /// True if the client records its part of the trace; otherwise this request is not recorded either.
    pub sampled: bool,
}

/// Span of a request in progress.
#[derive(Debug)]
pub struct RequestSpan(opentelemetry_sdk::trace::Span);

impl Traces {
    /// Exports to the collector at `endpoint`, such as `http://127.0.0.1:4318`. A background thread sends spans in batches to its
    /// `/v1/traces`, so that no request waits for the export.
    ///
    /// # Errors
    /// When `endpoint` is not a valid URL.
    pub fn to(endpoint: &str) -> Result<Self, ExporterBuildError> {
        let endpoint = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build()?;
        let resource = Resource::builder()
            .with_service_name("thorax")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("thorax");
        Ok(Self(Some(Exporter { provider, tracer })))
    }

    /// Starts the span of a request, as a child of `parent` if there is one.
    pub fn begin(&self, parent: Option<ParentSpan<'_>>, method: &str, route: &str) -> Option<RequestSpan> {
        let Exporter { tracer, .. } = self.0.as_ref()?;
        let remote = parent.and_then(|ParentSpan { trace_id, span_id, sampled }| {
            let (trace, span) = (TraceId::from_hex(trace_id).ok()?, SpanId::from_hex(span_id).ok()?);
            let flags = TraceFlags::default().with_sampled(sampled);
            Some(SpanContext::new(trace, span, flags, true, TraceState::default()))
        });
        let context = remote.map_or_else(Context::new, |remote| Context::new().with_remote_span_context(remote));
        let span = tracer
            .span_builder(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .start_with_context(tracer, &context);
        Some(RequestSpan(span))
    }

    /// Exports the remaining spans. Blocks for at most two seconds.
    pub fn close(&self) {
        let Some(Exporter { provider, .. }) = &self.0 else { return };
        if let Err(error) = provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT) {
            tracing::warn!(%error, "the last spans could not be exported");
        }
    }
}

impl RequestSpan {
    /// Trace id, 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        self.0.span_context().trace_id().to_string()
    }

    /// Span id, 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        self.0.span_context().span_id().to_string()
    }

    /// True if the span is exported.
    pub fn is_sampled(&self) -> bool {
        self.0.span_context().is_sampled()
    }

    /// Ends the span. Attribute names follow the OpenTelemetry semantic conventions for HTTP.
    pub fn end(mut self, method: &'static str, route: &str, status: u16) {
        self.0.set_attribute(KeyValue::new("http.request.method", method));
        self.0.set_attribute(KeyValue::new("http.route", route.to_owned()));
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            self.0.set_status(Status::error("internal server error"));
        }
        self.0.end();
    }
}
