//! What is known of log streams, shared by all deliveries of a worker.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
};

use tokio::sync::Mutex;

/// Most streams whose sequence token is remembered, at most 1 KiB each; beyond it those alone that are written at the moment.
pub const MAX_STREAMS: u64 = 20_000;

/// What is known of streams. Where there are too many, the least recently used are forgotten, but never one that somebody writes:
/// two writers would not know of each other.
#[derive(Clone, Debug)]
pub struct Streams {
    known: Arc<std::sync::Mutex<Known>>,
}

/// Names a stream among all accounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// The customer's account.
    pub account: String,
    /// Region of the group.
    pub region: String,
    /// The group.
    pub log_group_name: String,
    /// The stream.
    pub log_stream_name: String,
}

/// One stream; whoever puts into it holds its lock, so that its batches go out one after another.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) sequence_token: Option<String>,
}

#[derive(Debug)]
struct Known {
    streams: HashMap<StreamKey, Remembered>,
    capacity: usize,
    /// Lookups so far.
    lookups: u64,
}

#[derive(Debug)]
struct Remembered {
    stream: Arc<Mutex<Stream>>,
    /// The number of its last lookup.
    last_lookup: u64,
}

impl Remembered {
    /// Somebody beside us holds it.
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.stream) > 1
    }
}

impl Streams {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::of_capacity(usize::try_from(MAX_STREAMS).expect("it is small"))
    }

    fn of_capacity(capacity: usize) -> Self {
        let known = Known { streams: HashMap::new(), capacity, lookups: 0 };
        Self { known: Arc::new(std::sync::Mutex::new(known)) }
    }

    /// The stream of that name, in use for as long as it is held.
    pub(super) fn get(&self, key: &StreamKey) -> Arc<Mutex<Stream>> {
        // A panic elsewhere leaves nothing half done: every statement leaves the map whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.lookups += 1;
        let last_lookup = known.lookups;
        if let Some(found) = known.streams.get_mut(key) {
            found.last_lookup = last_lookup;
            return Arc::clone(&found.stream);
        }
        if known.streams.len() >= known.capacity {
            known.make_room();
        }
        let stream = Arc::default();
        known.streams.insert(key.clone(), Remembered { stream: Arc::clone(&stream), last_lookup });
        stream
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new()
    }
}

impl Known {
    /// Forgets the least recently used, a sixteenth of all at once: to find them, all are looked at.
    fn make_room(&mut self) {
        let idle = self.streams.values().filter(|known| !known.is_in_use());
        let mut idle: Vec<_> = idle.map(|known| known.last_lookup).collect();
        let surplus = (self.streams.len() + 1).saturating_sub(self.capacity) + self.capacity / 16;
        if let Some(last) = surplus.min(idle.len()).checked_sub(1) {
            let (_, last, _) = idle.select_nth_unstable(last);
            let last = *last;
            self.streams.retain(|_, known| known.is_in_use() || known.last_lookup > last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> StreamKey {
        let text = || "x".to_owned();
        let (account, region, log_group_name) = (text(), text(), text());
        StreamKey { account, region, log_group_name, log_stream_name: number.to_string() }
    }

    /// Whether it is remembered, told by what was noted in it.
    fn is_known(streams: &Streams, number: usize) -> bool {
        let known = streams.known.lock().expect("nobody panics with it");
        known.streams.contains_key(&key(number))
    }

    #[test]
    fn the_least_recently_used_are_forgotten() {
        let streams = Streams::of_capacity(32);
        for number in 0..32 {
            drop(streams.get(&key(number)));
        }
        // The first one is used again, by which the second is the oldest.
        drop(streams.get(&key(0)));
        drop(streams.get(&key(32)));
        assert!(is_known(&streams, 0) && is_known(&streams, 32));
        assert_eq!((1..32).filter(|number| !is_known(&streams, *number)).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_stream_in_use_is_never_forgotten() {
        let streams = Streams::of_capacity(4);
        let held: Vec<_> = (0..3).map(|number| streams.get(&key(number))).collect();
        for number in 3..1000 {
            drop(streams.get(&key(number)));
        }
        for (number, held) in held.iter().enumerate() {
            assert!(Arc::ptr_eq(held, &streams.get(&key(number))), "{number}");
        }
        assert_eq!(streams.known.lock().expect("nobody panics with it").streams.len(), 4);
        // More are in use than are remembered else: none of them is refused, and they are forgotten once they are not.
        let many: Vec<_> = (0..9).map(|number| streams.get(&key(number))).collect();
        assert!(many.iter().enumerate().all(|(number, held)| Arc::ptr_eq(held, &streams.get(&key(number)))));
        drop((many, held));
        drop(streams.get(&key(1000)));
        assert_eq!(streams.known.lock().expect("nobody panics with it").streams.len(), 4);
    }
}
