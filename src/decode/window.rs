//! The text between the decoder and the reader of records.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::STEP;

/// Bytes of the first step: many objects have no more.
const FIRST_STEP: usize = 128 * 1024;
/// Most free room in the window before a step, and so most bytes that one step writes. A long record leaves the window with a
/// large capacity. Without this limit, one step could fill all of it and block its thread meanwhile.
pub(super) const MOST_ROOM: usize = 8 * STEP;

/// Decompressed text that the caller has not consumed yet.
#[derive(Debug, Default)]
pub struct Window {
    pub(super) buffer: Vec<u8>,
    pub(super) start: usize,
    /// Whether a step was made.
    had_room: bool,
    /// Takes the buffer when the window drops.
    buffers: WindowBuffers,
}

impl Drop for Window {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.buffer));
    }
}

impl Window {
    /// The decompressed bytes that are not consumed yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Marks the first `count` unread bytes as consumed.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.buffer.len(), "consumed more than the window has");
    }

    /// Makes room for one step: moves the unread bytes (part of one record) to the front of the buffer.
    pub(super) fn make_room(&mut self) {
        self.buffer.drain(..self.start);
        self.start = 0;
        let room = self.buffer.capacity() - self.buffer.len();
        if !std::mem::replace(&mut self.had_room, true) {
            self.buffer.reserve_exact(FIRST_STEP);
        } else if room > MOST_ROOM {
            self.buffer.shrink_to(self.buffer.len() + STEP);
        } else {
            self.buffer.reserve_exact(STEP);
        }
    }
}

/// Free buffers for the next windows. Clones share them. A buffer that is freed instead, and allocated again for the next object,
/// costs a small object several percent of its CPU.
#[derive(Clone, Debug, Default)]
pub struct WindowBuffers {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    most: usize,
    largest: usize,
}

impl WindowBuffers {
    /// Keeps at most `most` buffers of objects that share a slot. They had one step at most.
    pub fn small(most: usize) -> Self {
        Self { free: Arc::default(), most, largest: FIRST_STEP }
    }

    /// Keeps at most `most` buffers, none larger than two steps.
    pub fn large(most: usize) -> Self {
        Self { free: Arc::default(), most, largest: 2 * STEP }
    }

    /// A window with a free buffer, or with a new one.
    pub fn window(&self) -> Window {
        let buffer = self.lock().pop().unwrap_or_default();
        Window { buffer, start: 0, had_room: false, buffers: self.clone() }
    }

    fn give(&self, mut buffer: Vec<u8>) {
        let mut free = self.lock();
        if free.len() < self.most && (1..=self.largest).contains(&buffer.capacity()) {
            buffer.clear();
            free.push(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        // No code that holds the lock can panic.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again_unless_they_are_large_or_many() {
        for (buffers, largest) in [(WindowBuffers::small(2), FIRST_STEP), (WindowBuffers::large(2), 2 * STEP)]
        {
            for (capacity, expected) in [(0, 0), (1, 1), (largest, 2), (largest + 1, 2), (1, 2)] {
                let mut window = Window::default();
                (window.buffer, window.buffers) = (vec![0; capacity], buffers.clone());
                drop(window);
                assert_eq!(buffers.lock().len(), expected, "{capacity}");
            }
            let window = buffers.window();
            assert_eq!((window.buffer.capacity(), window.unread().len()), (largest, 0));
            assert_eq!(buffers.lock().len(), 1);
            drop(window);
            assert_eq!(buffers.lock().len(), 2);
        }
    }
}
