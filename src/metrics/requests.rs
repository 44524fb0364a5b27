//! Requests over HTTP.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::SECONDS;

/// The method (one of those that HTTP defines, or `other`) and the template of the path, such as `/v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    method: &'static str,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

/// What is measured of requests.
#[derive(Clone, Debug)]
pub struct Requests {
    answered: Family<Answered, Counter>,
    durations: Family<Asked, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
}

/// A request between its head and the end of its answer; counted until it is dropped.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Requests {
    pub(super) fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS.into_iter().chain([30.0, 60.0]));
        let durations = Family::new_with_constructor(histogram);
        Self { answered: Family::default(), durations, in_flight: Gauge::default() }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { answered, durations, in_flight } = self.clone();
        registry.register(
            "thorax_http_requests",
            "Requests answered, by method, template of the path and status",
            answered,
        );
        registry.register(
            "thorax_http_request_duration_seconds",
            "From the head of a request to the head of its answer",
            durations,
        );
        registry.register(
            "thorax_http_requests_in_flight",
            "Requests whose answer has not ended, streams among them",
            in_flight,
        );
    }

    /// A request begins.
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// A request has its answer. `route` is the template of its path and not the path, so that there are never more series than routes.
    pub fn answered(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let route = route.to_owned();
        self.durations.get_or_create(&Asked { method, route: route.clone() }).observe(took.as_secs_f64());
        self.answered.get_or_create(&Answered { method, route, status }).inc();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
