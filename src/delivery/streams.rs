//! What is known of log streams, shared by all deliveries of a worker.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::recent::Recent;

/// Most streams whose sequence token is remembered, at most 1 KiB each; beyond it those alone that are written at the moment.
pub const MAX_STREAMS: u64 = 20_000;

/// What is known of streams. Where there are too many, the least recently used are forgotten, but never one that somebody writes:
/// two writers would not know of each other.
#[derive(Clone, Debug)]
pub struct Streams {
    known: Recent<StreamKey, Arc<Mutex<Stream>>>,
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
    /// When it took a request last.
    pub(super) took_at: Option<Instant>,
}

/// How long what a stream took says that nothing is wrong with its group.
const RECENT: Duration = Duration::from_secs(600);

impl Stream {
    /// Whether it took a request a short time ago, of any object.
    pub(super) fn took_lately(&self) -> bool {
        self.took_at.is_some_and(|at| at.elapsed() < RECENT)
    }
}

impl Streams {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self { known: Recent::new(usize::try_from(MAX_STREAMS).expect("it is small")) }
    }

    /// The stream of that name, in use for as long as it is held.
    pub(super) fn get(&self, key: &StreamKey) -> Arc<Mutex<Stream>> {
        self.known.get_or_insert_with(key, Arc::default)
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new()
    }
}
