//! Tests of the loop with an in-memory queue, paused time, and a closure instead of the pipeline.

mod delays;
mod drain;
mod leases;
mod room;
mod waiting;

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    metrics::{add, rendered},
    queue::{
        DeadLetter,
        memory::{MemoryQueue, QueueCall, QueueOperation},
    },
    verdict::Cause,
};

const VISIBILITY: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

/// A running worker.
struct Running {
    queue: Arc<MemoryQueue>,
    stop: CancellationToken,
    health: Arc<Health>,
    metrics: Metrics,
    task: tokio::task::JoinHandle<Drained>,
}

impl Running {
    async fn stop(self) -> Drained {
        self.stop.cancel();
        self.task.await.expect("the loop never panics")
    }

    fn metric(&self, line: &str) -> bool {
        let text = rendered(|registry| {
            self.metrics.register(registry);
            // The pipeline does this in a worker.
            add(registry, "failures", "Failures", &self.metrics.failures);
        });
        text.contains(line)
    }
}

fn queue() -> MemoryQueue {
    MemoryQueue::new(VISIBILITY)
}

fn settings() -> WorkerSettings {
    WorkerSettings {
        concurrency: 4,
        max_messages: MAX_BATCH,
        wait_time: Duration::from_secs(20),
        visibility_timeout: VISIBILITY,
        grace_period: GRACE,
        max_hidden: 100,
        backoff: Backoff {
            first: Duration::from_secs(10),
            longest: Duration::from_secs(60),
            max_age: Duration::from_secs(3600),
            max_refusals: 3,
        },
        spans: Messages::default(),
    }
}

fn start_with<H, F>(queue: MemoryQueue, settings: WorkerSettings, handle: H) -> Running
where
    H: Fn(Arc<Message>) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    start_stoppable(queue, settings, move |message, _| handle(message))
}

/// Starts a worker whose handler gets the token that tells it to stop.
fn start_stoppable<H, F>(queue: MemoryQueue, settings: WorkerSettings, handle: H) -> Running
where
    H: Fn(Arc<Message>, CancellationToken) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    start_in_room(queue, settings, |_| UNITS, move |message, _, stop| handle(message, stop))
}

/// Starts a worker whose messages need as many units as `units` tells.
fn start_in_room<U, H, F>(queue: MemoryQueue, settings: WorkerSettings, units: U, handle: H) -> Running
where
    U: Fn(&Message) -> u32 + Send + Sync + 'static,
    H: Fn(Arc<Message>, Arc<Place>, CancellationToken) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    let (queue, stop, metrics) = (Arc::new(queue), CancellationToken::new(), Metrics::default());
    let health = Arc::new(Health::new(Duration::from_secs(20), &[]));
    let task = tokio::spawn({
        let (queue, stop, health, metrics) =
            (Arc::clone(&queue), stop.clone(), Arc::clone(&health), metrics.clone());
        async move { run(queue, units, handle, settings, stop, health, metrics).await }
    });
    Running { queue, stop, health, metrics, task }
}

fn start<H, F>(queue: MemoryQueue, handle: H) -> Running
where
    H: Fn(Arc<Message>) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    start_with(queue, settings(), handle)
}

/// The messages that were handled: body, attempt and time of each.
type Log = Arc<Mutex<Vec<(String, u32, Instant)>>>;

/// Notes each message in `log` before it is handled.
fn noting<H, F>(log: &Log, handle: H) -> impl Fn(Arc<Message>) -> F + Send + Sync + 'static
where
    H: Fn(Arc<Message>) -> F + Send + Sync + 'static,
{
    let log = Arc::clone(log);
    move |message| {
        note(&log, &message);
        handle(message)
    }
}

fn note(log: &Log, message: &Message) {
    let entry = (message.body.clone(), message.attempts, Instant::now());
    log.lock().expect("no test panics while it holds the lock").push(entry);
}

/// The body and the attempt of each message that was handled.
fn handled(log: &Log) -> Vec<(String, u32)> {
    let log = log.lock().expect("no test panics while it holds the lock");
    log.iter().map(|(body, attempt, _)| (body.clone(), *attempt)).collect()
}

fn empty(queue: &MemoryQueue) -> bool {
    queue.left().is_empty()
}

