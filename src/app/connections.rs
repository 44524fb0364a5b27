//! The open connections: how many there may be, which one is closed when there are too many, and the deadlines of each.
//!
//! Descriptors are limited, and a client that holds connections holds descriptors. So there are two kinds of connections. *Regular* ones are
//! capped, in all and for each address. Beyond a cap, a new connection replaces the one that has been idle for longest: nobody can keep others
//! out by holding connections that do nothing. If every connection has a request in flight, the new one becomes one of a few *reserved* ones:
//! it gets a single exchange with short deadlines, in which probes are answered and other requests get 503. Beyond those it is closed.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    http::{ClientAddress, Pace},
    metrics::{Closed, Connections as Measured},
};

/// Maximum time of a reserved connection.
const MAX_RESERVED_TIME: Duration = Duration::from_secs(5);

/// Maximum time for closing an idle connection in order.
pub(super) const MAX_CLOSE_TIME: Duration = Duration::from_secs(2);

/// Age from which a connection is closed after its current requests, so that clients come to use a renewed certificate, and return to the
/// load balancer.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Maximum number of bytes of a response in the buffers of the HTTP layer.
pub(super) const MAX_SEND_BUFFER_BYTES: usize = 64 << 10;

/// Interval of the checks of deadlines.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Limits on connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Number of regular connections.
    pub(super) max: usize,
    /// Number of regular connections of an address.
    pub(super) max_per_address: usize,
    /// Number of reserved connections.
    pub(super) reserved: usize,
    /// Time for the TLS handshake, and for a request head.
    pub(super) head_timeout: Duration,
    /// Time between two requests.
    pub(super) keep_alive: Duration,
    /// Pace at which clients must read responses.
    pub(super) read_pace: Pace,
}

/// All open connections of a server.
pub(super) struct Connections {
    limits: Limits,
    measured: Measured,
    next_id: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Notified when a connection has closed.
    closed: Notify,
}

/// An open connection.
pub(super) struct Connection {
    is_reserved: bool,
    /// Address or network that the cap counts; `None` if it does not apply.
    group: Option<IpAddr>,
    accepted: Instant,
    read_pace: Pace,
    activity: Mutex<Activity>,
    is_evicted: AtomicBool,
    finish: CancellationToken,
    abort: CancellationToken,
}

/// Registration of an open connection, until it is dropped.
pub(super) struct Registration {
    connections: Arc<Connections>,
    connection: Arc<Connection>,
    id: u64,
}

/// Current state of a connection.
struct Activity {
    /// Number of requests whose response has not ended.
    in_flight: usize,
    /// Responses of which the next part waits for the client, and until when it may.
    unread: HashMap<u64, Instant>,
    next_response: u64,
    /// True while bytes wait for the client in the buffers of the connection.
    is_blocked: bool,
    /// Start of the time without a request.
    idle_since: Instant,
    /// Start of an unfinished head, or of waiting for the first one.
    head_since: Option<Instant>,
    /// With HTTP/2, bytes that arrive need not belong to a head.
    is_http2: bool,
    finishing_since: Option<Instant>,
}

/// A request in flight, until its response has ended.
pub(super) struct InFlight {
    connection: Arc<Connection>,
    response: u64,
}

/// Decision on a connection at a check.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// Close it after the requests in flight.
    Finish(Option<Closed>),
    /// Close it at once.
    Abort(Option<Closed>),
}

impl Connections {
    pub(super) fn new(limits: Limits, measured: Measured) -> Arc<Self> {
        measured.set_max(limits.max);
        let (next_id, open, closed) = Default::default();
        Arc::new(Self { limits, measured, next_id, open, closed })
    }

    /// Registers a connection from `peer`; `None` if it must be closed at once. `is_exempt` exempts it from the cap of its address.
    ///
    /// Waits while a connection that makes room has not closed yet.
    pub(super) async fn register(self: &Arc<Self>, peer: Option<IpAddr>, is_exempt: bool) -> Option<Registration> {
        let group = peer.filter(|_| !is_exempt).map(|address| ClientAddress(address).network());
        let Some(is_reserved) = self.choose(group) else {
            self.measured.closed(Closed::Refused);
            return None;
        };
        let max_open = self.limits.max + self.limits.reserved;
        let room = async {
            loop {
                let closed = self.closed.notified();
                if self.open.lock().len() < max_open {
                    break;
                }
                closed.await;
            }
        };
        if tokio::time::timeout(MAX_CLOSE_TIME, room).await.is_err() {
            self.measured.closed(Closed::Refused);
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(is_reserved, group, self.limits.read_pace));
        self.open.lock().insert(id, Arc::clone(&connection));
        self.measured.opened(is_reserved);
        Some(Registration { connections: Arc::clone(self), connection, id })
    }

