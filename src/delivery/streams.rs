//! Known log streams, shared by all deliveries of a worker.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::recent::Recent;

/// Most streams whose sequence token is remembered, at most 1 KiB each. Beyond that, only streams in use are kept.
pub const MAX_STREAMS: u64 = 20_000;

/// Known streams. If there are too many, the least recently used are forgotten. A stream in use is never forgotten: two writers
/// of one stream must share its lock.
#[derive(Clone, Debug)]
pub struct Streams {
    known: Recent<StreamKey, Arc<Mutex<Stream>>>,
}

/// Name of a stream among all accounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// The customer's account.
    pub account: String,
    /// The Region of the group.
    pub region: String,
    /// The group.
    pub log_group_name: String,
    /// The stream.
    pub log_stream_name: String,
}

/// State of one stream. A writer holds its lock while it puts, so that the stream's batches are put one after another.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) sequence_token: Option<String>,
    /// When the stream last took a request.
    pub(super) took_at: Option<Instant>,
}

/// How long an accepted request shows that the group is not to blame for a refusal.
const RECENT: Duration = Duration::from_secs(600);

impl Stream {
    /// Whether the stream took a request of any object within [`RECENT`].
    pub(super) fn took_lately(&self) -> bool {
        self.took_at.is_some_and(|at| at.elapsed() < RECENT)
    }
}

impl Streams {
    /// Knows no streams.
    pub fn new() -> Self {
        Self { known: Recent::new(usize::try_from(MAX_STREAMS).expect("it is small")) }
    }

    /// The stream with this name. It counts as in use while the answer is held.
    pub(super) fn get(&self, key: &StreamKey) -> Arc<Mutex<Stream>> {
        self.known.get_or_insert_with(key, Arc::default)
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new()
    }
}