/// `count` messages, each with its number from 0 as its body.
fn numbered(count: usize) -> impl Iterator<Item = String> {
    (0..count).map(|number| number.to_string())
}

/// For each receive: the number of messages that it asked for, and its time.
fn receives(queue: &MemoryQueue) -> Vec<(usize, Instant)> {
    let calls = queue.calls().into_iter().filter_map(|(at, call)| match call {
        QueueCall::Receive(most) => Some((most, at)),
        _ => None,
    });
    calls.collect()
}

/// Every call except receives.
fn answers(queue: &MemoryQueue) -> Vec<QueueCall> {
    let calls = queue.calls().into_iter().map(|(_, call)| call);
    calls.filter(|call| !matches!(call, QueueCall::Receive(_))).collect()
}

fn delete(bodies: &[&str]) -> QueueCall {
    QueueCall::Delete(bodies.iter().map(|body| (*body).to_owned()).collect())
}

fn hide(body: &str, time: Duration) -> QueueCall {
    QueueCall::ChangeVisibility(vec![(body.to_owned(), time)])
}

#[tokio::test(start_paused = true)]
async fn a_message_is_deleted_after_its_ack_and_not_before() {
    let queue = queue();
    queue.send("m");
    let done = Arc::new(tokio::sync::Semaphore::new(0));
    let running = start(queue, {
        let done = Arc::clone(&done);
        move |_| {
            let done = Arc::clone(&done);
            async move {
                done.acquire().await.expect("nobody closes the semaphore").forget();
                Verdict::Ack
            }
        }
    });
    tokio::time::sleep(10 * VISIBILITY).await;
    assert_eq!(running.queue.left(), ["m"]);
    assert!(!answers(&running.queue).iter().any(|call| matches!(call, QueueCall::Delete(_))));
    assert!(running.metric("logferry_messages_in_flight 1\n"));
    done.add_permits(1);
    running.queue.until(empty).await;
    assert!(running.metric("logferry_messages_in_flight 0\n"));
    assert!(running.metric("logferry_messages_total{verdict=\"ack\"} 1\n"));
    assert_eq!(running.stop().await, Drained { given_back: 0 });
}

#[tokio::test(start_paused = true)]
async fn a_retry_hides_the_message_for_its_delay() {
    let queue = queue();
    queue.send("m");
    let (log, delay, begin) = (Log::default(), Duration::from_secs(60), Instant::now());
    let running = start(queue, until_attempt(&log, 2, retry_after(delay)));
    running.queue.until(|queue| !answers(queue).is_empty()).await;
    assert_eq!(running.queue.hidden_for("m"), delay);
    let hidden = begin.elapsed();
    running.queue.until(empty).await;
    assert_eq!(answers(&running.queue), [hide("m", delay), delete(&["m"])]);
    assert_eq!(handled(&log), [("m".to_owned(), 1), ("m".to_owned(), 2)]);
    assert_eq!(log.lock().expect("no test panics while it holds the lock")[1].2 - begin, hidden + delay);
    running.stop().await;
}

/// Notes each message in `log`. Answers `again` to the attempts before `last`, and acknowledges the attempt `last`.
fn until_attempt(
    log: &Log,
    last: u32,
    again: Verdict,
) -> impl Fn(Arc<Message>) -> std::future::Ready<Verdict> + Send + Sync + 'static {
    noting(log, move |message| {
        std::future::ready(if message.attempts < last { again.clone() } else { Verdict::Ack })
    })
}

/// A retry for the tenant acme.
fn retry_after(delay: Duration) -> Verdict {
    let attributes = vec![("tenant", "acme".into())];
    Verdict::Retry(Cause { reason: "role_denied", attributes, delay, refusals: 0 })
}

/// The cause of a bad key of the tenant acme.
fn bad_key_after(delay: Duration) -> Cause {
    let attributes = vec![("tenant", "acme".into()), ("key", "a/b".into())];
    Cause { reason: "bad_key", attributes, delay, refusals: 0 }
}

fn bad_key() -> Verdict {
    Verdict::Poison(bad_key_after(5 * SECOND))
}

/// The dead letter of [`bad_key`] for a message m.
fn letter() -> DeadLetter {
    let attributes = [("reason", "bad_key"), ("message_id", "m"), ("tenant", "acme"), ("key", "a/b")];
    DeadLetter {
        body: "m".into(),
        attributes: attributes.map(|(name, value)| (name, value.to_owned())).into(),
    }
}

