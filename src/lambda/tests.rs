//! Tests of batches with an in-memory queue, paused time, and a closure instead of the pipeline.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::{
    queue::memory::{MemoryQueue, QueueOperation},
    trace::SenderSpan,
};

const SECOND: Duration = Duration::from_secs(1);

fn cause(reason: &'static str) -> Cause {
    let attributes = vec![("tenant", "acme".to_owned())];
    Cause { reason, attributes, delay: SECOND, refusals: 0 }
}

/// Judges a message by its body. A slow one takes a minute, unless it is told to end; a stubborn one takes its minute.
async fn judge(message: Arc<Message>, stop: CancellationToken) -> Verdict {
    let minute = tokio::time::sleep(60 * SECOND);
    match message.body.split(' ').next() {
        Some("retry") => Verdict::Retry(cause("throttled")),
        Some("poison") => Verdict::Poison(cause("bad_key")),
        Some("overdue") => Verdict::Overdue(cause("role_denied")),
        Some("panic") => panic!("on purpose"),
        Some("slow") => match stop.run_until_cancelled(minute).await {
            Some(()) => Verdict::Ack,
            None => Verdict::Retry(Cause { delay: Duration::ZERO, ..cause("stopping") }),
        },
        Some("late") => {
            stop.cancelled().await;
            Verdict::Retry(cause("throttled"))
        }
        Some("stubborn") => {
            minute.await;
            Verdict::Ack
        }
        _ => Verdict::Ack,
    }
}

fn function<H>(
    queue: &Arc<MemoryQueue>,
    handle: H,
    concurrency: usize,
    waits: Waits,
) -> Function<MemoryQueue, H> {
    let spans = Messages::new("q", SenderSpan::Linked);
    Function { queue: Arc::clone(queue), handle, concurrency, waits, spans }
}

/// Sends and receives messages with these bodies, handles them within ten seconds, and removes them. Returns the reported ids and
/// the time that the invocation took.
async fn invoke(queue: &Arc<MemoryQueue>, concurrency: usize, bodies: &[&str]) -> (Vec<String>, Duration) {
    queue.send_all(bodies);
    let function = function(queue, judge, concurrency, Waits::OfVerdict);
    let messages = queue.receive(10, Duration::ZERO).await.expect("the queue answers");
    assert_eq!(messages.len(), bodies.len());
    let began = Instant::now();
    let failed = function.invoke(messages, Times::until(began + 10 * SECOND)).await;
    let took = began.elapsed();
    bodies.iter().for_each(|body| queue.remove(body));
    (failed, took)
}

