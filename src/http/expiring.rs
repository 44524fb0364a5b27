//! A map of bounded size whose entries expire: what the server remembers about clients.

use std::{collections::HashMap, hash::Hash, time::Instant};

/// Maximum number of entries, a few MB. A client that sends from many addresses cannot make the server remember more.
const MAX_ENTRIES: usize = 1 << 16;

/// Entries by key, each until a time of its own. At [`MAX_ENTRIES`] the half that expires first is forgotten: the clients that are
/// closest to a clean record.
#[derive(Debug)]
pub(super) struct ExpiringMap<K, V> {
    entries: HashMap<K, Entry<V>>,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    expires_at: Instant,
}

impl<K, V> Default for ExpiringMap<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<K: Eq + Hash, V> ExpiringMap<K, V> {
    /// The value of a key, unless it has expired.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<&V> {
        self.entries.get(key).filter(|entry| entry.expires_at > now).map(|entry| &entry.value)
    }

    /// Sets the value of a key.
    pub(super) fn insert(&mut self, key: K, value: V, expires_at: Instant, now: Instant) {
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        self.entries.insert(key, Entry { value, expires_at });
    }

    fn make_room(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.expires_at > now);
        if self.entries.len() > MAX_ENTRIES / 2 {
            let mut times: Vec<Instant> = self.entries.values().map(|entry| entry.expires_at).collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            self.entries.retain(|_, entry| entry.expires_at > median);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn forgets_entries_at_their_time() {
        let now = Instant::now();
        let mut map = ExpiringMap::default();
        map.insert("a", 1, now + Duration::from_secs(1), now);
        assert_eq!(map.get(&"a", now), Some(&1));
        assert_eq!(map.get(&"a", now + Duration::from_secs(1)), None);
        assert_eq!(map.get(&"b", now), None);
    }

    #[test]
    fn is_bounded_and_keeps_the_entries_that_expire_last() {
        let now = Instant::now();
        let mut map = ExpiringMap::default();
        map.insert(u64::MAX, (), now + Duration::from_secs(1 << 40), now);
        for key in 0..3 * MAX_ENTRIES as u64 {
            map.insert(key, (), now + Duration::from_secs(key + 1), now);
            assert!(map.entries.len() <= MAX_ENTRIES);
        }
        assert!(map.get(&u64::MAX, now).is_some());
        // Also where all expire at once.
        let mut map = ExpiringMap::default();
        for key in 0..3 * MAX_ENTRIES {
            map.insert(key, (), now + Duration::from_secs(1), now);
        }
        assert!(map.entries.len() <= MAX_ENTRIES);
    }
}
