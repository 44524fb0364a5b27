//! Back-off after wrong API keys, per address: guessing a key takes longer with every guess.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{client::network, expiring::ExpiringMap};

/// Default number of wrong keys from an address before it is blocked: a client with an old key can be noticed and corrected.
const DEFAULT_MAX_WRONG_KEYS: u32 = 10;

/// Maximum time for which an address is blocked after a wrong key.
const MAX_BLOCK: Duration = Duration::from_secs(15 * 60);

/// Time after its last wrong key when an address has a clean record again.
const MEMORY: Duration = Duration::from_secs(60 * 60);

/// Addresses that sent wrong keys; cheap to clone.
#[derive(Clone, Debug)]
pub struct WrongKeys {
    addresses: Arc<Mutex<ExpiringMap<IpAddr, Failures>>>,
    /// Number of wrong keys at which an address is blocked; 0 for never.
    max: u32,
}

impl Default for WrongKeys {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_WRONG_KEYS)
    }
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    blocked_until: Instant,
}

impl WrongKeys {
    /// Blocks an address at `max` wrong keys; never if it is 0.
    pub fn new(max: u32) -> Self {
        Self { addresses: Arc::default(), max }
    }

    /// Time for which the address is blocked. No key from it is compared meanwhile, not even the right one: else each guess would get a
    /// response at once.
    pub(super) fn blocked(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failures = self.addresses.lock().get(&network(address), now).copied()?;
        failures.blocked_until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Counts a wrong key, and returns the number of them from the address and the time for which it is blocked: 1 s, 2 s, 4 s … after
    /// the free ones.
    pub(super) fn record(&self, address: IpAddr, now: Instant) -> (u32, Duration) {
        let mut addresses = self.addresses.lock();
        let count = addresses.get(&network(address), now).map_or(0, |failures| failures.count).saturating_add(1);
        let block = count
            .checked_sub(self.max)
            .filter(|_| self.max > 0)
            .map_or(Duration::ZERO, |beyond| Duration::from_secs(2u64.saturating_pow(beyond)).min(MAX_BLOCK));
        let failures = Failures { count, blocked_until: now + block };
        addresses.insert(network(address), failures, now + block + MEMORY, now);
        (count, block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_an_address_for_longer_with_each_wrong_key_and_forgets_it() {
        let (keys, mut now) = (WrongKeys::default(), Instant::now());
        let (guesser, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for count in 1..DEFAULT_MAX_WRONG_KEYS {
            assert_eq!(keys.record(guesser, now), (count, Duration::ZERO));
            assert_eq!(keys.blocked(guesser, now), None);
        }
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900] {
            let block = Duration::from_secs(seconds);
            assert_eq!(keys.record(guesser, now).1, block);
            assert_eq!(keys.blocked(guesser, now), Some(block));
            now += block;
            assert_eq!(keys.blocked(guesser, now), None);
        }
        assert_eq!(keys.blocked(other, now), None);
        now += MEMORY;
        assert_eq!(keys.record(guesser, now), (1, Duration::ZERO), "forgotten");
    }

    #[test]
    fn blocks_no_address_where_the_operator_says_so() {
        let (keys, now, guesser) = (WrongKeys::new(0), Instant::now(), IpAddr::from([192, 0, 2, 1]));
        for count in 1..100 {
            assert_eq!(keys.record(guesser, now), (count, Duration::ZERO));
        }
        assert_eq!(keys.blocked(guesser, now), None);
    }
}
