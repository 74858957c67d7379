//! Events after the position that were already put, because only a part of their batch was put. No I/O.

use std::{fmt, str::FromStr};

use super::Position;

/// The events of a batch that was put only in part: all events before `end` that are not later than `last`.
///
/// A batch's events are put in chronological order, in one or several requests. If a request fails, the events of the earlier
/// requests remain delivered. So some records have been put while records before them have not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead {
    /// End of the batch.
    pub end: Position,
    /// The last event that was put, in chronological order.
    pub last: EventPosition,
}

/// Position of an event in its batch. A batch's events are in the order of their positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPosition {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Position of the event's record in the object.
    pub record: u64,
    /// Index among the record's events, counted from 0. Above 0 only if the record was split.
    pub piece: u64,
}

impl Ahead {
    /// Returns the number of the record's events that were put. `u64::MAX` if all were put.
    pub fn events_put(&self, record: u64, timestamp: i64) -> u64 {
        let within = match record {
            record if record < self.end.records => u64::MAX,
            record if record == self.end.records => self.end.events,
            _ => 0,
        };
        let position = (timestamp, record);
        let by_order = match position.cmp(&(self.last.timestamp, self.last.record)) {
            std::cmp::Ordering::Less => u64::MAX,
            std::cmp::Ordering::Equal => self.last.piece.saturating_add(1),
            std::cmp::Ordering::Greater => 0,
        };
        within.min(by_order)
    }
}

/// Writes `RECORDS:EVENTS` of the end, then `TIMESTAMP:RECORD:PIECE` of the last event.
impl fmt::Display for Ahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { end, last } = self;
        write!(f, "{}:{} {}:{}:{}", end.records, end.events, last.timestamp, last.record, last.piece)
    }
}

/// The text does not have the form in which [`Ahead`] is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAhead;

impl FromStr for Ahead {
    type Err = NotAhead;

    fn from_str(text: &str) -> Result<Self, NotAhead> {
        let (end, last) = text.split_once(' ').ok_or(NotAhead)?;
        let (records, events) = end.split_once(':').ok_or(NotAhead)?;
        let (timestamp, rest) = last.split_once(':').ok_or(NotAhead)?;
        let (record, piece) = rest.split_once(':').ok_or(NotAhead)?;
        let number = |digits: &str| digits.parse().map_err(|_| NotAhead);
        Ok(Self {
            end: Position { records: number(records)?, events: number(events)? },
            last: EventPosition {
                timestamp: timestamp.parse().map_err(|_| NotAhead)?,
                record: number(record)?,
                piece: number(piece)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_in_another_form_is_refused() {
        for text in ["", "1:2", "1:2 3:4", "1:2 3:4:x", "1 3:4:5", "-1:2 3:4:5", "1:2 3:4:5:6"] {
            assert_eq!(text.parse::<Ahead>(), Err(NotAhead), "{text:?}");
        }
    }

    proptest! {
        /// The batch has the records from `begin` on. Its events up to a random one were put.
        #[test]
        fn the_number_of_events_put_is_right_for_each_record(
            times in prop::collection::vec((0_i64..4, 1_u64..4), 1..12),
            begin in 0_u64..3,
            cut in any::<prop::sample::Index>(),
            unfinished in any::<bool>(),
        ) {
            let mut events: Vec<EventPosition> = Vec::new();
            for (record, (timestamp, pieces)) in (begin..).zip(&times) {
                events.extend((0..*pieces).map(|piece| EventPosition { timestamp: *timestamp, record, piece }));
            }
            let behind = begin + times.len() as u64;
            let mut end = Position { records: behind, events: 0 };
            // The batch may end inside a record.
            if unfinished && events.len() > 1 {
                let last = events.pop().expect("there are two events");
                end = Position { records: last.record, events: last.piece };
            }
            events.sort();
            let put = cut.index(events.len());
            let ahead = Ahead { end, last: events[put] };
            prop_assert_eq!(ahead.to_string().parse(), Ok(ahead));
            for (record, (timestamp, pieces)) in (begin..).zip(&times) {
                let expected = events[..=put].iter().filter(|event| event.record == record).count() as u64;
                prop_assert_eq!(ahead.events_put(record, *timestamp).min(*pieces), expected, "of record {}", record);
            }
            prop_assert_eq!(ahead.events_put(behind, -1), 0, "no event after the batch was put");
        }
    }
}
