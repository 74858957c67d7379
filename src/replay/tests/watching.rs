//! Watches. Scans begin in paused time, and the objects' times are real.

use jiff::SignedDuration;

use super::*;
use crate::replay::watch::{WatchError, WatchOutcome, Watching, name, watch};

const EVERY: Duration = Duration::from_secs(60);

fn watching(since: Option<Timestamp>, max_age: Duration) -> Watching {
    let overlap = Duration::from_mins(15);
    Watching { every: EVERY, overlap, max_age, since }
}

fn ago(minutes: i64) -> Timestamp {
    Timestamp::now() - SignedDuration::from_mins(minutes)
}

/// A watch with its surroundings. Each [`Stage::scan`] is a watch that is stopped after some scans and started again.
struct Stage {
    order: Order,
    listing: MemoryListing,
    answers: Arc<Answers>,
    places: MemoryWatchPlaces,
    max_age: Duration,
}

impl Stage {
    fn new() -> Self {
        let (listing, answers) = (MemoryListing::of(3, []), Arc::new(Answers::new()));
        Self {
            order: order(),
            listing,
            answers,
            places: MemoryWatchPlaces::default(),
            max_age: Duration::from_hours(72),
        }
    }

    async fn place(&self) -> Option<Timestamp> {
        self.places.place(&name(&self.order)).await.expect("memory answers")
    }

    async fn try_scans(&self, scans: u32, since: Option<Timestamp>) -> Result<WatchOutcome, WatchError> {
        let destination: Arc<dyn Destination> = Arc::clone(&self.answers) as _;
        let (stop, watching) = (CancellationToken::new(), watching(since, self.max_age));
        let stopping = stop.clone();
        let end = tokio::spawn(async move {
            tokio::time::sleep(EVERY * scans - EVERY / 2).await;
            stopping.cancel();
        });
        let watched = watch(&self.order, &watching, &self.listing, &destination, &self.places, &stop).await;
        end.abort();
        watched
    }

    async fn scans(&self, scans: u32, since: Option<Timestamp>) -> WatchOutcome {
        let watched = self.try_scans(scans, since).await.expect("the watch begins");
        assert_eq!(watched.scans, u64::from(scans));
        watched
    }
}

#[tokio::test(start_paused = true)]
async fn each_object_is_handled_once() {
    let stage = Stage::new();
    stage.listing.put("a/old", 10, ago(200));
    stage.listing.put("a/1", 10, ago(100));
    stage.listing.put("a/2", 10, ago(50));
    let (listing, new) = (stage.listing.clone(), ago(1));
    tokio::spawn(async move {
        tokio::time::sleep(EVERY * 2 + EVERY / 2).await;
        // The upload of the first began before the place, and has just ended.
        listing.put("a/slow", 10, ago(60));
        listing.put("a/new", 10, new);
    });
    let watched = stage.scans(5, Some(ago(120))).await;
    let mut keys = stage.answers.keys();
    keys.sort();
    assert_eq!(keys, ["a/1", "a/2", "a/new", "a/slow"]);
    assert_eq!((watched.delivered, watched.stored_bytes), (4, 40));
    assert_eq!((watched.place, stage.place().await), (Some(new), Some(new)));
    // A new process asks again about the overlap alone, and needs no time.
    stage.answers.set("a/new", &[Answer::Known]);
    let watched = stage.scans(2, None).await;
    assert_eq!(watched.delivered, 0);
    assert_eq!(stage.answers.keys()[4..], ["a/new"]);
}

