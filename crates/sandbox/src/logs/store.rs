//! Stored groups, streams and events of each account.

use std::collections::{BTreeMap, HashMap};

use super::Totals;

/// Groups of one account, by Region.
#[derive(Debug, Default)]
pub(super) struct AccountLogs {
    /// Groups by Region, then by name.
    pub(super) regions: HashMap<String, BTreeMap<String, Group>>,
}

impl AccountLogs {
    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for group in self.regions.values().flat_map(BTreeMap::values) {
            totals += group.totals();
        }
        totals
    }
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) created: i64,
    pub(super) retention_days: Option<u32>,
    pub(super) streams: BTreeMap<String, Stream>,
    /// Serial of the next event. It orders events with the same timestamp across the group's streams.
    pub(super) next_serial: u64,
}

impl Group {
    pub(super) fn new(created: i64) -> Self {
        Self { created, retention_days: None, streams: BTreeMap::new(), next_serial: 0 }
    }

    pub(super) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for stream in self.streams.values() {
            totals += stream.totals;
        }
        totals
    }
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) timestamp: i64,
    pub(super) serial: u64,
    pub(super) ingested: i64,
    pub(super) message: Box<str>,
}

impl Event {
    /// Position in the order of the read calls: by time, then by arrival.
    pub(super) fn key(&self) -> (i64, u64) {
        (self.timestamp, self.serial)
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) created: i64,
    pub(super) last_event: Option<i64>,
    pub(super) totals: Totals,
    /// In the order of [`Event::key`]. Empty while events are only counted.
    pub(super) events: Vec<Event>,
    /// Serial of the first event of each put, unless all its events were rejected.
    pub(super) puts: Vec<u64>,
}

/// A batch that passed every check, ready to be stored.
pub(super) struct AcceptedBatch {
    /// Totals to add to the stream.
    pub(super) totals: Totals,
    /// First and last timestamp, unless every event was rejected.
    pub(super) span: Option<(i64, i64)>,
    /// Events, unless they are only counted.
    pub(super) kept: Vec<(i64, Box<str>)>,
}

impl Stream {
    pub(super) fn new(created: i64) -> Self {
        Self { created, last_event: None, totals: Totals::default(), events: Vec::new(), puts: Vec::new() }
    }

    /// Token for the next put; `None` before the first put.
    pub(super) fn token(&self) -> Option<String> {
        // Real tokens are numbers of 56 digits, too long for any integer type.
        (self.totals.puts > 0).then(|| format!("496{:053}", self.totals.puts))
    }

    /// Stores a batch, with serials from `next_serial`.
    pub(super) fn accept(&mut self, batch: AcceptedBatch, now: i64, next_serial: &mut u64) {
        self.totals += batch.totals;
        self.totals.puts += 1;
        let Some((first, last)) = batch.span else { return };
        let in_order = self.last_event.is_none_or(|newest| newest <= first);
        self.last_event = Some(self.last_event.map_or(last, |newest| newest.max(last)));
        if !batch.kept.is_empty() {
            self.puts.push(*next_serial);
        }
        for (timestamp, message) in batch.kept {
            self.events.push(Event { timestamp, serial: *next_serial, ingested: now, message });
            *next_serial += 1;
        }
        if !in_order {
            self.events.sort_by_key(Event::key);
        }
    }
}
