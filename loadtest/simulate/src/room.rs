//! A worker's slots, which small objects share (src/room.rs of the worker).
//!
//! The model has no object that turns out larger than its event says, so no place grows.

use crate::settings::{COMPRESSION, MOST_AT_ONCE, STORED, UNITS};

/// The units that are free.
#[derive(Debug)]
pub(crate) struct Room {
    slots: usize,
    free: usize,
    /// The units that places of less than a slot may still take: one slot is never shared.
    shared: usize,
}

/// Units that an object with so many bytes of JSON needs.
pub(crate) fn units(json_bytes: f64) -> usize {
    ((json_bytes / COMPRESSION / STORED).ceil() as usize).clamp(1, UNITS)
}

impl Room {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots, free: slots * UNITS, shared: (slots - 1) * UNITS }
    }

    pub(crate) fn total(&self) -> usize {
        self.slots * UNITS
    }

    pub(crate) fn free(&self) -> usize {
        self.free
    }

    /// Number of messages of `typical` units each that `units` free units have room for.
    pub(crate) fn fits(&self, units: usize, typical: f64) -> usize {
        let shared = self.shared.min(units);
        (shared as f64 / typical) as usize + (units - shared) / UNITS
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.slots.max(MOST_AT_ONCE.min(self.total()))
    }

    /// Takes a place of `units` units, or a whole slot if no more small places may be taken. Returns the place's units; `None`:
    /// so many are not free.
    pub(crate) fn take(&mut self, units: usize) -> Option<usize> {
        let units = if units <= self.shared { units } else { UNITS };
        self.free = self.free.checked_sub(units)?;
        if units < UNITS {
            self.shared -= units;
        }
        Some(units)
    }

    pub(crate) fn give_back(&mut self, units: usize) {
        self.free += units;
        if units < UNITS {
            self.shared += units;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_size_decides_the_units() {
        // 16 KiB stored are 197 kB of JSON.
        for (json_bytes, expected) in
            [(1.0, 1), (40e3, 1), (196e3, 1), (197e3, 2), (1.3e6, 7), (1.5e6, UNITS), (8e6, UNITS)]
        {
            assert_eq!(units(json_bytes), expected, "{json_bytes}");
        }
    }

    #[test]
    fn one_slot_is_never_shared() {
        let mut room = Room::new(2);
        let small: Vec<_> = (0..8).map(|_| room.take(1).expect("a slot is free for small places")).collect();
        assert_eq!((room.free(), small[0]), (8, 1));
        let whole = room.take(1).expect("a slot is free");
        assert_eq!((whole, room.free(), room.take(1)), (UNITS, 0, None));
        small.into_iter().for_each(|units| room.give_back(units));
        assert_eq!((room.free(), room.take(1)), (8, Some(1)));
        room.give_back(whole);
        assert_eq!(room.free(), 15);
        assert_eq!(Room::new(1).take(1), Some(whole), "the only slot");
    }

    #[test]
    fn at_most_128_messages_are_in_work_unless_there_are_more_slots() {
        let most = [4, 16, 64, 256].map(|slots| Room::new(slots).most_at_once());
        assert_eq!(most, [32, 128, 128, 256]);
    }

    #[test]
    fn messages_fit_by_their_typical_size() {
        let mut room = Room::new(3);
        assert_eq!((room.fits(24, 1.0), room.fits(24, 8.0), room.fits(4, 1.0)), (17, 3, 4));
        assert!((0..16).all(|_| room.take(1).is_some()));
        assert_eq!(room.fits(room.free(), 1.0), 1);
    }
}
