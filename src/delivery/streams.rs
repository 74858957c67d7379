//! Known log streams, shared by all deliveries of a worker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use crate::{batch::BatchHead, recent::Recent, tenant::Mode};

/// Most streams that are remembered, at most 1 KiB each, with what is known of their groups. Only streams in use can exceed this number.
pub const MAX_STREAMS: u64 = 20_000;

/// Known streams. If there are too many, the least recently used are forgotten. A stream in use is never forgotten: two writers
/// of one stream must share its lock.
#[derive(Clone, Debug)]
pub struct Streams {
    known: Recent<StreamKey, Arc<Mutex<Stream>>>,
    groups: Recent<StreamKey, Arc<Newcomers>>,
}

/// Name of a stream among all accounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// What a delivery in shadow mode does says nothing about the stream that live deliveries put into.
    pub mode: Mode,
    /// The customer's account.
    pub account: String,
    /// The Region of the group.
    pub region: String,
    /// The group.
    pub log_group_name: String,
    /// The stream.
    pub log_stream_name: String,
}

impl StreamKey {
    /// Start of every request to the stream.
    pub(super) fn batch_head(&self) -> BatchHead {
        BatchHead::new(&self.log_group_name, &self.log_stream_name)
    }
}

/// State of one stream. A writer holds the stream's lock while it puts a batch, so that batches are put one after another.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Whether this worker has put into the stream, or created it.
    pub(super) is_known: bool,
    /// The unknown streams of the group.
    pub(super) newcomers: Arc<Newcomers>,
    pub(super) sequence_token: Option<String>,
    /// When the stream last took a request.
    pub(super) took_at: Option<Instant>,
}

/// For how long an accepted request counts as proof that the group is not to blame for a refusal.
const RECENT: Duration = Duration::from_secs(600);

impl Stream {
    /// Whether the stream took a request of any object within [`RECENT`].
    pub(super) fn took_lately(&self) -> bool {
        self.took_at.is_some_and(|at| at.elapsed() < RECENT)
    }
}

impl Streams {
    /// Starts without any streams.
    pub fn new() -> Self {
        let most = usize::try_from(MAX_STREAMS).expect("20,000 fits into usize");
        Self { known: Recent::new(most), groups: Recent::new(most) }
    }

    /// Returns the stream with this name. The stream is in use while the caller holds the result.
    pub(super) fn get(&self, key: &StreamKey) -> Arc<Mutex<Stream>> {
        self.known.get_or_insert_with(key, || {
            let group = StreamKey { log_stream_name: String::new(), ..key.clone() };
            let newcomers = self.groups.get_or_insert_with(&group, Arc::default);
            Arc::new(Mutex::new(Stream { newcomers, ..Stream::default() }))
        })
    }
}

/// Streams of one group that this worker did not know: how many of the latest were missing.
///
/// A put into a missing stream costs three calls: the refused put, the creation, and the put again. With the creation first
/// there are two. For a stream that exists, the creation is one call too many. So the creation comes first if most of the
/// latest unknown streams were missing, for example after a change of date, or in a group of short-lived pods.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// One bit for each of the latest puts into an unknown stream, the latest first: 1 if the stream was missing. Only streams
    /// that could be created count, so a role that may not create streams never creates first.
    missing: AtomicU32,
    asked: AtomicU32,
}

impl Newcomers {
    /// Number of puts that count.
    const LATEST: u32 = 8;
    /// Number of missing streams among them from which on the creation comes first.
    const MOST: u32 = 5;
    /// One unknown stream in so many is put into first, to find out whether streams are still missing.
    const SAMPLE: u32 = 4;

    /// Whether the next unknown stream should be created before the first put.
    pub(super) fn creates_first(&self) -> bool {
        self.missing.load(Ordering::Relaxed).count_ones() >= Self::MOST
            && !self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(Self::SAMPLE)
    }

    /// Forgets all streams, because one could not be created.
    pub(super) fn forget(&self) {
        self.missing.store(0, Ordering::Relaxed);
    }

    /// Notes whether an unknown stream was missing when it was put into.
    pub(super) fn note(&self, was_missing: bool) {
        let next = |bits: u32| Some((bits << 1 | u32::from(was_missing)) & ((1 << Self::LATEST) - 1));
        // `next` never refuses.
        let _ = self.missing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_created_first_while_most_unknown_ones_are_missing() {
        let newcomers = Newcomers::default();
        let created_first = |newcomers: &Newcomers| (0..8).filter(|_| newcomers.creates_first()).count();
        (0..4).for_each(|_| newcomers.note(true));
        assert_eq!(created_first(&newcomers), 0);
        newcomers.note(true);
        assert_eq!(created_first(&newcomers), 6, "one in four is put into first");
        (0..4).for_each(|_| newcomers.note(false));
        assert_eq!(created_first(&newcomers), 0, "four of the latest eight existed");
    }

    #[tokio::test]
    async fn streams_of_a_group_share_what_is_known_of_it() {
        let streams = Streams::new();
        let key = |group: &str, stream: &str| StreamKey {
            mode: Mode::Live,
            account: "1".to_owned(),
            region: "r".to_owned(),
            log_group_name: group.to_owned(),
            log_stream_name: stream.to_owned(),
        };
        let one = streams.get(&key("g", "one"));
        (0..8).for_each(|_| one.try_lock().expect("not locked").newcomers.note(true));
        drop(one);
        let creates_first = async |key| {
            let stream = streams.get(&key);
            let stream = stream.lock().await;
            (0..2).any(|_| stream.newcomers.creates_first())
        };
        assert!(creates_first(key("g", "two")).await);
        assert!(!creates_first(key("h", "two")).await);
    }
}
