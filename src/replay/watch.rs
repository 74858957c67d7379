//! Replays the new objects of a bucket again and again, for installations without notifications.
//!
//! A place in the ledger's table says how far a watch has come: every object with an older LastModified has been dealt with. Each
//! scan lists the whole selection, because S3 lists by key and not by time, and handles the objects that are not much older than
//! the place. How much, the overlap says: an object appears in the listing when its upload ends, with the time of the upload's
//! start as LastModified.
//!
//! The place moves after a complete scan: to the newest LastModified of the scan, but not beyond the scan's start (an object may
//! be written into a part of the listing that the scan has left behind), and not beyond an object that is not finished. So a
//! watch that is killed, or two watches at the same time, lose nothing; the ledger keeps them from delivering an object twice.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Destination, Fate, Item, Order, Outcome, outcome::Counts, progress::Progress, run};
use crate::{
    ledger::{
        LedgerError,
        watch::{Watch, WatchPlaces},
    },
    object::listing::ObjectListing,
};

/// Most finished objects that a watch remembers, at 48 bytes each. The ledger knows the others.
const MOST_KNOWN: usize = 500_000;

/// How to watch.
#[derive(Clone, Debug)]
pub struct Watching {
    /// Time between the beginnings of two scans.
    pub every: Duration,
    /// How far a scan goes back behind the place.
    pub overlap: Duration,
    /// Age at which an object that still fails is given up.
    pub max_age: Duration,
    /// Earliest LastModified, for a watch that has no place yet.
    pub since: Option<Timestamp>,
}

/// Reason why a watch cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The watch has no place, and no time was given.
    #[error("this watch has no place in the ledger yet; say with --since where it begins")]
    NoPlace,
    /// The place cannot be read or written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The first scan failed.
    #[error("{0}")]
    Listing(String),
}

/// What a watch did until it was stopped.
#[derive(Debug, Default, Serialize)]
pub struct WatchOutcome {
    /// Complete scans.
    pub scans: u64,
    /// Every older object has been dealt with.
    pub place: Option<Timestamp>,
    /// Objects that were delivered.
    pub delivered: u64,
    /// Objects about which a message was sent.
    pub sent: u64,
    /// Objects that no retry can deliver, or that failed for too long.
    pub given_up: u64,
    /// Stored bytes of the objects that were delivered or sent.
    pub stored_bytes: u64,
    /// Bytes that CloudWatch Logs bills for the delivered objects.
    pub billed_bytes: u64,
    /// The last scan, which may have been interrupted.
    pub last_scan: Outcome,
}

/// The name of the watch of an order.
pub fn name(order: &Order) -> Watch {
    let selection = &order.selection;
    let sorted = |names: &[String]| {
        let mut names = names.to_vec();
        names.sort();
        names.dedup();
        names
    };
    let (tenants, applications) = (sorted(&selection.tenants), sorted(&selection.applications));
    let name = serde_json::json!({
        "bucket": order.bucket, "prefix": selection.prefix, "tenants": tenants, "applications": applications,
    });
    Watch(name.to_string())
}

