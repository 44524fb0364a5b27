//! Token buckets: how much of something each client may use in a period.
//!
//! A bucket holds a quota's tokens and refills evenly over its period. It is stored as the time at which it will be full (generic cell rate
//! algorithm, ITU-T I.371), so a full bucket takes no memory. The crate `governor` has the same algorithm, but not the amounts needed for
//! bytes, nor a bound on the number of buckets.

use std::{
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::expiring::ExpiringMap;

/// An amount per period.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Amount that may be used in a period, also at once; at least 1.
    pub amount: u64,
    /// Period in which an empty bucket fills.
    pub period: Duration,
}

/// One bucket per key.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    quota: Quota,
    full_at: Mutex<ExpiringMap<K, Instant>>,
}

/// State of a bucket after a request for tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// Tokens of a full bucket.
    pub(super) amount: u64,
    /// Tokens that are left.
    pub(super) remaining: u64,
    /// Time until the bucket is full.
    pub(super) full_in: Duration,
    /// Time until it has the missing tokens; none if it had them.
    pub(super) retry_in: Option<Duration>,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(super) fn new(quota: Quota) -> Self {
        Self { quota, full_at: Mutex::default() }
    }

    /// Takes tokens from a bucket, or none if it has fewer. More than a full bucket has are never available: the time to retry is then
    /// that of a full bucket.
    pub(super) fn take(&self, key: K, tokens: u64, now: Instant) -> Level {
        let Quota { amount, period } = self.quota;
        let cost = nanoseconds(period).saturating_mul(tokens.into()) / u128::from(amount);
        let mut full_at = self.full_at.lock();
        let used = full_at.get(&key, now).map_or(Duration::ZERO, |full_at| full_at.saturating_duration_since(now));
        let wanted = nanoseconds(used).saturating_add(cost);
        if wanted > nanoseconds(period) {
            let missing = duration(wanted - nanoseconds(period)).min(used);
            return self.level(used, Some(missing));
        }
        let used = duration(wanted);
        full_at.insert(key, now + used, now + used, now);
        self.level(used, None)
    }

    fn level(&self, used: Duration, retry_in: Option<Duration>) -> Level {
        let Quota { amount, period } = self.quota;
        let left = nanoseconds(period.saturating_sub(used));
        let remaining = left * u128::from(amount) / nanoseconds(period).max(1);
        Level { amount, remaining: u64::try_from(remaining).unwrap_or(u64::MAX), full_in: used, retry_in }
    }
}

fn nanoseconds(duration: Duration) -> u128 {
    duration.as_nanos()
}

fn duration(nanoseconds: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_bucket_gives_its_amount_at_once_and_refills_evenly() {
        let now = Instant::now();
        let buckets = Buckets::new(Quota { amount: 6, period: MINUTE });
        for remaining in (0..6).rev() {
            let level = buckets.take("a", 1, now);
            assert_eq!((level.remaining, level.retry_in), (remaining, None));
        }
        let empty = buckets.take("a", 1, now);
        assert_eq!(empty, Level { amount: 6, remaining: 0, full_in: MINUTE, retry_in: Some(Duration::from_secs(10)) });
        assert_eq!(buckets.take("b", 1, now).retry_in, None, "another key has a bucket of its own");
        assert_eq!(buckets.take("a", 1, now + Duration::from_secs(9)).retry_in, Some(Duration::from_secs(1)));
        assert_eq!(buckets.take("a", 1, now + Duration::from_secs(10)).retry_in, None);
        assert_eq!(buckets.take("a", 1, now + Duration::from_secs(10)).retry_in, Some(Duration::from_secs(10)));
        assert_eq!(buckets.take("a", 6, now + 3 * MINUTE).retry_in, None, "full again");
    }

    #[test]
    fn a_refused_request_takes_nothing_and_large_amounts_are_counted_exactly() {
        let now = Instant::now();
        let amount = 1 << 40;
        let buckets = Buckets::new(Quota { amount, period: 24 * 60 * MINUTE });
        assert_eq!(buckets.take((), amount + 1, now).retry_in, Some(Duration::ZERO), "more than a full bucket");
        assert_eq!(buckets.take((), amount / 2, now).remaining, amount / 2);
        assert!(buckets.take((), amount / 2 + (1 << 20), now).retry_in.is_some());
        assert_eq!(buckets.take((), amount / 2, now).retry_in, None);
        assert_eq!(buckets.take((), 0, now).remaining, 0);
    }
}
