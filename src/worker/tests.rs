//! The loop on a queue in memory and in paused time, with a closure in the pipeline's place.

mod delays;
mod drain;
mod leases;
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
        memory::{MemoryQueue, Operation, QueueCall},
    },
    verdict::Cause,
};

const VISIBILITY: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

/// A worker that runs.
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
    }
}

fn start_with<H, F>(queue: MemoryQueue, settings: WorkerSettings, handle: H) -> Running
where
    H: Fn(Arc<Message>) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    start_stoppable(queue, settings, move |message, _| handle(message))
}

/// With a handler that can be broken off.
fn start_stoppable<H, F>(queue: MemoryQueue, settings: WorkerSettings, handle: H) -> Running
where
    H: Fn(Arc<Message>, CancellationToken) -> F + Send + Sync + 'static,
    F: Future<Output = Verdict> + Send + 'static,
{
    let (queue, stop, metrics) = (Arc::new(queue), CancellationToken::new(), Metrics::default());
    let health = Arc::new(Health::new(Duration::from_secs(20), &[]));
    let task = tokio::spawn({
        let (queue, stop, health, metrics) =
            (Arc::clone(&queue), stop.clone(), Arc::clone(&health), metrics.clone());
        async move { run(queue, handle, settings, stop, health, metrics).await }
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

/// What was handled: body, receive count and when.
type Log = Arc<Mutex<Vec<(String, u32, Instant)>>>;

fn note(log: &Log, message: &Message) {
    log.lock().expect("no test panics with it").push((
        message.body.clone(),
        message.attempts,
        Instant::now(),
    ));
}

fn handled(log: &Log) -> Vec<(String, u32)> {
    log.lock()
        .expect("no test panics with it")
        .iter()
        .map(|(body, count, _)| (body.clone(), *count))
        .collect()
}

fn empty(queue: &MemoryQueue) -> bool {
    queue.left().is_empty()
}

/// Calls other than receives, without their times.
fn answers(queue: &MemoryQueue) -> Vec<QueueCall> {
    queue
        .calls()
        .into_iter()
        .map(|(_, call)| call)
        .filter(|call| !matches!(call, QueueCall::Receive(_)))
        .collect()
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
                done.acquire().await.expect("nobody closes it").forget();
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
    let running = start(queue, {
        let log = Arc::clone(&log);
        move |message| {
            note(&log, &message);
            let verdict = if message.attempts == 1 { retry_after(delay) } else { Verdict::Ack };
            async move { verdict }
        }
    });
    running.queue.until(|queue| !answers(queue).is_empty()).await;
    assert_eq!(running.queue.hidden_for("m"), delay);
    let hidden = begin.elapsed();
    running.queue.until(empty).await;
    assert_eq!(answers(&running.queue), [hide("m", delay), delete(&["m"])]);
    assert_eq!(handled(&log), [("m".to_owned(), 1), ("m".to_owned(), 2)]);
    assert_eq!(log.lock().expect("no test panics with it")[1].2 - begin, hidden + delay);
    running.stop().await;
}

/// A retry of the tenant acme.
fn retry_after(delay: Duration) -> Verdict {
    let attributes = vec![("tenant", "acme".into())];
    Verdict::Retry(Cause { reason: "role_denied", attributes, delay, refusals: 0 })
}

fn bad_key() -> Verdict {
    Verdict::Poison(Cause {
        reason: "bad_key",
        attributes: vec![("tenant", "acme".into()), ("key", "a/b".into())],
        delay: 5 * SECOND,
        refusals: 0,
    })
}

fn letter() -> DeadLetter {
    let attributes = [("reason", "bad_key"), ("message_id", "m"), ("tenant", "acme"), ("key", "a/b")];
    DeadLetter {
        body: "m".into(),
        attributes: attributes.map(|(name, value)| (name, value.to_owned())).into(),
    }
}

/// Slots that come free shortly one after another are filled by one receive; one that stays alone does not wait long.
#[tokio::test(start_paused = true)]
async fn free_slots_are_gathered_for_a_receive() {
    let queue = queue();
    let bodies: Vec<_> = (0..12).map(|number| number.to_string()).collect();
    queue.send_all(bodies.iter().map(String::as_str));
    let settings = WorkerSettings { concurrency: 8, max_messages: 8, ..settings() };
    let running = start_with(queue, settings, |message| async move {
        // Four end within the time that is waited for more, one later, alone, and the others at last.
        let number: u64 = message.body.parse().expect("a number");
        let time = match number {
            0..4 => Duration::from_millis(100 + number),
            4 => 2 * SECOND,
            _ => 5 * SECOND,
        };
        tokio::time::sleep(time).await;
        Verdict::Ack
    });
    let begin = Instant::now();
    running.queue.until(empty).await;
    let receives = running.queue.calls().into_iter().filter_map(|(at, call)| match call {
        QueueCall::Receive(most) => Some((most, at - begin)),
        _ => None,
    });
    let receives: Vec<_> = receives.take(3).collect();
    let ms = Duration::from_millis;
    // The seven that are still worked on by then are no slots to wait for.
    assert_eq!(receives, [(8, ms(0)), (4, ms(103)), (1, 2 * SECOND)]);
    running.stop().await;
}

/// With few slow ones the others are still worth gathering, but never for long.
#[tokio::test(start_paused = true)]
async fn a_free_slot_waits_no_longer_than_for_a_moment() {
    let queue = queue();
    let bodies: Vec<_> = (0..12).map(|number| number.to_string()).collect();
    queue.send_all(bodies.iter().map(String::as_str));
    let settings = WorkerSettings { concurrency: 8, max_messages: 8, ..settings() };
    let running = start_with(queue, settings, |message| async move {
        let number: u64 = message.body.parse().expect("a number");
        tokio::time::sleep(Duration::from_millis(if number == 0 { 10 } else { 150 })).await;
        Verdict::Ack
    });
    let begin = Instant::now();
    running.queue.until(empty).await;
    let receives = running.queue.calls().into_iter().filter_map(|(at, call)| match call {
        QueueCall::Receive(most) => Some((most, at - begin)),
        _ => None,
    });
    let first: Vec<_> = receives.take(2).collect();
    assert_eq!(first, [(8, Duration::ZERO), (1, Duration::from_millis(10) + GATHER)]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn poison_goes_to_the_dead_letters_and_then_from_the_queue() {
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
async fn a_slow_letter_holds_up_no_acknowledgement() {
    let queue = queue();
    queue.send("poison");
    queue.slow_calls(Operation::SendDeadLetter, 1..=1, 20 * SECOND);
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
async fn poison_stays_until_its_letter_is_safe() {
    let queue = queue();
    queue.send("m");
    queue.fail_calls(Operation::SendDeadLetter, 1..=2);
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
    let running = start(queue, {
        let log = Arc::clone(&log);
        move |message| {
            note(&log, &message);
            async { bad_key() }
        }
    });
    running.queue.until(|_| handled(&log).len() == 3).await;
    // Hidden for its delay, not for the visibility timeout: what it delivers again, it delivers ever more seldom.
    assert!((10 * SECOND..11 * SECOND).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    assert_eq!(running.queue.left(), ["m"]);
    assert_eq!(answers(&running.queue)[..2], [hide("m", 5 * SECOND), hide("m", 5 * SECOND)]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_is_received_than_can_start() {
    for (concurrency, max_messages, most) in [(4, 10, 4), (4, 2, 2), (25, 10, 10), (1, 10, 1)] {
        let queue = queue();
        let bodies: Vec<_> = (1..=60).map(|number: u64| number.to_string()).collect();
        queue.send_all(bodies.iter().map(String::as_str));
        let (now, highest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let running = start_with(queue, WorkerSettings { concurrency, max_messages, ..settings() }, {
            let (now, highest) = (Arc::clone(&now), Arc::clone(&highest));
            // The queue always has as many as it is asked for, so asking for too many would start too many.
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
        let asked = running.queue.calls().into_iter().filter_map(|(_, call)| match call {
            QueueCall::Receive(max) => Some(max),
            _ => None,
        });
        assert_eq!(asked.max(), Some(most));
        assert!(running.metric("logferry_messages_received_total 60\n"));
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn acknowledgements_go_out_together_and_entries_that_fail_again() {
    let queue = queue();
    queue.send_all(["a", "b", "c"]);
    queue.fail_entry(Operation::Delete, "b", 2);
    let begin = Instant::now();
    let running = start(queue, |_| async { Verdict::Ack });
    running.queue.until(empty).await;
    assert_eq!(answers(&running.queue), [delete(&["a", "b", "c"]), delete(&["b"]), delete(&["b"])]);
    assert!(begin.elapsed() < SECOND, "not by another receive: {:?}", begin.elapsed());
    running.stop().await;

    let queue = self::queue();
    let bodies: Vec<_> = (0..23).map(|number| number.to_string()).collect();
    queue.send_all(bodies.iter().map(String::as_str));
    queue.fail_calls(Operation::Delete, 1..=1);
    let running =
        start_with(queue, WorkerSettings { concurrency: 30, ..settings() }, |_| async { Verdict::Ack });
    running.queue.until(empty).await;
    assert!(answers(&running.queue).len() <= 5, "{:?}", answers(&running.queue));
    assert!(running.metric("logferry_messages_received_total 23\n"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_message_s_and_is_tried_again() {
    let queue = queue();
    queue.send_all(["bad", "good"]);
    let log = Log::default();
    let running = start(queue, {
        let log = Arc::clone(&log);
        move |message| {
            note(&log, &message);
            async move {
                assert!(message.body == "good" || message.attempts > 1, "the test wants this panic");
                tokio::time::sleep(SECOND).await;
                Verdict::Ack
            }
        }
    });
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
async fn receives_that_fail_back_off_and_recover() {
    let queue = queue();
    queue.fail_calls(Operation::Receive, 1..=8);
    queue.fail_calls(Operation::Receive, 10..=10);
    queue.send("m");
    let running = start(queue, |_| async { Verdict::Ack });
    let problem = |health: &Health| health.ready().err().unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(problem(&running.health).contains("told to fail"), "{}", problem(&running.health));
    running.queue.until(empty).await;
    running.queue.until(|queue| queue.calls().len() >= 12).await;
    // The eleventh poll ends empty, which is an answer.
    running.queue.until(|_| running.health.ready().is_ok()).await;
    let calls = running.queue.calls();
    let receives: Vec<_> = calls
        .iter()
        .filter_map(|(at, call)| matches!(call, QueueCall::Receive(_)).then_some(*at))
        .take(11)
        .collect();
    let pauses: Vec<_> = receives.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    // The ninth goes well, so the tenth's failure pauses as the first did.
    assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000, 0, 500]);
    assert!(running.metric("logferry_queue_errors_total{call=\"receive\"} 9\n"));
    running.stop().await;
}
