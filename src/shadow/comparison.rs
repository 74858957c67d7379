//! Compares what shadow mode counted with what CloudWatch Logs holds. Pure.

use std::collections::BTreeMap;

use super::{Count, Window};

/// Counts by window and stream.
pub type Cells = BTreeMap<(Window, String), Count>;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Each stream by itself.
    Stream,
    /// The sum of all streams, because two processors may name streams differently.
    Group,
}

impl By {
    /// The name under which a stream is compared: its own, or none.
    pub fn name(self, stream: String) -> String {
        match self {
            Self::Stream => stream,
            Self::Group => String::new(),
        }
    }
}

/// A window, or a stream in a window, in which the two sides differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The window.
    pub window: Window,
    /// The stream; empty if sums are compared.
    pub stream: String,
    /// What shadow mode counted.
    pub counted: Count,
    /// What CloudWatch Logs holds.
    pub held: Count,
}

/// Result of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Number of windows and streams that were compared.
    pub cells: usize,
    /// Everything that shadow mode counted.
    pub counted: Count,
    /// Everything that CloudWatch Logs holds.
    pub held: Count,
    /// Where the two differ, by window and stream.
    pub differences: Vec<Difference>,
}

/// Compares window by window.
pub fn compare(counted: &Cells, held: &Cells, by: By) -> Comparison {
    let mut sides = BTreeMap::<(Window, String), [Count; 2]>::new();
    for (side, cells) in [counted, held].into_iter().enumerate() {
        for ((window, stream), count) in cells {
            sides.entry((*window, by.name(stream.clone()))).or_default()[side] += *count;
        }
    }
    let mut comparison = Comparison { cells: sides.len(), ..Comparison::default() };
    for ((window, stream), [counted, held]) in sides {
        comparison.counted += counted;
        comparison.held += held;
        if counted != held {
            comparison.differences.push(Difference { window, stream, counted, held });
        }
    }
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(cells: &[(i64, &str, u64, u64)]) -> Cells {
        let cell = |(at, stream, events, bytes): &(i64, &str, u64, u64)| {
            ((Window::of(*at), (*stream).to_owned()), Count { events: *events, bytes: *bytes })
        };
        cells.iter().map(cell).collect()
    }

    fn check(counted: &Cells, held: &Cells, by: By, expected: &[(i64, &str, i64, i64)]) {
        let found = compare(counted, held, by);
        let signed =
            |one: u64, two: u64| i64::try_from(one).expect("small") - i64::try_from(two).expect("small");
        let differences: Vec<_> = found
            .differences
            .iter()
            .map(|Difference { window, stream, counted, held }| {
                let events = signed(held.events, counted.events);
                (window.start(), stream.as_str(), events, signed(held.bytes, counted.bytes))
            })
            .collect();
        assert_eq!(differences, expected, "{by:?}");
    }

    #[test]
    fn both_directions_and_bytes_alone_are_differences() {
        let counted =
            cells(&[(0, "a", 2, 60), (0, "b", 1, 30), (300_000, "a", 5, 200), (600_000, "c", 1, 40)]);
        check(&counted, &counted.clone(), By::Stream, &[]);
        check(&counted, &counted.clone(), By::Group, &[]);
        let held = cells(&[(0, "a", 2, 61), (0, "x", 1, 30), (300_000, "a", 4, 160), (900_000, "a", 1, 27)]);
        check(
            &counted,
            &held,
            By::Stream,
            &[
                (0, "a", 0, 1),
                (0, "b", -1, -30),
                (0, "x", 1, 30),
                (300_000, "a", -1, -40),
                (600_000, "c", -1, -40),
                (900_000, "a", 1, 27),
            ],
        );
        let by_group = [(0, "", 0, 1), (300_000, "", -1, -40), (600_000, "", -1, -40), (900_000, "", 1, 27)];
        check(&counted, &held, By::Group, &by_group);
        let sums = compare(&counted, &held, By::Group);
        assert_eq!((sums.cells, sums.counted.events, sums.held.bytes), (4, 9, 278));
    }
}
