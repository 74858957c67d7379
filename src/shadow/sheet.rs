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

    /// Adds an event that CloudWatch Logs would have rejected, to the window of a time that is not the event's.
    pub fn reject(&mut self, notified: i64) {
        Self::row(&mut self.windows, &mut self.size, notified).rejected += 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_by_window_and_stream() {
        let mut sheet = Sheet::default();
        for (at, stream) in [(0, "a"), (299_999, "a"), (300_000, "a"), (5, "b")] {
            sheet.count(at, stream, 30);
        }
        sheet.reject(-1);
        let taken = sheet.take("/g");
        let found: Vec<_> = taken
            .iter()
            .map(|counts| {
                let streams = counts.streams.iter().map(|(stream, count)| (stream.as_str(), count.events));
                (counts.window.start(), counts.part, counts.rejected, streams.collect::<Vec<_>>())
            })
            .collect();
        let expected =
            [(-300_000, 0, 1, vec![]), (0, 0, 0, vec![("a", 2), ("b", 1)]), (300_000, 0, 0, vec![("a", 1)])];
        assert_eq!(found, expected);
        assert_eq!(taken[1].streams["a"], Count { events: 2, bytes: 60 });
        assert_eq!((sheet.take("/g"), sheet.is_full()), (Vec::new(), false));
    }

    /// Without parts, an object with a stream for each record would take memory without bound.
    #[test]
    fn a_full_sheet_is_taken_as_a_part() {
        let mut sheet = Sheet::default();
        let (mut parts, mut events) = (Vec::new(), 0);
        for index in 0..10_000 {
            sheet.count(0, &format!("stream-{index:04}"), 30);
            if sheet.is_full() {
                parts.push(sheet.take("/g"));
            }
        }
        parts.push(sheet.take("/g"));
        for (part, counts) in parts.iter().enumerate() {
            let [counts] = counts.as_slice() else { panic!("one window") };
            assert_eq!(counts.part, part as u32);
            assert!(counts.streams.len() <= FULL / ENTRY, "{} streams", counts.streams.len());
            events += counts.streams.values().map(|count| count.events).sum::<u64>();
        }
        assert_eq!((parts.len(), events), (6, 10_000));
    }
}