#[tokio::test(start_paused = true)]
async fn the_place_does_not_pass_an_object_that_is_not_finished() {
    let stage = Stage::new();
    let (failing, busy) = (ago(100), ago(90));
    stage.listing.put("a/failing", 10, failing);
    stage.listing.put("a/busy", 10, busy);
    stage.listing.put("a/good", 10, ago(10));
    stage.answers.set("a/failing", &[Answer::Fail, Answer::Fail, Answer::Deliver]);
    stage.answers.set("a/busy", &[Answer::Busy]);
    let since = Some(ago(120));
    stage.scans(2, since).await;
    assert!(stage.place().await.is_some_and(|place| place <= failing));
    assert_eq!(stage.answers.keys().iter().filter(|key| *key == "a/good").count(), 1);
    stage.scans(2, since).await;
    assert_eq!(stage.place().await, Some(busy));
    stage.answers.set("a/busy", &[Answer::Known]);
    stage.scans(1, since).await;
    assert!(stage.place().await.is_some_and(|place| place > busy));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_no_retry_can_deliver_is_given_up_once() {
    let stage = Stage { max_age: Duration::ZERO, ..Stage::new() };
    let newest = ago(5);
    stage.listing.put("a/refused", 10, ago(100));
    stage.listing.put("a/failing-for-days", 10, ago(60 * 24 * 4));
    stage.listing.put("a/good", 10, newest);
    stage.answers.set("a/refused", &[Answer::Refuse]);
    stage.answers.set("a/failing-for-days", &[Answer::Fail]);
    let watched = stage.scans(3, Some(ago(60 * 24 * 5))).await;
    assert_eq!((watched.given_up, watched.delivered), (2, 1));
    assert_eq!(stage.answers.keys().len(), 3);
    assert_eq!(stage.place().await, Some(newest));
}

/// An outage of a minute is no reason to give up what was old when the watch began.
#[tokio::test(start_paused = true)]
async fn an_old_object_is_tried_for_as_long_as_a_new_one() {
    let stage = Stage::new();
    stage.listing.put("a/old", 10, ago(60 * 24 * 4));
    stage.answers.set("a/old", &[Answer::Fail, Answer::Fail, Answer::Deliver]);
    let watched = stage.scans(3, Some(ago(60 * 24 * 5))).await;
    assert_eq!((watched.given_up, watched.delivered), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_first_watch_needs_a_time_and_goes_on_from_there() {
    let stage = Stage::new();
    assert!(matches!(stage.try_scans(1, None).await, Err(WatchError::NoPlace)));
    // The bucket is empty, so the place stays where the first start set it.
    stage.scans(1, Some(ago(30))).await;
    stage.listing.put("a/before", 10, ago(46));
    stage.listing.put("a/after", 10, ago(29));
    stage.scans(1, Some(ago(1))).await;
    assert_eq!(stage.answers.keys(), ["a/after"], "the time of the second start does not count");
}

#[tokio::test(start_paused = true)]
async fn a_scan_that_fails_moves_no_place() {
    let stage = Stage::new();
    let since = Some(ago(120));
    stage.listing.fail_next();
    assert!(matches!(stage.try_scans(1, since).await, Err(WatchError::Listing(_))));
    let begin = stage.place().await;
    stage.listing.put("a/1", 10, ago(10));
    let listing = stage.listing.clone();
    tokio::spawn(async move {
        tokio::time::sleep(EVERY / 2).await;
        listing.put("a/2", 10, ago(1));
        listing.fail_next();
    });
    let watched = stage.try_scans(3, since).await.expect("the first scan succeeds");
    assert_eq!((watched.scans, watched.delivered), (2, 2));
    assert!(stage.place().await > begin);
}

#[test]
fn a_watch_is_named_by_what_it_watches() {
    let named = |change: fn(&mut Selection)| {
        let mut order = order();
        change(&mut order.selection);
        name(&order)
    };
    let plain = named(|_| ());
    assert_eq!(named(|selection| selection.since = Some(Timestamp::UNIX_EPOCH)), plain);
    assert_ne!(named(|selection| selection.prefix = "a/".to_owned()), plain);
    assert_ne!(named(|selection| selection.tenants = vec!["a".to_owned()]), plain);
    let two = named(|selection| selection.tenants = vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(named(|selection| selection.tenants = ["b", "a", "b"].map(str::to_owned).into()), two);
}
