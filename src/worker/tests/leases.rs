//! Tests of leases: a message stays hidden exactly as long as the worker works on it.

use super::*;
use crate::queue::MAX_VISIBILITY;

/// Answers the first attempt of each message with `verdict` after `time`, and acknowledges later attempts at once.
fn work(
    log: &Log,
    time: Duration,
    verdict: Verdict,
) -> impl Fn(Arc<Message>) -> Handling + Send + Sync + 'static {
    noting(log, move |message| -> Handling {
        let verdict = verdict.clone();
        Box::pin(async move {
            if message.attempts > 1 {
                return Verdict::Ack;
            }
            tokio::time::sleep(time).await;
            verdict
        })
    })
}

type Handling = std::pin::Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Each visibility change of the message: the time from `begin` until it took effect, and the timeout that it set.
fn changes(queue: &MemoryQueue, body: &str, begin: Instant) -> Vec<(Duration, Duration)> {
    let calls = queue.calls().into_iter().filter_map(|(at, call)| match call {
        QueueCall::ChangeVisibility(entries) => {
            let entry = entries.into_iter().find(|(named, _)| named == body);
            entry.map(|(_, time)| (at - begin, time))
        }
        _ => None,
    });
    calls.collect()
}

#[tokio::test(start_paused = true)]
async fn a_message_is_handled_once_though_its_work_outlasts_the_visibility_timeout() {
    let queue = queue();
    queue.send("m");
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, work(&log, 20 * VISIBILITY, Verdict::Ack));
    running.queue.until(empty).await;
    assert_eq!(handled(&log), [("m".to_owned(), 1)]);
    let changes = changes(&running.queue, "m", begin);
    assert!(changes.iter().all(|(_, time)| *time == VISIBILITY), "{changes:?}");
    let steps = changes.windows(2).map(|pair| pair[1].0 - pair[0].0).chain([changes[0].0]);
    // Extensions come after each half of the visibility timeout. The test allows an eighth of the timeout more.
    for step in steps {
        assert!((VISIBILITY / 2..=VISIBILITY * 5 / 8).contains(&step), "{step:?}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_message_is_extended_in_a_call_of_its_own() {
    let queue = queue();
    queue.send_all(numbered(23));
    let log = Log::default();
    let settings = WorkerSettings { concurrency: 30, ..settings() };
    let running = start_with(queue, settings, work(&log, VISIBILITY * 2 / 3, Verdict::Ack));
    running.queue.until(empty).await;
    assert_eq!(handled(&log).len(), 23);
    let sizes = answers(&running.queue).into_iter().filter_map(|call| match call {
        QueueCall::ChangeVisibility(entries) => Some(entries.len()),
        _ => None,
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [1; 23]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_hangs_harms_no_other_message() {
    let queue = MemoryQueue::new(10 * SECOND);
    queue.send_all(["hangs", "works", "waits"]);
    // One of the first extensions, at 5 s, is answered only after the test. All other calls are answered at once.
    queue.slow_calls(QueueOperation::ChangeVisibility, 1..=1, 1000 * SECOND);
    let (log, begin) = (Log::default(), Instant::now());
    let settings = WorkerSettings { visibility_timeout: 10 * SECOND, ..settings() };
    let handle = |message: Arc<Message>| async move {
        match message.body.as_str() {
            // Gets its verdict while the hung call is in flight. The call must not delay the verdict.
            "waits" if message.attempts == 1 => {
                tokio::time::sleep(6 * SECOND).await;
                retry_after(20 * SECOND)
            }
            "waits" => Verdict::Ack,
            _ => {
                tokio::time::sleep(100 * SECOND).await;
                Verdict::Ack
            }
        }
    };
    let running = start_with(queue, settings, noting(&log, handle));
    running.queue.until(empty).await;
    let mut handled = handled(&log);
    handled.sort();
    let once = |body: &str| (body.to_owned(), 1);
    // The extension that hangs is tried again while its message is still hidden, so no message is handled too early.
    assert_eq!(handled, [once("hangs"), once("waits"), ("waits".to_owned(), 2), once("works")]);
    let again = log.lock().expect("no test panics while it holds the lock")[3].2 - begin;
    assert!((26 * SECOND..27 * SECOND).contains(&again), "{again:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_extension_is_tried_again_in_time() {
    let queue = queue();
    queue.send_all(["a", "b"]);
    queue.fail_calls(QueueOperation::ChangeVisibility, 1..=1);
    queue.fail_entry(QueueOperation::ChangeVisibility, "b", 1);
    let log = Log::default();
    let running = start(queue, work(&log, 2 * VISIBILITY, Verdict::Ack));
    running.queue.until(empty).await;
    let mut handled = handled(&log);
    handled.sort();
    assert_eq!(handled, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    let extensions =
        |result| running.metric(&format!("logferry_visibility_extensions_total{{result=\"{result}\"}} 2"));
    assert!(extensions("failed") && !extensions("gone"), "one call failed, and one entry of another");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_not_extended_after_its_verdict() {
    let delay = 2 * VISIBILITY;
    let (log, begin) = (Log::default(), Instant::now());
    let queue = queue();
    queue.send("m");
    let running = start(queue, work(&log, SECOND, retry_after(delay)));
    running.queue.until(empty).await;
    let changes = changes(&running.queue, "m", begin);
    assert_eq!(changes.iter().map(|(_, time)| *time).collect::<Vec<_>>(), [delay]);
    assert!(begin.elapsed() >= delay);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_deleted_elsewhere_is_not_extended() {
    let queue = queue();
    queue.send_all(["gone", "here"]);
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, work(&log, 10 * VISIBILITY, Verdict::Ack));
    running.queue.until(|queue| changes(queue, "gone", begin).len() == 2).await;
    running.queue.remove("gone");
    running.queue.until(empty).await;
    // The third extension finds the message deleted. The other message is still extended.
    assert_eq!(changes(&running.queue, "gone", begin).len(), 3);
    let extended = changes(&running.queue, "here", begin).len();
    assert!(extended > 10);
    for (result, count) in [("extended", extended + 2), ("gone", 1)] {
        let line = format!("logferry_visibility_extensions_total{{result=\"{result}\"}} {count}\n");
        assert!(running.metric(&line), "{line}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn extensions_end_after_the_12_hours_that_sqs_allows() {
    let queue = queue();
    queue.send("m");
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, work(&log, MAX_VISIBILITY + VISIBILITY, Verdict::Ack));
    running.queue.until(|_| handled(&log).len() == 2).await;
    // The message is delivered again one second before 12 hours have passed since its receive, and no earlier.
    assert_eq!(begin.elapsed(), MAX_VISIBILITY - SECOND);
    let last = changes(&running.queue, "m", begin).pop().expect("the message was extended");
    assert!(last.0 + last.1 == MAX_VISIBILITY - SECOND && !last.1.is_zero(), "{last:?}");
    running.queue.until(empty).await;
    assert!(!running.metric("logferry_queue_errors_total{"), "the queue refused no extension");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_extension_in_flight_does_not_overwrite_the_delay_of_a_retry() {
    let queue = queue();
    queue.send("m");
    // The first extension is slow, as if the SDK retried it, and the verdict comes meanwhile.
    queue.slow_calls(QueueOperation::ChangeVisibility, 1..=1, 5 * SECOND);
    let delay = 2 * VISIBILITY;
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, work(&log, VISIBILITY / 2 + 2 * SECOND, retry_after(delay)));
    running.queue.until(empty).await;
    assert!(begin.elapsed() >= delay, "delivered again after {:?}", begin.elapsed());
    running.stop().await;
}
