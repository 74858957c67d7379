//! Sweeps of a dead-letter queue in memory, with paused time.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::*;
use crate::route::KeyLayout;

/// A dead-letter queue that checks receipts like SQS, with the messages that its source queue received.
#[derive(Default)]
struct MemoryLetters {
    state: Mutex<State>,
    /// How often the source queue refuses each of these texts.
    refused: Mutex<HashMap<String, u32>>,
    /// How often the deletion of each of these ids fails.
    stuck: Mutex<HashMap<String, u32>>,
    /// Number of receives after which all receives fail.
    broken_after: Option<usize>,
    /// A new letter arrives with every receive whose number is a multiple of this.
    trickles: Option<usize>,
    /// Makes every moved letter a dead letter again at once, sent at this second, because its cause persists.
    buried_again_at: Option<i64>,
}

#[derive(Default)]
struct State {
    letters: Vec<Stored>,
    sent: Vec<(Instant, String)>,
    receives: usize,
    hidings: usize,
}

struct Stored {
    letter: StoredLetter,
    receives: usize,
    visible_at: Instant,
}

impl MemoryLetters {
    fn of(tenants: impl IntoIterator<Item = &'static str>) -> Self {
        let queue = Self::default();
        for (index, tenant) in tenants.into_iter().enumerate() {
            queue.bury(&format!("{tenant}-{index}"), tenant, NOW - 60);
        }
        queue
    }

    fn bury(&self, id: &str, tenant: &str, at: i64) {
        let attributes = [("reason", "unknown_tenant"), ("tenant", tenant)];
        let letter = StoredLetter {
            id: id.to_owned(),
            body: format!("body of {id}"),
            attributes: BTreeMap::from(attributes.map(|(name, value)| (name.into(), value.into()))),
            sent_at: Timestamp::from_second(at).ok(),
            ..StoredLetter::default()
        };
        self.add(letter);
    }