    /// Evicts the connection that has been idle for longest, if one is idle.
    pub(super) fn evict_idle(&self) -> bool {
        self.evict(|_| true)
    }

    /// Checks the deadlines of all connections, for ever.
    pub(super) async fn check_periodically(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK_INTERVAL).await;
            self.check(Instant::now());
        }
    }

    fn check(&self, now: Instant) {
        let open: Vec<_> = self.open.lock().values().cloned().collect();
        for connection in open {
            let reason = match connection.verdict(&self.limits, now) {
                Verdict::Keep => None,
                Verdict::Finish(reason) => {
                    connection.finish();
                    reason
                }
                Verdict::Abort(reason) => {
                    connection.abort.cancel();
                    reason
                }
            };
            if let Some(reason) = reason {
                self.measured.closed(reason);
            }
        }
    }

    /// Evicts a connection where a cap requires it. Returns whether the new connection is a reserved one; `None` if there is no room.
    fn choose(&self, group: Option<IpAddr>) -> Option<bool> {
        let (mut regular, mut reserved, mut of_group) = (0, 0, 0);
        for connection in self.open.lock().values().filter(|connection| !connection.is_evicted()) {
            if connection.is_reserved {
                reserved += 1;
            } else {
                regular += 1;
                of_group += usize::from(group.is_some() && connection.group == group);
            }
        }
        let is_regular = if group.is_some() && of_group >= self.limits.max_per_address {
            self.evict(|connection| !connection.is_reserved && connection.group == group)
        } else {
            regular < self.limits.max || self.evict(|connection| !connection.is_reserved)
        };
        if is_regular {
            return Some(false);
        }
        let is_reserved = reserved < self.limits.reserved || self.evict(|connection| connection.is_reserved);
        is_reserved.then_some(true)
    }

    fn evict(&self, may_be: impl Fn(&Connection) -> bool) -> bool {
        let open = self.open.lock();
        let candidates = open.values().filter(|connection| !connection.is_evicted() && may_be(connection));
        let idle = candidates.filter_map(|connection| Some((connection.idle_since()?, connection)));
        let Some((_, oldest)) = idle.min_by_key(|(since, _)| *since) else { return false };
        oldest.is_evicted.store(true, Ordering::Release);
        oldest.finish();
        self.measured.closed(Closed::Evicted);
        true
    }
}

impl Registration {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.open.lock().remove(&self.id);
        self.connections.measured.ended();
        self.connections.closed.notify_one();
    }
}

impl Connection {
    fn new(is_reserved: bool, group: Option<IpAddr>, read_pace: Pace) -> Self {
        let (abort, accepted) = (CancellationToken::new(), Instant::now());
        let activity = Activity {
            in_flight: 0,
            unread: HashMap::new(),
            next_response: 0,
            is_blocked: false,
            idle_since: accepted,
            head_since: Some(accepted),
            is_http2: false,
            finishing_since: None,
        };
        let (finish, activity) = (abort.child_token(), Mutex::new(activity));
        Self { is_reserved, group, accepted, read_pace, activity, is_evicted: AtomicBool::new(false), finish, abort }
    }

    /// True if the connection gets a single exchange, because the server has as many connections as it can take.
    pub(super) fn is_reserved(&self) -> bool {
        self.is_reserved
    }

    /// True if the connection makes room for another one.
    pub(super) fn is_evicted(&self) -> bool {
        self.is_evicted.load(Ordering::Acquire)
    }

    /// True if no request is in flight and no byte waits for the client.
    pub(super) fn is_idle(&self) -> bool {
        self.idle_since().is_some()
    }

    /// Closes the connection after the requests in flight.
    pub(super) fn finish(&self) {
        self.activity.lock().finishing_since.get_or_insert_with(Instant::now);
        self.finish.cancel();
    }

    /// Waits until the connection has to close after the requests in flight, or at once.
    pub(super) async fn finishing(&self) {
        self.finish.cancelled().await;
    }

    /// Waits until the connection has to close at once.
    pub(super) async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    /// Records that bytes arrived.
    pub(super) fn received(&self) {
        let mut activity = self.activity.lock();
        if activity.in_flight == 0 && !activity.is_http2 {
            activity.head_since.get_or_insert_with(Instant::now);
        }
    }

    /// Records whether bytes wait for the client in the buffers of the connection.
    pub(super) fn set_blocked(&self, is_blocked: bool) {
        let mut activity = self.activity.lock();
        activity.is_blocked = is_blocked;
        activity.idle_since = Instant::now();
    }

    /// Begins a request whose head has arrived.
    pub(super) fn begin(self: &Arc<Self>, is_http2: bool) -> InFlight {
        let mut activity = self.activity.lock();
        activity.in_flight += 1;
        activity.head_since = None;
        activity.is_http2 = is_http2;
        let response = activity.next_response;
        activity.next_response += 1;
        InFlight { connection: Arc::clone(self), response }
    }

