//! Requests as OpenTelemetry spans, exported to a collector by OTLP over HTTP if the operator configured one.

use std::time::Duration;

use opentelemetry::{
    Context, KeyValue,
    trace::{Span, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};

/// Timeout for exporting the last spans on shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Exporter of spans. Without a collector no spans are created.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Exporter>);

#[derive(Clone, Debug)]
struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// The span of a request in progress.
#[derive(Debug)]
pub struct RequestSpan(opentelemetry_sdk::trace::Span);

impl Traces {
    /// Exports to the collector at `endpoint`, such as `http://127.0.0.1:4318`. Spans are sent to `/v1/traces` there, in
    /// batches, from a background thread.
    ///
    /// # Errors
    /// If the endpoint is not a valid URL.
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

    /// Starts the span of a request; `None` without a collector. If the client's span `parent` is not sampled, neither is this.
    pub fn begin(&self, parent: Option<&SpanContext>, method: &str, route: &str) -> Option<RequestSpan> {
        let Exporter { tracer, .. } = self.0.as_ref()?;
        let context = Context::new();
        let context = match parent {
            Some(parent) => context.with_remote_span_context(parent.clone()),
            None => context,
        };
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
            tracing::warn!(%error, "cannot export the last traces");
        }
    }
}

impl RequestSpan {
    /// Trace id, span id and flags.
    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    /// Ends the span, with attributes named by OpenTelemetry's semantic conventions for HTTP.
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
