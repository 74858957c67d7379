//! Shares the worker's memory among the objects in work, by their size.
//!
//! The memory has `worker.concurrency` slots. A slot is enough for one object of any size: for its window, its batches, and what
//! the connection has read ahead (ARCHITECTURE.md has the formula). Most small objects need at most an eighth of a slot, and
//! spend most of their time in calls. So up to eight small objects share a slot. A slot has [`UNITS`] units, and a [`Place`]
//! holds some of them.
//!
//! The number of units depends on the object's stored size, which the event tells. The event may be wrong, and some objects
//! decompress to much more than others. So each place has a limit of decompressed bytes. An object that reaches the limit waits
//! until its place is a whole slot ([`Place::grow`]). One slot is never shared: it is free, or one object
//! has all of it and can finish. So the objects that wait to grow never all wait for each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Units of a slot.
pub const UNITS: u32 = 8;
/// Stored bytes for each unit of an object. Vector's gzip objects of one pod decompress to twelve times their size.
const STORED: u64 = 16 << 10;
/// Most decompressed bytes for each unit of an object. An object of this size takes at most an eighth of a slot's memory,
/// whatever its records are.
const DECOMPRESSED: u64 = 256 << 10;
/// Bytes of a message's body for each unit of the message. The body stays in memory while its objects are in work.
const BODY: u64 = 64 << 10;
/// Most messages in work at once, unless there are more slots. Each message has up to two connections, and most systems allow
/// a process 1,024 open files.
const MOST_AT_ONCE: usize = 128;

/// The memory of a worker. Clones share it.
#[derive(Clone, Debug)]
pub struct Room {
    slots: usize,
    units: Arc<Semaphore>,
    /// The units of all slots but one: places smaller than a slot share only these.
    small: Arc<Semaphore>,
}

/// Memory for the objects of one message, which are handled one after the other. The memory is free again when the place drops.
#[derive(Debug)]
pub struct Place {
    /// `None` if the place does not belong to a room. Such a place is as large as a slot.
    room: Option<Room>,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    units: u32,
    permit: Option<OwnedSemaphorePermit>,
    small: Option<OwnedSemaphorePermit>,
    /// One of the tenant's permits to grow.
    turn: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// A room of `slots` slots.
    pub fn new(slots: usize) -> Self {
        let units = |slots: usize| Arc::new(Semaphore::new(slots * UNITS as usize));
        Self { slots, units: units(slots), small: units(slots.saturating_sub(1)) }
    }

    /// Number of units in all.
    pub fn total(&self) -> usize {
        self.slots * UNITS as usize
    }

    /// Number of free units. 0 while a place waits to become a whole slot, because the units that come free are kept for it.
    pub fn free(&self) -> usize {
        self.units.available_permits()
    }

    /// Number of messages of `typical` units each that fit into `units` free units.
    pub fn fits(&self, units: usize, typical: f64) -> usize {
        // One slot is never shared. The numbers are not negative, and not larger than the number of units.
        let shared = self.small.available_permits().min(units);
        (shared as f64 / typical) as usize + (units - shared) / UNITS as usize
    }

    /// Most messages in work at once.
    pub fn most_at_once(&self) -> usize {
        self.slots.max(MOST_AT_ONCE.min(self.total()))
    }

    /// Takes a place of `units` units. If the slots that small places share are full, takes a whole slot instead. `None` if not
    /// enough units are free.
    pub fn take(&self, units: u32) -> Option<Place> {
        let take = |from: &Arc<Semaphore>, units| Arc::clone(from).try_acquire_many_owned(units).ok();
        let small = if units < UNITS { take(&self.small, units) } else { None };
        let units = if small.is_some() { units } else { UNITS };
        let permit = take(&self.units, units)?;
        let held = Held { units, permit: Some(permit), small, turn: None };
        Some(Place { room: Some(self.clone()), held: Mutex::new(held) })
    }
}

/// Number of units for a message: its body has `body` bytes, and its largest object has `stored` bytes (`None` if unknown).
pub fn units(stored: Option<u64>, body: usize) -> u32 {
    let units = |bytes: u64, each: u64| bytes.div_ceil(each).clamp(1, UNITS.into()) as u32;
    stored.map_or(UNITS, |stored| units(stored, STORED).max(units(body as u64, BODY)))
}

/// Most decompressed bytes of an object in a place of `units` units.
pub fn most_decompressed(units: u32) -> u64 {
    match units {
        UNITS => u64::MAX,
        units => u64::from(units) * DECOMPRESSED,
    }
}

impl Place {
    /// A place for an object of any size, outside of a room.
    pub fn whole() -> Self {
        Self { room: None, held: Mutex::new(Held { units: UNITS, permit: None, small: None, turn: None }) }
    }

