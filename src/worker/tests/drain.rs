//! Tests of draining: nothing more is received, running work may finish, and the other messages return to the queue.

use super::*;
use crate::health::HealthStatus;

/// Acknowledges each message after `time`.
fn work(time: Duration) -> impl Fn(Arc<Message>) -> Handling + Send + Sync + 'static {
    move |_| {
        Box::pin(async move {
            tokio::time::sleep(time).await;
            Verdict::Ack
        })
    }
}

type Handling = std::pin::Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Waits until `count` messages are in work.
async fn until_in_flight(running: &Running, count: i64) {
    running.queue.until(|_| running.metrics.messages_in_flight.get() == count).await;
}

#[tokio::test(start_paused = true)]
async fn running_work_finishes_and_nothing_more_is_received() {
    let queue = queue();
    queue.send_all(["a", "b", "c", "d", "e"]);
    let running = start(queue, work(10 * SECOND));
    until_in_flight(&running, 4).await;
    let (queue, begin, before) = (Arc::clone(&running.queue), Instant::now(), receives(&running.queue).len());
    assert_eq!(running.stop().await, Drained { given_back: 0 });
    assert!(begin.elapsed() < 11 * SECOND, "{:?}", begin.elapsed());
    assert_eq!((queue.left(), receives(&queue).len()), (vec!["e".to_owned()], before));
    assert_eq!(queue.hidden_for("e"), Duration::ZERO);
}

/// On drop, asserts that the message has not yet been returned to the queue.
struct StillOurs(Arc<MemoryQueue>, String);

impl Drop for StillOurs {
    fn drop(&mut self) {
        assert!(!self.0.hidden_for(&self.1).is_zero(), "the message was returned while it is worked on");
    }
}

#[tokio::test(start_paused = true)]
async fn messages_whose_work_does_not_finish_are_visible_at_once() {
    let queue = queue();
    queue.send_all(numbered(13));
    let slot = Arc::new(Mutex::new(None));
    let running = start_with(queue, WorkerSettings { concurrency: 20, ..settings() }, {
        let slot = Arc::clone(&slot);
        move |message| {
            let slot: Arc<Mutex<Option<Arc<MemoryQueue>>>> = Arc::clone(&slot);
            async move {
                let queue = slot
                    .lock()
                    .expect("no test panics while it holds the lock")
                    .clone()
                    .expect("the test set it");
                let _guard = StillOurs(queue, message.body.clone());
                let finishes_in_time = matches!(message.body.as_str(), "0" | "1");
                tokio::time::sleep(if finishes_in_time { 5 * SECOND } else { 1000 * SECOND }).await;
                Verdict::Ack
            }
        }
    });
    let queue = Arc::clone(&running.queue);
    *slot.lock().expect("no test panics while it holds the lock") = Some(Arc::clone(&queue));
    until_in_flight(&running, 13).await;
    let begin = Instant::now();
    assert_eq!(running.stop().await, Drained { given_back: 11 });
    assert!(begin.elapsed() <= GRACE, "{:?}", begin.elapsed());
    assert!(begin.elapsed() >= GRACE - 4 * SECOND, "the grace period was used: {:?}", begin.elapsed());
    assert_eq!(queue.left().len(), 11);
    let now = Instant::now();
    let receive = || async { queue.receive(10, 20 * SECOND).await.expect("the receive succeeds") };
    let (first, rest) = (receive().await, receive().await);
    assert_eq!((first.len(), rest.len(), now.elapsed()), (10, 1, Duration::ZERO));
    assert!(first.iter().all(|message| message.attempts == 2));
}