    fn add(&self, letter: StoredLetter) {
        self.state().letters.push(Stored { letter, receives: 0, visible_at: Instant::now() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ids of the visible letters, and of the hidden ones.
    fn left(&self) -> (Vec<String>, Vec<String>) {
        let state = self.state();
        let visible = |stored: &&Stored| stored.visible_at <= Instant::now();
        let ids = |letters: Vec<&Stored>| letters.iter().map(|stored| stored.letter.id.clone()).collect();
        let (visible, hidden) = state.letters.iter().partition(visible);
        (ids(visible), ids(hidden))
    }

    fn sent(&self) -> Vec<String> {
        self.state().sent.iter().map(|(_, body)| body.clone()).collect()
    }
}

/// Whether this call fails for the name. Counts the failure.
fn fails(due: &Mutex<HashMap<String, u32>>, name: &str) -> bool {
    let mut due = due.lock().unwrap_or_else(PoisonError::into_inner);
    match due.get_mut(name) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

fn unavailable() -> QueueError {
    QueueError::Unavailable("InternalError".to_owned())
}

impl State {
    fn named(&mut self, receipt: &Receipt) -> Result<&mut Stored, QueueError> {
        let named = |stored: &&mut Stored| format!("{}#{}", stored.letter.id, stored.receives) == receipt.0;
        self.letters.iter_mut().find(named).ok_or_else(|| QueueError::Gone(receipt.0.clone()))
    }
}

impl DeadLetters for MemoryLetters {
    async fn receive(&self, hidden_for: Duration) -> Result<Vec<StoredLetter>, QueueError> {
        let received = {
            let mut state = self.state();
            state.receives += 1;
            if self.broken_after.is_some_and(|after| state.receives > after) {
                return Err(unavailable());
            }
            let now = Instant::now();
            if self.trickles.is_some_and(|every| state.receives.is_multiple_of(every)) {
                let letter = newcomer(&format!("late-{}", state.receives));
                state.letters.push(Stored { letter, receives: 0, visible_at: now });
            }
            let visible = state.letters.iter_mut().filter(|stored| stored.visible_at <= now);
            let take = |stored: &mut Stored| {
                stored.receives += 1;
                stored.visible_at = now + hidden_for;
                let receipt = Receipt(format!("{}#{}", stored.letter.id, stored.receives));
                StoredLetter { receipt, ..stored.letter.clone() }
            };
            visible.take(MAX_BATCH).map(take).collect::<Vec<_>>()
        };
        if received.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(received)
    }

    async fn hide(&self, receipts: &[Receipt], hidden_for: Duration) -> Vec<Result<(), QueueError>> {
        assert!((1..=MAX_BATCH).contains(&receipts.len()), "{} entries", receipts.len());
        let mut state = self.state();
        state.hidings += 1;
        let mut hide = |receipt| state.named(receipt).map(|s| s.visible_at = Instant::now() + hidden_for);
        receipts.iter().map(&mut hide).collect()
    }

    async fn send_back(&self, bodies: &[&str]) -> Vec<Result<(), QueueError>> {
        assert!((1..=MAX_BATCH).contains(&bodies.len()), "{} entries", bodies.len());
        let mut results = Vec::new();
        for body in bodies {
            if fails(&self.refused, body) {
                results.push(Err(unavailable()));
                continue;
            }
            self.state().sent.push((Instant::now(), (*body).to_owned()));
            if let Some(at) = self.buried_again_at {
                let id = format!("{} again", body.trim_start_matches("body of "));
                let sent_at = Timestamp::from_second(at).ok();
                self.add(StoredLetter { id, body: (*body).to_owned(), sent_at, ..StoredLetter::default() });
            }
            results.push(Ok(()));
        }
        results
    }

    async fn delete(&self, receipts: &[Receipt]) -> Vec<Result<(), QueueError>> {
        assert!((1..=MAX_BATCH).contains(&receipts.len()), "{} entries", receipts.len());
        let mut results = Vec::new();
        for receipt in receipts {
            let id = receipt.0.split('#').next().expect("a receipt begins with an id").to_owned();
            if fails(&self.stuck, &id) {
                results.push(Err(unavailable()));
                continue;
            }
            let sent = self.sent();
            let mut state = self.state();
            let mut unsent = state.letters.iter().filter(|stored| !sent.contains(&stored.letter.body));
            assert!(unsent.all(|stored| stored.letter.id != id), "{id} is deleted before it was sent");
            results.push(state.named(receipt).map(drop));
            state.letters.retain(|stored| stored.letter.id != id);
        }
        results
    }
}

/// Start of the sweep, in seconds since 1970.
const NOW: i64 = 1_795_313_284;

fn order(action: Action) -> Order {
    Order {
        filter: Filter::default(),
        limit: None,
        action,
        source_url: "https://sqs.eu-central-1.amazonaws.com/111111111111/logs".to_owned(),
        key_rules: KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right").into(),
        now: Timestamp::from_second(NOW).expect("a time"),
    }
}

/// A letter that was sent after the sweep began.
fn newcomer(id: &str) -> StoredLetter {
    let sent_at = Timestamp::from_second(NOW + 1).ok();
    StoredLetter { id: id.to_owned(), body: format!("body of {id}"), sent_at, ..StoredLetter::default() }
}

fn of_tenant(tenant: &str) -> Filter {
    Filter { tenants: vec![tenant.to_owned()], ..Filter::default() }
}

async fn run(queue: &MemoryLetters, order: Order) -> Outcome {
    sweep(queue, order, CancellationToken::new(), |_| ()).await
}

fn ids(letters: &[Letter]) -> Vec<&str> {
    let mut ids: Vec<_> = letters.iter().map(|letter| letter.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(start_paused = true)]
async fn looking_sees_each_letter_once_and_changes_nothing() {
    let queue = MemoryLetters::of(std::iter::repeat_n("acme", 137));
    let outcome = run(&queue, order(Action::Look)).await;
    assert_eq!(outcome.letters.len(), 137);
    assert!(outcome.broken_off.is_none());
    let (visible, hidden) = queue.left();
    assert_eq!((visible.len(), hidden.len()), (137, 0));
    assert_eq!(queue.sent(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn only_the_selected_letters_are_moved() {
    let tenants = std::iter::repeat_n(["acme", "globex"], 30).flatten();
    let queue = MemoryLetters::of(tenants);
    let outcome = run(&queue, Order { filter: of_tenant("acme"), ..order(Action::Move(None)) }).await;
    assert_eq!((outcome.letters.len(), outcome.others), (30, 30));
    let (visible, hidden) = queue.left();
    assert!(visible.iter().all(|id| id.starts_with("globex")), "{visible:?}");
    assert_eq!((visible.len(), hidden.len(), queue.sent().len()), (30, 0, 30));
}

/// The answer of a send was lost, so the worker sent a message to the dead-letter queue two or three times.
#[tokio::test(start_paused = true)]
async fn copies_of_a_letter_count_as_one() {
    // The copies are close together, or so far apart that the first is moved before the last is seen.
    for apart in [1, 95] {
        let build = || {
            let queue = MemoryLetters::default();
            let copy = |id: &str, message_id: &str| {
                queue.bury(id, "acme", NOW - 60);
                let letter =
                    &mut queue.state().letters.pop().expect("the letter was just added").letter.clone();
                letter.body = format!("body of {message_id}");
                letter.attributes.insert("message_id".into(), message_id.into());
                queue.add(letter.clone());
            };
            copy("a", "1");
            copy("b", "1");
            for index in 0..apart {
                copy(&format!("other-{index}"), &format!("m-{index}"));
            }
            copy("c", "1");
            queue
        };
        let queue = build();
        let looked = run(&queue, order(Action::Look)).await;
        assert_eq!((looked.letters.len(), looked.copies), (apart + 1, 2));
        assert_eq!(queue.left().0.len(), apart + 3, "everything is given back");
        let queue = build();
        let moved = run(&queue, order(Action::Move(None))).await;
        assert_eq!((moved.letters.len(), moved.copies, moved.came_back), (apart + 1, 2, 0));
        assert_eq!(queue.sent().iter().filter(|body| *body == "body of 1").count(), 1);
        assert_eq!(queue.left(), (vec![], vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_comes_back_is_not_moved_again() {
    let again = |at| MemoryLetters { buried_again_at: Some(at), ..MemoryLetters::of(["acme"; 25]) };
    let queue = again(NOW + 1);
    let outcome = run(&queue, order(Action::Move(None))).await;
    assert_eq!((outcome.letters.len(), outcome.newcomers, outcome.came_back), (25, 25, 0));
    assert_eq!(queue.left().0.len(), 25);

    // Our clock is ahead of SQS's.
    let queue = again(NOW - 1);
    let outcome = run(&queue, order(Action::Move(None))).await;
    assert_eq!((outcome.letters.len(), outcome.newcomers, outcome.came_back), (25, 0, 25));
    assert_eq!(queue.left().0.len(), 25);
}

#[tokio::test(start_paused = true)]
async fn old_letters_behind_newcomers_are_found() {
    let queue = MemoryLetters::default();
    // They come first, and one round of receives does not get all of them.
    for index in 0..RECEIVERS * MAX_BATCH * 2 {
        queue.add(newcomer(&format!("new-{index}")));
    }
    for index in 0..25 {
        queue.bury(&format!("old-{index}"), "acme", NOW - 60);
    }
    let outcome = run(&queue, order(Action::Look)).await;
    assert_eq!((outcome.letters.len(), outcome.newcomers), (25, 80));
    assert!(outcome.broken_off.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_sweep_ends_although_new_letters_arrive_all_the_time() {
    let queue = MemoryLetters { trickles: Some(RECEIVERS), ..MemoryLetters::of(["acme"; 25]) };
    let outcome = run(&queue, order(Action::Look));
    let outcome = tokio::time::timeout(HOLD, outcome).await.expect("the sweep ends");
    assert_eq!(outcome.letters.len(), 25);
    assert!(outcome.broken_off.is_none());
}

#[tokio::test(start_paused = true)]
async fn another_queue_s_letters_are_never_touched() {
    let queue = MemoryLetters::default();
    for (id, name) in [("ours", "logs"), ("theirs", "billing")] {
        queue.add(StoredLetter {
            id: id.to_owned(),
            body: format!("body of {id}"),
            source_arn: Some(format!("arn:aws:sqs:eu-central-1:111111111111:{name}")),
            ..StoredLetter::default()
        });
    }
    let outcome = run(&queue, order(Action::Move(None))).await;
    assert_eq!((ids(&outcome.letters), outcome.of_other_queues), (vec!["ours"], 1));
    assert_eq!(queue.left().0, ["theirs"]);
}

#[tokio::test(start_paused = true)]
async fn failed_entries_are_tried_again_and_then_reported() {
    let queue = MemoryLetters::of(["acme"; 12]);
    // `acme-1` and `acme-3` succeed at the third attempt.
    let fail = |due: &Mutex<HashMap<String, u32>>, names: [(&str, u32); 2]| {
        due.lock()
            .expect("no test panics while it holds the lock")
            .extend(names.map(|(name, times)| (name.to_owned(), times)));
    };
    fail(&queue.refused, [("body of acme-1", 2), ("body of acme-2", u32::MAX)]);
    fail(&queue.stuck, [("acme-3", 2), ("acme-4", u32::MAX)]);
    let outcome = run(&queue, order(Action::Move(None))).await;
    assert_eq!(outcome.letters.len(), 11);
    let told =
        |failures: &[(Letter, QueueError)]| failures.iter().map(|(l, _)| l.id.clone()).collect::<Vec<_>>();
    assert_eq!(
        (told(&outcome.unsent), told(&outcome.undeleted)),
        (vec!["acme-2".into()], vec!["acme-4".into()])
    );
    // The unsent letter is visible for the next attempt. The undeleted one stays hidden, so that the next attempt does not
    // move it again.
    assert_eq!(queue.left(), (vec!["acme-2".into()], vec!["acme-4".into()]));
    assert_eq!(queue.sent().len(), 11, "each once");
}

#[tokio::test(start_paused = true)]
async fn a_source_queue_that_accepts_nothing_ends_the_sweep() {
    let queue = MemoryLetters::of(["acme"; 200]);
    let all = (0..200).map(|index| (format!("body of acme-{index}"), u32::MAX));
    queue.refused.lock().expect("no test panics while it holds the lock").extend(all);
    let outcome = run(&queue, order(Action::Move(None))).await;
    assert!(matches!(outcome.broken_off, Some(BrokenOff::Unwritable)), "{outcome:?}");
    assert_eq!(outcome.unsent.len(), 10, "one batch is enough to know");
    assert_eq!(queue.left().0.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn letters_are_given_back_if_the_queue_can_no_longer_be_read() {
    let queue = MemoryLetters { broken_after: Some(6), ..MemoryLetters::of(["acme"; 100]) };
    let outcome = run(&queue, order(Action::Look)).await;
    assert!(matches!(outcome.broken_off, Some(BrokenOff::Unreadable(_))), "{outcome:?}");
    assert_eq!(outcome.letters.len(), 60);
    assert_eq!(queue.left().0.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_gives_every_letter_back() {
    let queue = MemoryLetters::of(["acme"; 100]);
    let stop = CancellationToken::new();
    let interrupt = |progress: Progress| {
        if progress.done >= 10 {
            stop.cancel();
        }
    };
    let rate = NonZeroU32::new(10);
    let outcome = sweep(&queue, order(Action::Move(rate)), stop.clone(), interrupt).await;
    assert!(matches!(outcome.broken_off, Some(BrokenOff::Interrupted)), "{outcome:?}");
    assert_eq!((outcome.letters.len(), queue.sent().len()), (10, 10));
    let (visible, hidden) = queue.left();
    assert_eq!((visible.len(), hidden.len()), (90, 0));
}

#[tokio::test(start_paused = true)]
async fn the_limit_is_exact() {
    for action in [Action::Look, Action::Move(None)] {
        let queue = MemoryLetters::of(["acme"; 100]);
        let outcome = run(&queue, Order { limit: Some(13), ..order(action) }).await;
        assert_eq!(outcome.letters.len(), 13);
        let moved = if action == Action::Look { 0 } else { 13 };
        assert_eq!((queue.left().0.len(), queue.sent().len()), (100 - moved, moved));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_move_keeps_its_rate_and_keeps_letters_hidden() {
    let tenants = std::iter::repeat_n(["acme", "globex", "globex"], 300).flatten();
    let queue = MemoryLetters::of(tenants);
    let asked = Order { filter: of_tenant("acme"), ..order(Action::Move(NonZeroU32::new(1))) };
    let started = Instant::now();
    let outcome = run(&queue, asked).await;
    // Each letter is received once, which shows that the letters of other tenants stay hidden.
    let most = queue.state().letters.iter().map(|stored| stored.receives).max();
    assert_eq!((outcome.letters.len(), outcome.others, most), (300, 600, Some(1)));
    assert!((299..320).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let state = queue.state();
    assert!(state.hidings > 60, "{} calls hide and give back 600 letters", state.hidings);
    let mut gaps = state.sent.windows(2).map(|pair| pair[1].0 - pair[0].0);
    assert!(gaps.all(|gap| gap >= Duration::from_millis(990)), "more than one a second");
}

#[tokio::test(start_paused = true)]
async fn a_moved_letter_that_is_received_again_is_deleted() {
    let queue = MemoryLetters::of(["acme"; 400]);
    queue
        .stuck
        .lock()
        .expect("no test panics while it holds the lock")
        .insert("acme-4".to_owned(), ENTRY_ATTEMPTS);
    // The move takes longer than the letter stays hidden.
    let outcome = run(&queue, order(Action::Move(NonZeroU32::new(1)))).await;
    assert_eq!((outcome.letters.len(), outcome.came_back, outcome.undeleted.len()), (400, 0, 0));
    assert_eq!((queue.left(), queue.sent().len()), ((Vec::new(), Vec::new()), 400));
}