    fn idle_since(&self) -> Option<Instant> {
        let activity = self.activity.lock();
        (activity.in_flight == 0 && !activity.is_blocked).then_some(activity.idle_since)
    }

    fn verdict(&self, limits: &Limits, now: Instant) -> Verdict {
        let activity = self.activity.lock();
        let is_over = |since: Instant, limit: Duration| now.saturating_duration_since(since) > limit;
        if activity.unread.values().any(|deadline| now > *deadline) {
            return Verdict::Abort(Some(Closed::Unread));
        }
        if self.is_reserved && is_over(self.accepted, MAX_RESERVED_TIME) {
            return Verdict::Abort(Some(Closed::HeadTimeout));
        }
        let is_idle = activity.in_flight == 0 && !activity.is_blocked;
        if let Some(since) = activity.finishing_since {
            let is_late = is_idle && is_over(since, MAX_CLOSE_TIME) && is_over(activity.idle_since, MAX_CLOSE_TIME);
            return if is_late { Verdict::Abort(None) } else { Verdict::Keep };
        }
        if is_idle {
            if activity.head_since.is_some_and(|since| is_over(since, limits.head_timeout)) {
                return Verdict::Abort(Some(Closed::HeadTimeout));
            }
            if is_over(activity.idle_since, limits.keep_alive) {
                return Verdict::Finish(Some(Closed::Idle));
            }
        }
        if is_over(self.accepted, MAX_AGE) { Verdict::Finish(None) } else { Verdict::Keep }
    }
}

impl InFlight {
    /// Records that the next part of the response waits until the client has taken enough of the bytes before it. `bytes` is the size
    /// of the part that has just been handed over.
    pub(super) fn wait_for_client(&self, bytes: usize) {
        let Pace { allowance, min_bytes_per_second, .. } = self.connection.read_pace;
        let buffered = (bytes + MAX_SEND_BUFFER_BYTES) as u64;
        let deadline = Instant::now() + allowance + Duration::from_secs(buffered / min_bytes_per_second);
        self.connection.activity.lock().unread.insert(self.response, deadline);
    }

    /// Records that the response waits for the server.
    pub(super) fn wait_for_server(&self) {
        self.connection.activity.lock().unread.remove(&self.response);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut activity = self.connection.activity.lock();
        activity.unread.remove(&self.response);
        activity.in_flight -= 1;
        activity.idle_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Allows 30 s, and 1 s for what is in the buffers.
    const PACE: Pace = Pace {
        allowance: Duration::from_secs(30),
        min_bytes_per_second: MAX_SEND_BUFFER_BYTES as u64,
        max_wait: Duration::MAX,
    };

    fn limits() -> Limits {
        Limits {
            max: 4,
            max_per_address: 2,
            reserved: 1,
            head_timeout: 10 * SECOND,
            keep_alive: 60 * SECOND,
            read_pace: PACE,
        }
    }

    fn connections() -> Arc<Connections> {
        Connections::new(limits(), Measured::new())
    }

    async fn register(connections: &Arc<Connections>, peer: &str) -> Registration {
        next_instant();
        connections.register(Some(peer.parse().unwrap()), peer == "127.0.0.1").await.expect("room")
    }

    /// Waits until the clock shows another time, so that the order of events is certain.
    fn next_instant() {
        let now = Instant::now();
        while Instant::now() == now {}
    }

    fn evicted(registrations: &[Registration]) -> Vec<bool> {
        registrations.iter().map(|registration| registration.connection.is_evicted()).collect()
    }

    #[tokio::test]
    async fn beyond_the_cap_a_new_connection_replaces_the_one_that_has_been_idle_for_longest() {
        let connections = connections();
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(register(&connections, "127.0.0.1").await);
        }
        let busy = open[0].connection.begin(false);
        next_instant();
        drop(open[1].connection.begin(false));
        open.push(register(&connections, "127.0.0.1").await);
        assert_eq!(evicted(&open), [false, false, true, false, false], "the first is busy, the second was used since");
        assert!(!open[4].connection.is_reserved());
        drop(open.remove(2));
        drop(busy);
        open.push(register(&connections, "127.0.0.1").await);
        assert_eq!(evicted(&open), [false, false, true, false, false], "the first has just ended its request");
    }

