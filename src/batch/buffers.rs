//! Buffers of batches, kept for the next ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{EventSpan, FULL_BODY, TAIL};

/// Buffers of a finished batch, for a later one. Growing a new buffer to a megabyte costs more than filling it.
#[derive(Debug, Default)]
pub struct Buffers {
    pub(super) body: Vec<u8>,
    pub(super) events: Vec<EventSpan>,
}

/// Free buffers for the next batches. Clones share them.
///
/// The buffers are kept instead of freed: allocating and freeing buffers of this size fragments the heap, which takes a quarter
/// more memory in all.
#[derive(Clone, Debug)]
pub struct BufferPool {
    free: Arc<Mutex<Vec<Buffers>>>,
    most: usize,
}

impl BufferPool {
    /// Keeps at most `most` buffers.
    pub fn new(most: usize) -> Self {
        Self { free: Arc::default(), most }
    }

    /// Takes free buffers, or makes new ones.
    pub fn take(&self) -> Buffers {
        self.lock().pop().unwrap_or_default()
    }

    /// Keeps the buffers, unless the pool is full or they are larger than a full batch of ordinary messages needs. So buffers
    /// that grew because of one customer's escapes are freed.
    pub fn give(&self, buffers: Buffers) {
        let mut free = self.lock();
        if free.len() < self.most && buffers.body.capacity() <= FULL_BODY + TAIL {
            free.push(buffers);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Buffers>> {
        // No code that holds the lock can panic.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
