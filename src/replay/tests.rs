//! Runs, estimates and watches on a listing in memory and a destination that answers as a test says.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::*;
use crate::{
    delivery::Tally,
    ledger::watch::{MemoryWatchPlaces, WatchPlaces},
    object::{ObjectError, listing::memory::MemoryListing},
    pipeline::Delivered,
    verdict::Failure,
};

mod watching;

/// What the destination does with an object.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Deliver,
    Known,
    Filter,
    Busy,
    /// A failure that may pass.
    Fail,
    /// A failure that does not pass.
    Refuse,
    Panic,
}

/// Answers by key, with the answers of a list one after another; the last one stays.
#[derive(Debug)]
struct Answers {
    batch: usize,
    takes: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    answers: HashMap<String, Vec<Answer>>,
    calls: Vec<(Instant, Vec<String>)>,
    running: usize,
    most_running: usize,
}

impl Answers {
    fn new() -> Self {
        Self { batch: 1, takes: Duration::from_millis(1), state: Mutex::default() }
    }

    fn on(self, key: &str, answers: &[Answer]) -> Self {
        self.lock().answers.insert(key.to_owned(), answers.to_vec());
        self
    }

    fn set(&self, key: &str, answers: &[Answer]) {
        self.lock().answers.insert(key.to_owned(), answers.to_vec());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys of all calls, in order.
    fn keys(&self) -> Vec<String> {
        self.lock().calls.iter().flat_map(|(_, keys)| keys.clone()).collect()
    }

    fn taken(&self, item: &Item) -> Taken {
        let answer = match self.lock().answers.get_mut(&item.object.key) {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0],
            None => Answer::Deliver,
        };
        let failed = |failure| Fate::from(Failed::of(&item.object, None, None, failure));
        let fate = match answer {
            Answer::Deliver => {
                let billed_bytes = 3 * item.object.size.unwrap_or_default();
                return Taken { billed_bytes, ..Fate::Delivered.into() };
            }
            Answer::Known => Fate::AlreadyDelivered,
            Answer::Filter => Fate::Skipped(Skipped::Filtered),
            Answer::Busy => Fate::Busy(Duration::from_secs(60)),
            Answer::Fail => failed(Failure::Object(ObjectError::Unavailable("reset".to_owned()))),
            Answer::Refuse => failed(Failure::UnknownTenant),
            Answer::Panic => panic!("as the test asks"),
        };
        fate.into()
    }
}

#[async_trait::async_trait]
impl Destination for Answers {
    fn batch(&self) -> usize {
        self.batch
    }

    async fn take(&self, items: &[Item], stop: &CancellationToken) -> Vec<Taken> {
        {
            let mut state = self.lock();
            state.calls.push((Instant::now(), items.iter().map(|item| item.object.key.clone()).collect()));
            state.running += 1;
            state.most_running = state.most_running.max(state.running);
        }
        let stopped = tokio::select! {
            () = tokio::time::sleep(self.takes) => false,
            () = stop.cancelled() => true,
        };
        self.lock().running -= 1;
        items.iter().map(|item| if stopped { Fate::Interrupted.into() } else { self.taken(item) }).collect()
    }
}

fn order() -> Order {
    Order {
        bucket: "staging".to_owned(),
        selection: selection::tests::selection("{tenant}/{file}"),
        concurrency: NonZeroUsize::new(4).expect("above 0"),
        caps: Caps { objects_per_second: 1e6, bytes_per_second: 1e12 },
    }
}

/// A listing of objects with 10 bytes.
fn listing<'a>(keys: impl IntoIterator<Item = &'a str>) -> MemoryListing {
    MemoryListing::of(3, keys.into_iter().map(|key| (key, 10, Timestamp::UNIX_EPOCH)))
}

