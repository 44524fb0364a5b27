//! Metrics of HTTP requests.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::SECONDS;

/// Method (a standard HTTP method, or `other`) and route template, such as `/v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    method: &'static str,
    route: String,
    status: u16,
}

/// Metrics of HTTP requests.
#[derive(Clone, Debug)]
pub struct Requests {
    responses: Family<ResponseLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge,
}

/// Guard of a request in flight, from its head to the end of the response body.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Requests {
    pub(super) fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS.into_iter().chain([30.0, 60.0]));
        let durations = Family::new_with_constructor(histogram);
        Self { responses: Family::default(), durations, in_flight: Gauge::default() }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { responses, durations, in_flight } = self.clone();
        registry.register("thorax_http_requests", "HTTP requests, by method, route template and status", responses);
        registry.register(
            "thorax_http_request_duration_seconds",
            "Duration from request head to response head",
            durations,
        );
        registry.register(
            "thorax_http_requests_in_flight",
            "HTTP requests whose response body is not finished, including streams",
            in_flight,
        );
    }

    /// Counts a request into flight.
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Records a response. `route` is the route template, not the path, so that the number of series is bounded.
    pub fn answered(&self, method: &'static str, route: &str, status: u16, took: Duration) {
        let route = route.to_owned();
        self.durations.get_or_create(&RouteLabels { method, route: route.clone() }).observe(took.as_secs_f64());
        self.responses.get_or_create(&ResponseLabels { method, route, status }).inc();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