/// Handles 12 messages in 8 slots. `millis` gives the time of each message by its number. Returns for the first `count`
/// receives the number of messages that the receive asked for, and its time.
async fn first_receives(count: usize, millis: fn(u64) -> u64) -> Vec<(usize, u128)> {
    let queue = queue();
    queue.send_all(numbered(12));
    let settings = WorkerSettings { concurrency: 8, max_messages: 8, ..settings() };
    let running = start_with(queue, settings, move |message| async move {
        let number = message.body.parse().expect("a number");
        tokio::time::sleep(Duration::from_millis(millis(number))).await;
        Verdict::Ack
    });
    let begin = Instant::now();
    running.queue.until(empty).await;
    let receives = receives(&running.queue);
    running.stop().await;
    receives[..count].iter().map(|(most, at)| (*most, (*at - begin).as_millis())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_receive_waits_up_to_20_ms_for_more_free_slots() {
    // Four messages end within 20 ms, then one ends alone. The others take longer.
    let receives = first_receives(3, |number| match number {
        0..4 => 100 + number,
        4 => 2000,
        _ => 5000,
    });
    // At 2 s the loop does not wait for more slots: the other seven messages have been worked on for too long.
    assert_eq!(receives.await, [(8, 0), (4, 103), (1, 2000)]);
    // One message ends alone, and the others are not slow yet.
    let receives = first_receives(2, |number| if number == 0 { 10 } else { 150 });
    assert_eq!(receives.await, [(8, 0), (1, 10 + GATHER.as_millis())]);
}

#[tokio::test(start_paused = true)]
async fn poison_is_sent_to_the_dead_letter_queue_and_then_deleted() {
    let queue = queue();
    queue.send("m");
    let running = start(queue, |_| async { bad_key() });
    running.queue.until(empty).await;
    assert_eq!(running.queue.dead_letters(), [letter()]);
    assert_eq!(answers(&running.queue), [QueueCall::SendDeadLetter("m".into()), delete(&["m"])]);
    assert!(running.metric("logferry_dead_letters_total{reason=\"bad_key\"} 1\n"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_dead_letter_delays_no_acknowledgement() {
    let queue = queue();
    queue.send("poison");
    queue.slow_calls(QueueOperation::SendDeadLetter, 1..=1, 20 * SECOND);
    let running =
        start(
            queue,
            |message| async move { if message.body == "poison" { bad_key() } else { Verdict::Ack } },
        );
    tokio::time::sleep(SECOND).await;
    running.queue.send("good");
    tokio::time::sleep(SECOND).await;
    assert_eq!(running.queue.left(), ["poison"]);
    running.queue.until(empty).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn poison_is_not_deleted_before_its_letter_is_sent() {
    let queue = queue();
    queue.send("m");
    queue.fail_calls(QueueOperation::SendDeadLetter, 1..=2);
    let running = start(queue, |_| async { bad_key() });
    running.queue.until(empty).await;
    let send = || QueueCall::SendDeadLetter("m".into());
    let hidden = || hide("m", 5 * SECOND);
    assert_eq!(answers(&running.queue), [send(), hidden(), send(), hidden(), send(), delete(&["m"])]);
    assert_eq!(running.queue.dead_letters(), [letter()]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn poison_without_a_dead_letter_queue_is_left_to_the_redrive_policy() {
    let queue = queue().without_dead_letters();
    queue.send("m");
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, noting(&log, |_| async { bad_key() }));
    running.queue.until(|_| handled(&log).len() == 3).await;
    // The message is hidden for its delay, not for the visibility timeout, so its deliveries become ever rarer.
    assert!((10 * SECOND..11 * SECOND).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert_eq!(running.queue.left(), ["m"]);
    assert_eq!(answers(&running.queue)[..2], [hide("m", 5 * SECOND), hide("m", 5 * SECOND)]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_receive_asks_for_no_more_messages_than_can_start() {
    for (concurrency, max_messages, most) in [(4, 10, 4), (4, 2, 2), (25, 10, 10), (1, 10, 1)] {
        let queue = queue();
        queue.send_all(numbered(60));
        let (now, highest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let running = start_with(queue, WorkerSettings { concurrency, max_messages, ..settings() }, {
            let (now, highest) = (Arc::clone(&now), Arc::clone(&highest));
            // The queue always has as many messages as a receive asks for, so a receive for too many would start too many.
            move |message| {
                highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let now = Arc::clone(&now);
                async move {
                    let number: u64 = message.body.parse().expect("the test sends numbers");
                    tokio::time::sleep(Duration::from_millis(100 * (number * 7 % 13))).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                    Verdict::Ack
                }
            }
        });
        running.queue.until(empty).await;
        assert_eq!(highest.load(Ordering::SeqCst), concurrency);
        assert_eq!(receives(&running.queue).iter().map(|(asked, _)| *asked).max(), Some(most));
        assert!(running.metric("logferry_messages_received_total 60\n"));
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn deletes_share_a_call_and_failed_entries_are_tried_again() {
    let queue = queue();
    queue.send_all(["a", "b", "c"]);
    queue.fail_entry(QueueOperation::Delete, "b", 2);
    let begin = Instant::now();
    let running = start(queue, |_| async { Verdict::Ack });
    running.queue.until(empty).await;
    assert_eq!(answers(&running.queue), [delete(&["a", "b", "c"]), delete(&["b"]), delete(&["b"])]);
    assert!(begin.elapsed() < SECOND, "the deletes did not wait for another receive: {:?}", begin.elapsed());
    running.stop().await;

    let queue = self::queue();
    queue.send_all(numbered(23));
    queue.fail_calls(QueueOperation::Delete, 1..=1);
    let running =
        start_with(queue, WorkerSettings { concurrency: 30, ..settings() }, |_| async { Verdict::Ack });
    running.queue.until(empty).await;
    assert!(answers(&running.queue).len() <= 5, "{:?}", answers(&running.queue));
    assert!(running.metric("logferry_messages_received_total 23\n"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_work_panics_is_retried_and_harms_no_other() {
    let queue = queue();
    queue.send_all(["bad", "good"]);
    let log = Log::default();
    let running = start(
        queue,
        noting(&log, |message| async move {
            assert!(message.body == "good" || message.attempts > 1, "the test wants this panic");
            tokio::time::sleep(SECOND).await;
            Verdict::Ack
        }),
    );
    running.queue.until(|queue| queue.left() == ["bad"]).await;
    assert!(running.metric("logferry_failures_total{reason=\"panic\"} 1\n"));
    assert!(running.metric("logferry_messages_total{verdict=\"retry\"} 1\n"));
    let hidden = running.queue.hidden_for("bad");
    assert!((SECOND * 6..=SECOND * 10).contains(&hidden), "{hidden:?}");
    running.queue.until(empty).await;
    assert_eq!(handled(&log), [("bad".to_owned(), 1), ("good".to_owned(), 1), ("bad".to_owned(), 2)]);
    assert!(running.metric("logferry_messages_in_flight 0\n"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_pause_after_failed_receives_grows_and_a_success_resets_it() {
    let queue = queue();
    queue.fail_calls(QueueOperation::Receive, 1..=8);
    queue.fail_calls(QueueOperation::Receive, 10..=10);
    queue.send("m");
    let running = start(queue, |_| async { Verdict::Ack });
    running.queue.until(empty).await;
    running.queue.until(|queue| queue.calls().len() >= 12).await;
    let receives = receives(&running.queue);
    let pauses: Vec<_> = receives[..11].windows(2).map(|pair| (pair[1].1 - pair[0].1).as_millis()).collect();
    // The ninth receive succeeds, so the pause after the tenth is as short as after the first.
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000, 0, 500]);
    assert!(running.metric("logferry_queue_errors_total{call=\"receive\"} 9\n"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_answers_at_once_is_asked_ten_times_a_second() {
    let log = Log::default();
    let settings = WorkerSettings { wait_time: Duration::ZERO, ..settings() };
    let running = start_with(queue(), settings, noting(&log, |_| async { Verdict::Ack }));
    tokio::time::sleep(10 * SECOND).await;
    let calls = running.queue.calls();
    let receives = calls.iter().filter(|(_, call)| matches!(call, QueueCall::Receive(_))).count();
    assert!((90..=101).contains(&receives), "{receives} receives in 10 s");
    running.queue.send("a");
    tokio::time::sleep(SECOND).await;
    assert_eq!(handled(&log), [("a".to_owned(), 1)]);
    running.stop().await;
}
