//! Metrics of connections and TLS.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::Label;

/// Reason for which the server closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It was idle, and made room for another one.
    Evicted,
    /// The TLS handshake or a request head took too long.
    HeadTimeout,
    /// No request came within the keep-alive timeout.
    Idle,
    /// The client did not take its response.
    Unread,
    /// There was no room for it.
    Refused,
}

impl Closed {
    const ALL: [Self; 5] = [Self::Evicted, Self::HeadTimeout, Self::Idle, Self::Unread, Self::Refused];

    fn label(self) -> Label {
        let reason = match self {
            Self::Evicted => "evicted",
            Self::HeadTimeout => "head_timeout",
            Self::Idle => "idle",
            Self::Unread => "unread",
            Self::Refused => "refused",
        };
        [("reason", reason)]
    }
}

/// Metrics of connections and TLS.
#[derive(Clone, Debug)]
pub struct Connections {
    open: Gauge,
    max: Gauge,
    reserved: Counter,
    closed: Family<Label, Counter>,
    failed_handshakes: Counter,
    reloads: Family<Label, Counter>,
}

impl Connections {
    /// Metrics of a server without connections.
    pub fn new() -> Self {
        let metrics = Self {
            open: Gauge::default(),
            max: Gauge::default(),
            reserved: Counter::default(),
            closed: Family::default(),
            failed_handshakes: Counter::default(),
            reloads: Family::default(),
        };
        for reason in Closed::ALL {
            drop(metrics.closed.get_or_create(&reason.label()));
        }
        for succeeded in [true, false] {
            drop(metrics.reloads.get_or_create(&outcome(succeeded)));
        }
        metrics
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let Self { open, max, reserved, closed, failed_handshakes, reloads } = self.clone();
        registry.register("thorax_connections", "Open connections", open);
        registry.register(
            "thorax_connections_max",
            "Maximum number of open connections, without the reserved ones",
            max,
        );
        registry.register(
            "thorax_connections_reserved",
            "Connections beyond the maximum, which get a probe answered or 503",
            reserved,
        );
        registry.register("thorax_connections_closed", "Connections that the server closed, by reason", closed);
        registry.register("thorax_tls_handshakes_failed", "TLS handshakes that failed", failed_handshakes);
        registry.register(
            "thorax_tls_certificate_reloads",
            "Reloads of changed certificate files, by outcome",
            reloads,
        );
    }

    /// Sets the maximum number of connections.
    pub fn set_max(&self, max: usize) {
        self.max.set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    /// Counts a connection.
    pub fn opened(&self, is_reserved: bool) {
        self.open.inc();
        if is_reserved {
            self.reserved.inc();
        }
    }

    /// Counts the end of a connection.
    pub fn ended(&self) {
        self.open.dec();
    }

    /// Counts a connection that the server closes.
    pub fn closed(&self, reason: Closed) {
        self.closed.get_or_create(&reason.label()).inc();
    }

    /// Counts a failed handshake.
    pub fn handshake_failed(&self) {
        self.failed_handshakes.inc();
    }

    /// Counts a reload of the certificate.
    pub fn reloaded(&self, succeeded: bool) {
        self.reloads.get_or_create(&outcome(succeeded)).inc();
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self::new()
    }
}

fn outcome(succeeded: bool) -> Label {
    [("outcome", if succeeded { "succeeded" } else { "failed" })]
}
