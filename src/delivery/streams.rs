//! Known log streams, shared by all deliveries of a worker.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::{batch::BatchHead, recent::Recent, tenant::Mode};

/// Most streams that are remembered, at most 1 KiB each. Only streams in use can exceed this number.
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
        Self { known: Recent::new(usize::try_from(MAX_STREAMS).expect("20,000 fits into usize")) }
    }

    /// Returns the stream with this name. The stream is in use while the caller holds the result.
    pub(super) fn get(&self, key: &StreamKey) -> Arc<Mutex<Stream>> {
        self.known.get_or_insert_with(key, Arc::default)
    }
}

impl Default for Streams {
    fn default() -> Self {
        Self::new()
    }
}