async fn replay(order: &Order, listing: &MemoryListing, answers: &Arc<Answers>) -> Outcome {
    let destination: Arc<dyn Destination> = Arc::clone(answers) as _;
    let (progress, stop) = (Progress::default(), CancellationToken::new());
    let outcome = run(order, listing, &destination, None, &progress, &stop).await;
    let ended = outcome.counts.selected;
    assert_eq!(progress.finished().objects, ended, "every selected object has an end");
    assert_eq!(sum(&outcome), ended, "{outcome:?}");
    outcome
}

/// The sum of all fates.
fn sum(outcome: &Outcome) -> u64 {
    let Outcome { delivered, sent, already_delivered, skipped, busy, unfinished, .. } = outcome;
    delivered
        + sent
        + already_delivered
        + skipped.values().sum::<u64>()
        + busy
        + unfinished
        + outcome.failures()
}

#[tokio::test(start_paused = true)]
async fn every_object_is_counted_once() {
    let keys = ["a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "bad", "c/", "d/1"];
    let listing = listing(keys);
    listing.put("c/", 0, Timestamp::UNIX_EPOCH);
    let answers = Answers::new()
        .on("a/2", &[Answer::Known])
        .on("a/3", &[Answer::Filter])
        .on("b/1", &[Answer::Refuse])
        .on("b/2", &[Answer::Refuse])
        .on("d/1", &[Answer::Panic]);
    let answers = Arc::new(answers);
    let outcome = replay(&order(), &listing, &answers).await;
    assert_eq!((outcome.counts.listed, outcome.counts.selected, outcome.counts.folder_markers), (9, 7, 1));
    assert_eq!((outcome.delivered, outcome.already_delivered, outcome.counts.bad_keys.objects), (2, 1, 1));
    assert_eq!(outcome.skipped, [("filtered", 1)].into());
    assert_eq!((outcome.stored_bytes, outcome.billed_bytes), (20, 60));
    let failed: Vec<_> =
        outcome.failed.iter().map(|(reason, failures)| (*reason, failures.objects)).collect();
    assert_eq!(failed, [("panic", 1), ("unknown_tenant", 2)]);
    let told = serde_json::to_value(&outcome).expect("JSON");
    assert_eq!(told["failed"]["unknown_tenant"]["first"]["key"], "b/1", "{told:#}");
    assert!(told["failed"]["unknown_tenant"]["first"]["remedy"].is_string(), "{told:#}");
    assert_eq!(told["bad_keys"]["first"][0]["key"], "bad", "{told:#}");
    assert!(!outcome.is_success());
    let mut taken = answers.keys();
    taken.sort();
    // A panic may pass.
    taken.dedup();
    assert_eq!(taken, ["a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "d/1"]);
}

#[tokio::test(start_paused = true)]
async fn objects_that_may_succeed_later_are_tried_a_second_time_and_no_third_time() {
    let listing = listing(["a/1", "a/2", "a/3", "a/4"]);
    let answers = Answers::new()
        .on("a/1", &[Answer::Busy, Answer::Deliver])
        .on("a/2", &[Answer::Fail, Answer::Known])
        .on("a/3", &[Answer::Busy])
        .on("a/4", &[Answer::Fail]);
    let answers = Arc::new(answers);
    let began = Instant::now();
    let outcome = replay(&order(), &listing, &answers).await;
    assert_eq!(
        (outcome.delivered, outcome.already_delivered, outcome.busy, outcome.failures()),
        (1, 1, 1, 1)
    );
    assert_eq!(answers.keys().len(), 8);
    assert!((60..62).contains(&began.elapsed().as_secs()), "the lease of the busy objects ends first");
    // A busy object is no failure of the run.
    let only_busy = Arc::new(Answers::new().on("a/1", &[Answer::Busy]));
    assert!(replay(&order(), &self::listing(["a/1"]), &only_busy).await.is_success());
}

#[tokio::test(start_paused = true)]
async fn the_cap_and_the_concurrency_hold() {
    let keys: Vec<_> = (0..500).map(|number| format!("a/{number:03}")).collect();
    let listing = listing(keys.iter().map(String::as_str));
    let caps = Caps { objects_per_second: 50.0, bytes_per_second: 1e12 };
    let answers = Arc::new(Answers { takes: Duration::from_millis(70), ..Answers::new() });
    let began = Instant::now();
    replay(&Order { caps, ..order() }, &listing, &answers).await;
    let seconds = began.elapsed().as_secs_f64();
    assert!((9.9..10.3).contains(&seconds), "500 objects at 50 per second took {seconds} s");
    {
        let state = answers.lock();
        let in_a_second = |from: Instant| {
            let begun =
                |(at, _): &&(Instant, Vec<String>)| *at >= from && *at < from + Duration::from_secs(1);
            state.calls.iter().filter(begun).count()
        };
        let most = state.calls.iter().map(|(at, _)| in_a_second(*at)).max();
        assert!(most.is_some_and(|most| most <= 55), "{most:?} objects began within a second");
    }
    // A slow destination gets no more than the concurrency allows, and no burst afterwards.
    let slow = Arc::new(Answers { takes: Duration::from_secs(1), ..Answers::new() });
    let began = Instant::now();
    replay(&Order { caps, ..order() }, &listing, &slow).await;
    assert_eq!(slow.lock().most_running, 4);
    assert!((125..130).contains(&began.elapsed().as_secs()));
}

#[tokio::test(start_paused = true)]
async fn objects_are_given_in_batches() {
    let keys: Vec<_> = (0..25).map(|number| format!("a/{number:02}")).collect();
    let answers = Arc::new(Answers { batch: 10, ..Answers::new() });
    let outcome = replay(&order(), &listing(keys.iter().map(String::as_str)), &answers).await;
    assert_eq!(outcome.delivered, 25);
    let sizes: Vec<_> = answers.lock().calls.iter().map(|(_, keys)| keys.len()).collect();
    assert_eq!(sizes, [10, 10, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_run_begins_no_further_object() {
    let keys: Vec<_> = (0..100).map(|number| format!("a/{number:02}")).collect();
    let listing = listing(keys.iter().map(String::as_str));
    let caps = Caps { objects_per_second: 10.0, bytes_per_second: 1e12 };
    let answers = Arc::new(Answers { takes: Duration::from_millis(50), ..Answers::new() });
    let destination: Arc<dyn Destination> = Arc::clone(&answers) as _;
    let (progress, stop) = (Progress::default(), CancellationToken::new());
    let (stopping, began) = (stop.clone(), Instant::now());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(2020)).await;
        stopping.cancel();
    });
    let order = Order { caps, ..order() };
    let outcome = run(&order, &listing, &destination, None, &progress, &stop).await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(outcome.interrupted && !outcome.is_success());
    let begun = answers.keys().len() as u64;
    assert!((20..=23).contains(&begun), "{begun}");
    assert_eq!(outcome.delivered, begun - 1, "the last one was in work");
    assert!(
        (1..=2).contains(&outcome.unfinished),
        "it, and perhaps the one that waited for its turn: {outcome:?}"
    );
    assert_eq!(sum(&outcome), outcome.counts.selected);
}

#[tokio::test(start_paused = true)]
async fn what_was_listed_is_delivered_if_the_rest_cannot_be_listed() {
    let listing = listing(["a/1", "a/2", "a/3", "a/4"]);
    let answers = Arc::new(Answers { takes: Duration::from_secs(5), ..Answers::new() });
    let (failing, waiting) = (listing.clone(), Arc::clone(&answers));
    let order = Order { concurrency: NonZeroUsize::MIN, ..order() };
    let fail = async move {
        while waiting.keys().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        failing.fail_next();
    };
    let (outcome, ()) = tokio::join!(replay(&order, &listing, &answers), fail);
    assert_eq!((outcome.delivered, outcome.counts.listed), (3, 3));
    assert!(outcome.listing_error.as_ref().is_some_and(|error| error.contains("cannot be listed")));
    assert!(!outcome.is_success());
}

#[tokio::test(start_paused = true)]
async fn the_cost_is_estimated_from_a_sample() {
    let keys: Vec<_> =
        (0..60).map(|number| format!("{}/{number:02}", ["acme", "globex"][number % 2])).collect();
    let listing = listing(keys.iter().map(String::as_str));
    listing.put("bad", 10, Timestamp::UNIX_EPOCH);
    let answers = Answers::new();
    let order = order();
    let (price, stop) = (0.5, CancellationToken::new());
    let estimate = estimate::estimate("staging", &order.selection, &listing, &answers, price, &stop).await;
    let estimate = estimate.expect("memory answers");
    assert_eq!(
        (estimate.counts.listed, estimate.counts.selected, estimate.counts.bad_keys.objects),
        (61, 60, 1)
    );
    assert_eq!((estimate.stored_bytes, estimate.billed_bytes), (600, Some(1800)));
    assert_eq!((estimate.sample.objects, estimate.sample.stored_bytes), (20, 200));
    let of_tenants: Vec<_> =
        estimate.tenants.values().map(|tenant| (tenant.objects, tenant.stored_bytes)).collect();
    assert_eq!(of_tenants, [(30, 300), (30, 300)]);
    let gb = f64::from(1 << 30);
    assert!(estimate.cost.is_some_and(|cost| (cost / (1800.0 / gb * price) - 1.0).abs() < 1e-9));
    let mut sample = answers.keys();
    sample.sort();
    sample.dedup();
    assert_eq!(sample.len(), 20, "no object is twice in the sample");
    // Objects that cannot be read do not count in the ratio.
    let unreadable = keys.iter().fold(Answers::new(), |answers, key| answers.on(key, &[Answer::Refuse]));
    let estimate = estimate::estimate("staging", &order.selection, &listing, &unreadable, price, &stop).await;
    let estimate = estimate.expect("memory answers");
    assert_eq!((estimate.billed_bytes, estimate.sample.failed["unknown_tenant"].objects), (None, 20));
}

/// Another try gets the object to the delivery that failed for now; the bad row is told when it is the only failure.
#[test]
fn a_failure_that_may_pass_decides_before_one_that_stays() {
    let failed = |failure| Failed::of(&ObjectRef::default(), None, None, failure);
    for order in [0, 1] {
        let mut failures =
            vec![failed(Failure::UnknownTenant), failed(Failure::Busy(Duration::from_secs(1)))];
        failures.rotate_left(order);
        let mut report = MessageReport::default();
        report.failures = failures;
        let fate = Fate::of(report);
        assert!(fate.again_in().is_some(), "{fate:?}");
    }
}

/// A delivery that refuses for now is not the only one: another one may have read the object, and its bytes are billed.
#[test]
fn an_object_counts_in_the_caps_if_any_delivery_has_read_it() {
    let refused = || Failure::Busy(Duration::from_secs(1));
    let failed = || Failed::of(&ObjectRef::default(), None, Some("s3"), refused());
    let delivered = |mode| Delivered {
        tenant_id: "acme".to_owned(),
        delivery: "cloudwatch".to_owned(),
        mode,
        key: "acme/1".to_owned(),
        tally: Tally { bytes: 70, ..Tally::default() },
    };
    let taken = |delivered: Vec<Delivered>, failures: Vec<Failed>| {
        let mut report = MessageReport::default();
        (report.delivered, report.failures) = (delivered, failures);
        let taken = Taken::from(report);
        (matches!(taken.fate, Fate::Busy(_)), taken.counts, taken.billed_bytes)
    };
    assert_eq!(taken(vec![], vec![failed()]), (true, false, 0));
    assert_eq!(taken(vec![delivered(Mode::Live)], vec![failed()]), (true, true, 70));
    assert_eq!(taken(vec![delivered(Mode::Shadow)], vec![failed()]), (true, true, 0));
    assert_eq!(taken(vec![delivered(Mode::Live)], vec![]), (false, true, 70));
}