    /// Number of units.
    pub fn units(&self) -> u32 {
        self.held().units
    }

    /// Most decompressed bytes of an object in this place.
    pub fn most_decompressed(&self) -> u64 {
        most_decompressed(self.units())
    }

    /// Waits until the place is a whole slot. Places grow in the order of their calls.
    ///
    /// First waits for a permit of `turns`, the tenant's semaphore, and keeps the permit. The semaphore limits how many places of
    /// one tenant grow at once, because the worker admits no message while a place waits for units.
    ///
    /// # Cancel safety
    /// Safe: a call that is dropped leaves the place as it was.
    pub async fn grow(&self, turns: &Arc<Semaphore>) {
        let (Some(room), missing @ 1..) = (&self.room, UNITS - self.units()) else { return };
        let turn = Arc::clone(turns).acquire_owned().await.expect("the semaphore is never closed");
        let more = Arc::clone(&room.units).acquire_many_owned(missing).await;
        let more = more.expect("the semaphore is never closed");
        let mut held = self.held();
        if let Some(permit) = &mut held.permit {
            permit.merge(more);
        }
        held.units = UNITS;
        held.small = None;
        held.turn = Some(turn);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // No holder of the lock panics halfway.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_size_decides_the_units() {
        for (stored, body, expected) in [
            (Some(0), 0, 1),
            (Some(16 << 10), 2_000, 1),
            (Some((16 << 10) + 1), 2_000, 2),
            (Some(112 << 10), 2_000, 7),
            (Some(1 << 40), 2_000, UNITS),
            (Some(10), 200_000, 4),
            (Some(10), 1 << 20, UNITS),
            (None, 0, UNITS),
        ] {
            assert_eq!(units(stored, body), expected, "{stored:?} {body}");
        }
    }

    #[test]
    fn small_places_leave_a_slot_for_those_that_grow() {
        let room = Room::new(2);
        let small: Vec<_> = (0..8).map(|_| room.take(1).expect("a slot is free for small places")).collect();
        assert_eq!(room.free(), 8);
        // A ninth small object gets a whole slot.
        let whole = room.take(1).expect("a slot is free");
        assert_eq!((whole.units(), room.free()), (UNITS, 0));
        assert!(room.take(1).is_none());
        drop(small);
        assert_eq!(room.free(), 8);
    }

    #[test]
    fn the_only_slot_is_never_shared() {
        let place = Room::new(1).take(1).expect("the slot is free");
        assert_eq!((place.units(), place.most_decompressed()), (UNITS, u64::MAX));
    }

    #[test]
    fn one_slot_counts_as_one_message() {
        let room = Room::new(3);
        assert_eq!((room.fits(24, 1.0), room.fits(24, 8.0), room.fits(4, 1.0)), (17, 3, 4));
        let small: Vec<_> = (0..16).map(|_| room.take(1)).collect();
        assert_eq!(room.fits(room.free(), 1.0), 1);
        drop(small);
        assert_eq!(Room::new(1).fits(8, 1.0), 1);
    }

    #[tokio::test]
    async fn a_tenant_grows_as_often_as_it_has_turns() {
        let (room, turns) = (Room::new(3), Arc::new(Semaphore::new(1)));
        let places = [room.take(1), room.take(1)].map(|place| place.expect("the room is empty"));
        places[0].grow(&turns).await;
        assert!(places[1].grow(&turns).now_or_never().is_none(), "one of the tenant's places has grown");
        let other = room.take(1).expect("others are admitted meanwhile");
        other.grow(&Arc::new(Semaphore::new(1))).await;
        let [first, second] = places;
        drop(first);
        second.grow(&turns).await;
    }

    #[tokio::test]
    async fn every_place_can_grow() {
        let room = Room::new(2);
        let places: Vec<_> = (0..4).map(|_| room.take(2).expect("a slot is free for small places")).collect();
        let other = room.take(UNITS).expect("the other slot is free");
        let grow = async |place: Place| {
            let turns = Arc::new(Semaphore::new(1));
            place.grow(&turns).await;
            place.grow(&turns).await;
            assert_eq!((place.units(), place.most_decompressed()), (UNITS, u64::MAX));
        };
        let mut growing: Vec<_> = places.into_iter().map(|place| Box::pin(grow(place))).collect();
        for growing in &mut growing {
            assert!(growing.now_or_never().is_none(), "no unit is free");
        }
        drop(other);
        assert!(room.take(1).is_none(), "objects that grow come first");
        for growing in growing {
            growing.await;
        }
        assert_eq!(room.free(), room.total());
        assert!(room.take(1).is_some_and(|place| place.units() == 1), "small places are free again");
    }
}
