//! Requests as spans of OpenTelemetry, sent to a collector by OTLP over HTTP where the operator names one.

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

/// How long the end of the server waits for the last spans to be sent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where spans go; without a collector they are not made.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Exported>);

#[derive(Clone, Debug)]
struct Exported {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// What a client said of the trace that its request belongs to: hexadecimal digits.
#[derive(Clone, Copy, Debug)]
pub struct ParentSpan<'a> {
    /// 32 of them.
    pub trace_id: &'a str,
    /// 16 of them.
    pub span_id: &'a str,
    /// Whether the client has its own part of the trace recorded; if not, neither is this.
    pub sampled: bool,
}

/// A request that goes on.
#[derive(Debug)]
pub struct RequestSpan(opentelemetry_sdk::trace::Span);

impl Traces {
    /// To the collector at `endpoint`, such as `http://127.0.0.1:4318`; spans go to `/v1/traces` there, in batches, from a thread that
    /// no request waits for.
    ///
    /// # Errors
    /// When the address is none.
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
        Ok(Self(Some(Exported { provider, tracer })))
    }

    /// A request begins.
    pub fn begin(&self, parent: Option<ParentSpan<'_>>, method: &str, route: &str) -> Option<RequestSpan> {
        let Exported { tracer, .. } = self.0.as_ref()?;
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

    /// Sends what is left. Blocks for two seconds at most.
    pub fn close(&self) {
        let Some(Exported { provider, .. }) = &self.0 else { return };
        if let Err(error) = provider.shutdown_with_timeout(PATIENCE) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

impl RequestSpan {
    /// Of its trace: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        self.0.span_context().trace_id().to_string()
    }

    /// Its own: 16 hexadecimal digits.
    pub fn span_id(&self) -> String {
        self.0.span_context().span_id().to_string()
    }

    /// Whether it is sent.
    pub fn is_sampled(&self) -> bool {
        self.0.span_context().is_sampled()
    }

    /// It has its answer. Names are those of the semantic conventions for HTTP.
    pub fn end(mut self, method: &'static str, route: &str, status: u16) {
        self.0.set_attribute(KeyValue::new("http.request.method", method));
        self.0.set_attribute(KeyValue::new("http.route", route.to_owned()));
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            self.0.set_status(Status::error("the server failed"));
        }
        self.0.end();
    }
}
