//! Gathers the counts of one object. No I/O.

use std::{collections::BTreeMap, mem};

use super::{Count, Window, WindowCounts};

/// Size of a sheet at which it is written. The counts of one window then fit into an item of DynamoDB (400 KB), also if all
/// names are escaped, and the counts of an object take bounded memory.
const FULL: usize = 128 << 10;
/// What an entry adds to the size besides the stream's name.
const ENTRY: usize = 64;

/// The counts so far, by window and stream.
#[derive(Debug, Default)]
pub struct Sheet {
    windows: BTreeMap<Window, Row>,
    size: usize,
    /// Number of parts that were taken.
    parts: u32,
}

#[derive(Debug, Default)]
struct Row {
    streams: BTreeMap<String, Count>,
    rejected: u64,
}

impl Sheet {
    /// Adds an event that would have been stored.
    pub fn count(&mut self, timestamp: i64, stream: &str, bytes: usize) {
        let row = Self::row(&mut self.windows, &mut self.size, timestamp);
        let count = match row.streams.get_mut(stream) {
            Some(count) => count,
            None => {
                self.size += ENTRY + stream.len();
                row.streams.entry(stream.to_owned()).or_default()
            }
        };
        *count += Count { events: 1, bytes: bytes as u64 };
    }

    /// Adds an event that CloudWatch Logs would have rejected.
    pub fn reject(&mut self, timestamp: i64) {
        Self::row(&mut self.windows, &mut self.size, timestamp).rejected += 1;
    }

    fn row<'a>(windows: &'a mut BTreeMap<Window, Row>, size: &mut usize, timestamp: i64) -> &'a mut Row {
        windows.entry(Window::of(timestamp)).or_insert_with(|| {
            *size += ENTRY;
            Row::default()
        })
    }

    /// Whether the counts must be written before more are added.
    pub fn is_full(&self) -> bool {
        self.size >= FULL
    }

    /// Takes all counts, as the next part of the object. The parts of an object are the same in every attempt, because an
    /// attempt counts from the object's start.
    pub fn take(&mut self, place: &str) -> Vec<WindowCounts> {
        let part = self.parts;
        self.parts += 1;
        self.size = 0;
        let rows = mem::take(&mut self.windows).into_iter();
        rows.map(|(window, Row { streams, rejected })| WindowCounts {
            window,
            part,
            place: place.to_owned(),
            streams,
            rejected,
        })
        .collect()
    }
}
