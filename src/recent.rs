//! Caches values by key, for log streams, customers' sessions and breakers.
//!
//! Beyond the capacity, the least recently used values are removed. A value in use is never removed: the next caller would
//! get a second value for the same key, and the two values would not share their state.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

use crate::breaker::now;

/// A handle whose clones share one value.
pub trait Handle: Clone {
    /// Whether another clone exists.
    fn is_in_use(&self) -> bool;
}

impl<T> Handle for Arc<T> {
    fn is_in_use(&self) -> bool {
        Arc::strong_count(self) > 1
    }
}

/// Cache of the most recently used values. Clones share the values. A value is in use while a clone of it exists. The number
/// of values in use may exceed the capacity.
#[derive(Debug)]
pub struct Recent<K: Hash + Eq, V> {
    known: Arc<Mutex<Known<K, V>>>,
}

#[derive(Debug)]
struct Known<K: Hash + Eq, V> {
    values: LruCache<K, Used<V>>,
    capacity: usize,
}

#[derive(Debug)]
struct Used<V> {
    value: V,
    at: Instant,
}

impl<K: Hash + Eq, V> Clone for Recent<K, V> {
    fn clone(&self) -> Self {
        Self { known: Arc::clone(&self.known) }
    }
}

impl<K: Hash + Eq + Clone, V: Handle> Recent<K, V> {
    /// Creates an empty cache for `capacity` values.
    pub fn new(capacity: usize) -> Self {
        Self { known: Arc::new(Mutex::new(Known { values: LruCache::unbounded(), capacity })) }
    }

    /// Returns the value of a key, if it is cached.
    pub fn get(&self, key: &K) -> Option<V> {
        self.lock().get(key)
    }

    /// Returns the value of a key. If none is cached, `make` creates it. Concurrent callers get the same value.
    pub fn get_or_insert_with(&self, key: &K, make: impl FnOnce() -> V) -> V {
        let mut known = self.lock();
        if let Some(value) = known.get(key) {
            return value;
        }
        let value = make();
        known.values.put(key.clone(), Used { value: value.clone(), at: now() });
        known.make_room();
        value
    }

    /// Number of cached values.
    pub fn len(&self) -> usize {
        self.lock().values.len()
    }

    /// Whether no value is cached.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a value is cached. This check does not count as use.
    pub fn contains(&self, key: &K) -> bool {
        self.lock().values.contains(key)
    }

    /// Removes a value, even if it is in use.
    pub fn remove(&self, key: &K) -> Option<V> {
        self.lock().values.pop(key).map(|used| used.value)
    }

    /// Collects what `pick` returns for each value. This does not count as use.
    pub fn pick<T>(&self, mut pick: impl FnMut(&K, &V) -> Option<T>) -> Vec<T> {
        self.lock().values.iter().filter_map(|(key, used)| pick(key, &used.value)).collect()
    }

    /// Removes the values whose last use is at least `life` ago. Values in use stay.
    pub fn forget_idle(&self, life: impl Fn(&V) -> Duration) {
        let now = now();
        self.lock().values.retain(|_, used| {
            if used.value.is_in_use() {
                used.at = now;
            }
            now.saturating_duration_since(used.at) < life(&used.value)
        });
    }

    fn lock(&self) -> MutexGuard<'_, Known<K, V>> {
        // The map is valid after every statement, so the lock is usable after a panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V: Handle> Known<K, V> {
    fn get(&mut self, key: &K) -> Option<V> {
        let used = self.values.get_mut(key)?;
        used.at = now();
        Some(used.value.clone())
    }

    /// Removes the least recently used values beyond the capacity. A value in use counts as used now: the loop puts it back
    /// as the most recently used one, and so visits each value at most once.
    fn make_room(&mut self) {
        for _ in 0..self.values.len() {
            if self.values.len() <= self.capacity {
                return;
            }
            if let Some((key, used)) = self.values.pop_lru()
                && used.value.is_in_use()
            {
                self.values.put(key, Used { at: now(), ..used });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(recent: &Recent<u32, Arc<u32>>, keys: std::ops::Range<u32>) -> Vec<u32> {
        keys.filter(|key| recent.contains(key)).collect()
    }

    fn touch(recent: &Recent<u32, Arc<u32>>, key: u32) -> Arc<u32> {
        recent.get_or_insert_with(&key, || Arc::new(key))
    }

    #[test]
    fn the_least_recently_used_are_forgotten() {
        let recent = Recent::new(4);
        (0..4).for_each(|key| drop(touch(&recent, key)));
        // Key 0 is used again, so key 1 is now the least recently used.
        assert_eq!(recent.get(&0).as_deref(), Some(&0));
        drop(touch(&recent, 4));
        assert_eq!(known(&recent, 0..9), [0, 2, 3, 4]);
        assert_eq!((recent.get(&1), recent.remove(&0).as_deref(), recent.get(&0)), (None, Some(&0), None));
    }

    #[test]
    fn a_value_in_use_is_never_forgotten() {
        let recent = Recent::new(4);
        let held: Vec<_> = (0..3).map(|key| touch(&recent, key)).collect();
        (3..1000).for_each(|key| drop(touch(&recent, key)));
        assert!(held.iter().zip(0..).all(|(held, key)| Arc::ptr_eq(held, &touch(&recent, key))));
        assert_eq!(known(&recent, 0..1001).len(), 4);
        // More values are in use than the capacity. All of them stay until their use ends.
        let many: Vec<_> = (0..9).map(|key| touch(&recent, key)).collect();
        assert!(many.iter().zip(0..).all(|(held, key)| Arc::ptr_eq(held, &touch(&recent, key))));
        drop((many, held));
        drop(touch(&recent, 1000));
        assert_eq!(known(&recent, 0..1001).len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_values_are_forgotten_after_their_life() {
        let recent: Recent<u32, Arc<u32>> = Recent::new(9);
        let tidy = || recent.forget_idle(|value| Duration::from_secs(u64::from(**value)));
        let held = touch(&recent, 10);
        (11..14).for_each(|key| drop(touch(&recent, key)));
        tokio::time::advance(Duration::from_secs(11)).await;
        tidy();
        assert_eq!(known(&recent, 0..20), [10, 12, 13], "10 is in use, and 12 and 13 have longer lives");
        drop((recent.get(&12), held));
        tokio::time::advance(Duration::from_secs(9)).await;
        tidy();
        assert_eq!(
            known(&recent, 0..20),
            [10, 12],
            "the last use of 12 was `get`, and 10 was in use until then"
        );
        tokio::time::advance(Duration::from_secs(3)).await;
        tidy();
        assert!(known(&recent, 0..20).is_empty());
    }
}