#[tokio::test(start_paused = true)]
async fn messages_of_the_last_receive_are_returned() {
    let queue = queue();
    queue.slow_calls(QueueOperation::Receive, 1..=1, Duration::from_millis(500));
    queue.send_all(["a", "b", "c"]);
    let log = Log::default();
    let running = start(queue, noting(&log, |_| async { Verdict::Ack }));
    // The queue has handed the messages out, and its answer has not arrived yet.
    running.queue.until(|queue| !queue.hidden_for("c").is_zero()).await;
    let queue = Arc::clone(&running.queue);
    assert_eq!(running.stop().await, Drained { given_back: 0 });
    assert_eq!(handled(&log), []);
    assert_eq!((queue.left().len(), receives(&queue).len()), (3, 1));
    assert!(queue.left().iter().all(|body| queue.hidden_for(body).is_zero()));
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_without_messages_does_not_delay_shutdown() {
    let running = start(queue(), work(SECOND));
    // The first receive does not wait for messages, so that readiness gets an answer soon. The second one is a long poll.
    running.queue.until(|queue| receives(queue).len() == 2).await;
    let begin = Instant::now();
    running.stop().await;
    assert!(begin.elapsed() <= 2 * SECOND, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_pause_after_a_failed_receive_does_not_delay_shutdown() {
    let queue = queue();
    queue.fail_calls(QueueOperation::Receive, 1..=1000);
    let running = start(queue, work(SECOND));
    running.queue.until(|queue| receives(queue).len() == 7).await;
    let begin = Instant::now();
    running.stop().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn readiness_fails_as_soon_as_draining_begins() {
    for messages in [1, 4] {
        // With one message a receive is open when the order to stop comes. With four, no slot is free for a receive.
        let queue = queue();
        queue.send_all(["a", "b", "c", "d"].into_iter().take(messages));
        let running = start(queue, work(10 * SECOND));
        until_in_flight(&running, i64::try_from(messages).expect("the queue has four messages at most"))
            .await;
        assert_eq!(running.health.ready().status, HealthStatus::Ok);
        running.stop.cancel();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (ready, alive) = (running.health.ready().status, running.health.alive().status);
        assert_eq!((ready, alive), (HealthStatus::Draining, HealthStatus::Draining), "{messages} messages");
        assert!(!running.task.is_finished());
        running.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn leases_and_verdicts_work_while_draining() {
    let queue = MemoryQueue::new(Duration::from_secs(4));
    queue.send_all(["ack", "retry", "poison", "panic"]);
    let settings = WorkerSettings { visibility_timeout: Duration::from_secs(4), ..settings() };
    let log = Log::default();
    let handle = |message: Arc<Message>| async move {
        tokio::time::sleep(15 * SECOND).await;
        match message.body.as_str() {
            "ack" => Verdict::Ack,
            "retry" => retry_after(50 * SECOND),
            "poison" => bad_key(),
            _ => panic!("the test wants this panic"),
        }
    };
    let running = start_with(queue, settings, noting(&log, handle));
    until_in_flight(&running, 4).await;
    let queue = Arc::clone(&running.queue);
    assert_eq!(running.stop().await, Drained { given_back: 0 });
    assert_eq!(handled(&log).len(), 4, "each message was handled once");
    assert_eq!((queue.left(), queue.dead_letters().len()), (vec!["retry".to_owned(), "panic".to_owned()], 1));
    assert_eq!(queue.hidden_for("retry"), 50 * SECOND);
    assert!(queue.hidden_for("panic") > 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_extension_in_flight_does_not_hide_a_returned_message() {
    let queue = queue();
    queue.send("m");
    // The order to stop comes at 1 s, the lease is extended at 15 s, the work is cancelled at 18 s, and the extension
    // is answered at 20 s.
    queue.slow_calls(QueueOperation::ChangeVisibility, 1..=1, 5 * SECOND);
    let running = start(queue, work(1000 * SECOND));
    until_in_flight(&running, 1).await;
    tokio::time::sleep(SECOND).await;
    let queue = Arc::clone(&running.queue);
    assert_eq!(running.stop().await, Drained { given_back: 1 });
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(queue.hidden_for("m"), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn work_is_told_to_stop_before_it_is_dropped() {
    let queue = queue();
    queue.send_all(["tidy", "stubborn"]);
    let tidied = Arc::<AtomicUsize>::default();
    let running = start_stoppable(queue, settings(), {
        let tidied = Arc::clone(&tidied);
        move |message, stop| {
            let tidied = Arc::clone(&tidied);
            async move {
                stop.cancelled().await;
                if message.body == "tidy" {
                    tokio::time::sleep(SECOND).await;
                    tidied.fetch_add(1, Ordering::Relaxed);
                    return retry_after(Duration::ZERO);
                }
                std::future::pending().await
            }
        }
    });
    until_in_flight(&running, 2).await;
    let (queue, stopped) = (Arc::clone(&running.queue), Instant::now());
    assert_eq!(running.stop().await, Drained { given_back: 2 });
    assert!(stopped.elapsed() <= GRACE, "{:?}", stopped.elapsed());
    assert_eq!(tidied.load(Ordering::Relaxed), 1);
    for body in ["tidy", "stubborn"] {
        assert_eq!(queue.hidden_for(body), Duration::ZERO, "{body}");
    }
}