/// Scans until `stop` is cancelled. A scan that fails is logged, and the next one follows after the usual time; only the first
/// one's failure ends the watch.
///
/// # Errors
/// See [`WatchError`].
///
/// # Cancel safety
/// As [`run`].
pub async fn watch<L: ObjectListing>(
    order: &Order,
    watching: &Watching,
    listing: &L,
    destination: &Arc<dyn Destination>,
    places: &impl WatchPlaces,
    stop: &CancellationToken,
) -> Result<WatchOutcome, WatchError> {
    let watch = name(order);
    let first_began = Timestamp::now();
    let (mut place, floor) = begin(places, &watch, watching).await?;
    let mut bad_keys = 0;
    let mut watched = WatchOutcome { place: Some(place), ..WatchOutcome::default() };
    let mut known = Known::default();
    while !stop.is_cancelled() {
        let (next, began) = (Instant::now() + watching.every, Timestamp::now());
        let since = before(place, watching.overlap).max(floor);
        known.forget_before(since);
        let mut order = order.clone();
        order.selection.since = Some(since);
        let mut scan = Scan {
            known: &mut known,
            // An object that was already old when the watch began is tried for as long as a new one.
            hopeless: Some(before(began, watching.max_age)).filter(|hopeless| first_began < *hopeless),
            newest: None,
            unfinished: None,
            given_up: 0,
        };
        let outcome = run(&order, listing, destination, Some(&mut scan), &Progress::default(), stop).await;
        let Scan { newest, unfinished, given_up, .. } = scan;
        if let Some(error) = &outcome.listing_error {
            if watched.scans == 0 {
                return Err(WatchError::Listing(error.clone()));
            }
            tracing::error!(error, "a scan failed; the next one covers the same objects");
        } else if !outcome.interrupted {
            watched.scans += 1;
            let reached = newest.into_iter().chain([began]).min().filter(|_| newest.is_some());
            let reached = reached.map(|reached| reached.min(unfinished.unwrap_or(reached)));
            if let Some(reached) = reached.filter(|reached| *reached > place) {
                match places.advance(&watch, reached).await {
                    Ok(()) => (place, watched.place) = (reached, Some(reached)),
                    Err(error) => tracing::warn!(
                        error = %error,
                        "the watch's place could not be written; the next scan covers the same objects"
                    ),
                }
            }
        }
        tell(&outcome, place);
        if outcome.counts.bad_keys.objects > bad_keys {
            tracing::warn!(
                replay.bad_keys = outcome.counts.bad_keys.objects,
                object.key = outcome.counts.bad_keys.first.first().map(|bad| &bad.key),
                "objects match neither source.key_layout nor a rule, and nobody gets them"
            );
        }
        bad_keys = outcome.counts.bad_keys.objects;
        if Instant::now() > next {
            tracing::warn!(
                replay.seconds = outcome.seconds,
                "a scan takes longer than the interval: raise --max-objects-per-second and --max-bytes-per-second above the \
                 rate of new objects, or choose a longer interval"
            );
        }
        watched.given_up += given_up;
        watched.add(outcome);
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
    Ok(watched)
}

/// Reads the place, and returns it with the earliest LastModified of a scan. A new watch gets a place at once: if it is stopped
/// before the end of its first scan, the next start goes on from the same time, even if that time was given as a duration. The
/// next start then goes back by the overlap, because its overlap may be another one.
async fn begin(
    places: &impl WatchPlaces,
    watch: &Watch,
    watching: &Watching,
) -> Result<(Timestamp, Timestamp), WatchError> {
    if let Some(place) = places.place(watch).await? {
        return Ok((place, Timestamp::MIN));
    }
    let since = watching.since.ok_or(WatchError::NoPlace)?;
    places.advance(watch, since).await?;
    Ok((since, since))
}

fn before(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

fn tell(outcome: &Outcome, place: Timestamp) {
    let Outcome { counts, delivered, sent, already_delivered, busy, seconds, .. } = outcome;
    let Counts { listed, selected, .. } = counts;
    let failed = outcome.failures();
    if *selected == 0 {
        tracing::debug!(replay.listed = listed, replay.seconds = seconds, replay.place = %place, "scan without new objects");
        return;
    }
    tracing::info!(
        replay.listed = listed,
        replay.selected = selected,
        replay.delivered = delivered,
        replay.sent = sent,
        replay.already_delivered = already_delivered,
        replay.busy = busy,
        replay.failed = failed,
        replay.seconds = seconds,
        replay.place = %place,
        "scan"
    );
}

impl WatchOutcome {
    fn add(&mut self, outcome: Outcome) {
        self.delivered += outcome.delivered;
        self.sent += outcome.sent;
        self.stored_bytes += outcome.stored_bytes;
        self.billed_bytes += outcome.billed_bytes;
        self.last_scan = outcome;
    }
}

/// Observes one scan.
pub struct Scan<'a> {
    known: &'a mut Known,
    /// An older object that fails is given up. `None`: the watch has not run for long enough.
    hopeless: Option<Timestamp>,
    /// Newest LastModified of a selected object.
    newest: Option<Timestamp>,
    /// Oldest LastModified of an object that is not finished.
    unfinished: Option<Timestamp>,
    given_up: u64,
}

impl Scan<'_> {
    /// Whether the object is passed over, because its fate is known from an earlier scan.
    pub(super) fn knows(&mut self, item: &Item) -> bool {
        self.newest = self.newest.max(Some(item.modified));
        self.known.contains(item)
    }

    /// Takes the fate of an object.
    pub(super) fn ended(&mut self, item: &Item, fate: &Fate) {
        let finished = match fate {
            Fate::Delivered | Fate::Sent | Fate::AlreadyDelivered | Fate::Skipped(_) => true,
            Fate::Busy(_) | Fate::Interrupted => false,
            Fate::Failed(_) | Fate::Unsent(_) => {
                fate.again_in().is_none() || self.hopeless.is_some_and(|hopeless| item.modified < hopeless)
            }
        };
        if !finished {
            self.unfinished = Some(self.unfinished.map_or(item.modified, |oldest| oldest.min(item.modified)));
            return;
        }
        self.known.insert(item);
        if matches!(fate, Fate::Failed(_) | Fate::Unsent(_)) {
            self.given_up += 1;
            tracing::error!(
                object.bucket = item.object.bucket,
                object.key = item.object.key,
                tenant.id = item.tenant_id,
                "the watch gives an object up; replay it when its failure is mended"
            );
        }
    }
}

/// The finished objects of the overlap, so that each scan asks S3 and the ledger only about new ones. Two keyed hashes stand for
/// an object: nobody can find two objects with the same hashes, and chance will not.
#[derive(Debug, Default)]
struct Known {
    keys: [RandomState; 2],
    objects: HashMap<[u64; 2], Timestamp>,
}

impl Known {
    fn hash(&self, item: &Item) -> [u64; 2] {
        let object = (&item.object.key, &item.etag, item.modified);
        self.keys.each_ref().map(|key| key.hash_one(object))
    }

    fn contains(&self, item: &Item) -> bool {
        self.objects.contains_key(&self.hash(item))
    }

    fn insert(&mut self, item: &Item) {
        if self.objects.len() < MOST_KNOWN {
            self.objects.insert(self.hash(item), item.modified);
        }
    }

    fn forget_before(&mut self, time: Timestamp) {
        self.objects.retain(|_, modified| *modified >= time);
    }
}