#[tokio::test(start_paused = true)]
async fn only_messages_that_must_come_again_are_reported() {
    let queue = Arc::new(MemoryQueue::new(60 * SECOND));
    let bodies = ["a", "retry 1", "poison", "b", "overdue", "panic", "retry 2", "c"];
    let (failed, took) = invoke(&queue, 4, &bodies).await;
    assert_eq!(failed, ["retry 1", "panic", "retry 2"]);
    assert!(took < SECOND, "{took:?}");
    let letters = queue.dead_letters();
    let mut told: Vec<_> =
        letters.iter().map(|letter| (letter.body.as_str(), letter.attributes[0].1.as_str())).collect();
    told.sort_unstable();
    assert_eq!(told, [("overdue", "role_denied"), ("poison", "bad_key")]);
    let attributes = [("message_id", "poison".to_owned()), ("tenant", "acme".to_owned())];
    let poison = letters.iter().find(|letter| letter.body == "poison").expect("there is one");
    assert_eq!(poison.attributes[1..], attributes);
    assert_eq!(invoke(&queue, 1, &["a", "b"]).await.0, [""; 0], "an empty list is success");
    assert_eq!(invoke(&queue, 1, &[]).await.0, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn poison_that_cannot_be_sent_is_reported() {
    let queue = Arc::new(MemoryQueue::new(60 * SECOND).without_dead_letters());
    assert_eq!(invoke(&queue, 4, &["poison", "a", "overdue"]).await.0, ["poison", "overdue"]);
    let queue = Arc::new(MemoryQueue::new(60 * SECOND));
    queue.fail_calls(QueueOperation::SendDeadLetter, 1..=1);
    assert_eq!(invoke(&queue, 4, &["poison", "a"]).await.0, ["poison"]);
    assert_eq!(invoke(&queue, 4, &["poison", "a"]).await.0, [""; 0], "the next letter arrives");
}

#[tokio::test(start_paused = true)]
async fn work_ends_before_the_deadline() {
    let queue = Arc::new(MemoryQueue::new(60 * SECOND));
    let (failed, took) = invoke(&queue, 4, &["a", "slow", "b"]).await;
    assert_eq!(failed, ["slow"]);
    assert!((7500..=7501).contains(&took.as_millis()), "a quarter is reserved: {took:?}");
    // A message that has not begun is not begun any more.
    let (failed, _) = invoke(&queue, 1, &["slow 1", "a", "poison"]).await;
    assert_eq!(failed, ["slow 1", "a", "poison"]);
    assert_eq!(queue.dead_letters(), []);
    let (failed, took) = invoke(&queue, 4, &["stubborn", "a"]).await;
    assert_eq!(failed, ["stubborn"]);
    assert!((8750..=8751).contains(&took.as_millis()), "time is left for the response: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn at_most_five_seconds_are_reserved() {
    let deadline = Instant::now() + 900 * SECOND;
    let times = Times {
        stop: deadline - 5 * SECOND,
        abort: deadline - 5 * SECOND / 2,
        hide: deadline - 5 * SECOND / 4,
        respond: deadline - SECOND / 10,
    };
    assert_eq!(Times::until(deadline), times);
    let passed = Instant::now();
    assert_eq!(Times::until(passed), Times { stop: passed, abort: passed, hide: passed, respond: passed });
}

#[tokio::test(start_paused = true)]
async fn messages_that_must_wait_are_hidden_for_their_own_delays() {
    for waits in [Waits::OfVerdict, Waits::OfQueue] {
        let queue = Arc::new(MemoryQueue::new(60 * SECOND));
        queue.send_all(["a", "retry", "slow", "late", "panic"]);
        let function = function(&queue, judge, 5, waits);
        let messages = queue.receive(10, SECOND).await.expect("the queue answers");
        let failed = function.invoke(messages, Times::until(Instant::now() + 10 * SECOND)).await;
        assert_eq!(failed, ["retry", "slow", "late", "panic"]);
        let hidden = ["retry", "slow", "late", "panic"].map(|body| queue.hidden_for(body).as_secs());
        // The slow one is told to end after 7.5 s.
        match waits {
            Waits::OfVerdict => assert_eq!(hidden, [1, 0, 1, 52]),
            Waits::OfQueue => assert_eq!(hidden, [52; 4]),
        }
    }
}

/// A queue that does not answer costs a warning, not the response.
#[tokio::test(start_paused = true)]
async fn failed_messages_are_reported_even_if_they_cannot_be_hidden() {
    let queue = Arc::new(MemoryQueue::new(60 * SECOND));
    queue.fail_calls(QueueOperation::ChangeVisibility, 1..=1);
    assert_eq!(invoke(&queue, 4, &["retry", "a"]).await.0, ["retry"]);
}

/// A future of the pipeline takes about 100 KB, and a batch may have 10,000 messages.
#[tokio::test(start_paused = true)]
async fn only_messages_that_have_begun_take_memory() {
    let begun = Arc::new(());
    let most = Arc::new(AtomicUsize::new(0));
    let (counted, highest) = (Arc::clone(&begun), Arc::clone(&most));
    let handle = move |_: Arc<Message>, _: CancellationToken| {
        let one = Arc::clone(&counted);
        // Besides the futures, the test and this closure have one each.
        highest.fetch_max(Arc::strong_count(&one) - 2, Ordering::Relaxed);
        async move {
            let _one = one;
            tokio::time::sleep(SECOND).await;
            Verdict::Ack
        }
    };
    let function = function(&Arc::new(MemoryQueue::new(60 * SECOND)), handle, 4, Waits::OfVerdict);
    function.queue.send_all(["a"]);
    let messages = function.queue.receive(1, SECOND).await.expect("the queue answers");
    let began = Instant::now();
    let failed = function.invoke(vec![messages[0].clone(); 4001], Times::until(began + 2000 * SECOND)).await;
    assert_eq!((failed.len(), began.elapsed().as_secs()), (0, 1001), "every slot is always in use");
    assert_eq!((most.load(Ordering::Relaxed), Arc::strong_count(&begun)), (4, 2));
}