    #[tokio::test]
    async fn when_all_connections_are_busy_new_ones_are_reserved_and_then_closed() {
        let connections = connections();
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(register(&connections, "127.0.0.1").await);
        }
        let busy: Vec<_> = open.iter().map(|registration| registration.connection.begin(false)).collect();
        let reserved = register(&connections, "127.0.0.1").await;
        assert!(reserved.connection.is_reserved());
        let probe = reserved.connection.begin(false);
        assert!(connections.register(None, true).await.is_none(), "the reserved connection is in use");
        drop((probe, busy));
        assert!(!reserved.connection.is_evicted() && evicted(&open).iter().all(|evicted| !evicted));
    }

    #[tokio::test]
    async fn an_address_cannot_take_the_connections_of_others() {
        let connections = connections();
        let mut open = Vec::new();
        for peer in ["2001:db8::1", "2001:db8::2", "192.0.2.1"] {
            open.push(register(&connections, peer).await);
        }
        open.push(register(&connections, "2001:db8::3").await);
        assert_eq!(evicted(&open), [true, false, false, false], "one of the same network, although there is room");
        open.remove(0);
        let _busy = [open[0].connection.begin(false), open[2].connection.begin(false)];
        assert!(register(&connections, "2001:db8::4").await.connection.is_reserved());
        assert!(!register(&connections, "192.0.2.2").await.connection.is_reserved());
    }

    #[tokio::test]
    async fn a_connection_waits_until_the_one_that_makes_room_has_closed() {
        let connections = connections();
        let mut open = Vec::new();
        for _ in 0..5 {
            open.push(register(&connections, "127.0.0.1").await);
        }
        assert_eq!(evicted(&open).iter().filter(|evicted| **evicted).count(), 1);
        let waiting = tokio::spawn({
            let connections = Arc::clone(&connections);
            async move { connections.register(None, true).await.is_some() }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "five connections are open, and there may be five");
        open.remove(0);
        assert!(waiting.await.unwrap());
        let started = Instant::now();
        open.push(register(&connections, "127.0.0.1").await);
        assert!(connections.register(None, true).await.is_none() && started.elapsed() < 30 * SECOND, "not for ever");
    }

    /// The verdict after so many seconds.
    fn after(connection: &Connection, seconds: u32) -> Verdict {
        connection.verdict(&limits(), Instant::now() + seconds * SECOND)
    }

    #[tokio::test]
    async fn heads_and_the_time_between_requests_have_deadlines_of_their_own() {
        let connection = Arc::new(Connection::new(false, None, PACE));
        assert_eq!(
            (after(&connection, 9), after(&connection, 11)),
            (Verdict::Keep, Verdict::Abort(Some(Closed::HeadTimeout)))
        );
        let request = connection.begin(false);
        assert_eq!(after(&connection, 1000), Verdict::Keep, "a request may take longer");
        drop(request);
        assert_eq!(
            (after(&connection, 59), after(&connection, 61)),
            (Verdict::Keep, Verdict::Finish(Some(Closed::Idle)))
        );
        connection.received();
        assert_eq!(after(&connection, 11), Verdict::Abort(Some(Closed::HeadTimeout)), "the next head has begun");
        drop(connection.begin(true));
        connection.received();
        assert_eq!(
            (after(&connection, 11), after(&connection, 61)),
            (Verdict::Keep, Verdict::Finish(Some(Closed::Idle)))
        );
        connection.set_blocked(true);
        assert_eq!(after(&connection, 61), Verdict::Keep, "the response is being read");
        let _request = connection.begin(true);
        assert_eq!(after(&connection, 3601), Verdict::Finish(None));
    }

    #[tokio::test]
    async fn a_response_that_waits_for_its_client_ends_the_connection_and_a_slow_handler_does_not() {
        let connection = Arc::new(Connection::new(false, None, PACE));
        let request = connection.begin(true);
        request.wait_for_client(0);
        assert_eq!(
            (after(&connection, 30), after(&connection, 32)),
            (Verdict::Keep, Verdict::Abort(Some(Closed::Unread)))
        );
        request.wait_for_client(10 * MAX_SEND_BUFFER_BYTES);
        assert_eq!(after(&connection, 40), Verdict::Keep, "reading as much takes longer");
        request.wait_for_server();
        assert_eq!(after(&connection, 100), Verdict::Keep);
    }

    #[tokio::test]
    async fn reserved_and_finishing_connections_end_within_seconds() {
        let reserved = Arc::new(Connection::new(true, None, PACE));
        let _request = reserved.begin(false);
        assert_eq!(
            (after(&reserved, 4), after(&reserved, 6)),
            (Verdict::Keep, Verdict::Abort(Some(Closed::HeadTimeout)))
        );
        let finishing = Arc::new(Connection::new(false, None, PACE));
        let request = finishing.begin(true);
        finishing.finish();
        assert_eq!(after(&finishing, 100), Verdict::Keep, "its request is in flight");
        drop(request);
        assert_eq!((after(&finishing, 1), after(&finishing, 3)), (Verdict::Keep, Verdict::Abort(None)));
    }
}
