//! Messages stay hidden while, and only while, somebody works on them.

use super::*;
use crate::queue::MAX_VISIBILITY;

/// Works that long on the first receive of each message, and not at all on later ones.
fn work(
    log: &Log,
    time: Duration,
    verdict: Verdict,
) -> impl Fn(Arc<Message>) -> Handling + Send + Sync + 'static {
    let log = Arc::clone(log);
    move |message| {
        note(&log, &message);
        let verdict = verdict.clone();
        Box::pin(async move {
            if message.attempts > 1 {
                return Verdict::Ack;
            }
            tokio::time::sleep(time).await;
            verdict
        })
    }
}

type Handling = std::pin::Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// When each visibility change that names the message took effect, from `begin`, and what it asked for.
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
async fn work_longer_than_the_visibility_timeout_is_done_once() {
    let queue = queue();
    queue.send("m");
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, work(&log, 20 * VISIBILITY, Verdict::Ack));
    running.queue.until(empty).await;
    assert_eq!(handled(&log), [("m".to_owned(), 1)]);
    let changes = changes(&running.queue, "m", begin);
    assert!(changes.iter().all(|(_, time)| *time == VISIBILITY), "{changes:?}");
    let steps = changes.windows(2).map(|pair| pair[1].0 - pair[0].0).chain([changes[0].0]);
    // At half of it, or an eighth later.
    for step in steps {
        assert!((VISIBILITY / 2..=VISIBILITY * 5 / 8).contains(&step), "{step:?}");
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_message_is_extended_by_itself() {
    let queue = queue();
    let bodies: Vec<_> = (0..23).map(|number| number.to_string()).collect();
    queue.send_all(bodies.iter().map(String::as_str));
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
    // One of the first extensions, at 5 s, is answered when all is over; everything else at once.
    queue.slow_calls(Operation::ChangeVisibility, 1..=1, 1000 * SECOND);
    let (log, begin) = (Log::default(), Instant::now());
    let settings = WorkerSettings { visibility_timeout: 10 * SECOND, ..settings() };
    let running = start_with(queue, settings, {
        let log = Arc::clone(&log);
        move |message| {
            note(&log, &message);
            Box::pin(async move {
                match message.body.as_str() {
                    // Ends while the hung call is on its way: its own delay is not held up.
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
            })
        }
    });
    running.queue.until(empty).await;
    let mut handled = handled(&log);
    handled.sort();
    let once = |body: &str| (body.to_owned(), 1);
    // Its extension is tried again while it is still hidden.
    assert_eq!(handled, [once("hangs"), once("waits"), ("waits".to_owned(), 2), once("works")]);
    let again = log.lock().expect("no test panics with it")[3].2 - begin;
    assert!((26 * SECOND..27 * SECOND).contains(&again), "{again:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_extension_that_fails_is_tried_again_in_time() {
    let queue = queue();
    queue.send_all(["a", "b"]);
    queue.fail_calls(Operation::ChangeVisibility, 1..=1);
    queue.fail_entry(Operation::ChangeVisibility, "b", 1);
    let log = Log::default();
    let running = start(queue, work(&log, 2 * VISIBILITY, Verdict::Ack));
    running.queue.until(empty).await;
    let mut handled = handled(&log);
    handled.sort();
    assert_eq!(handled, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_extended_after_the_verdict() {
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
async fn nothing_is_extended_that_is_gone() {
    let queue = queue();
    queue.send_all(["gone", "here"]);
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, work(&log, 10 * VISIBILITY, Verdict::Ack));
    running.queue.until(|queue| changes(queue, "gone", begin).len() == 2).await;
    running.queue.remove("gone");
    running.queue.until(empty).await;
    // The third learns that it is gone; the other's go on.
    assert_eq!(changes(&running.queue, "gone", begin).len(), 3);
    assert!(changes(&running.queue, "here", begin).len() > 10);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn extensions_end_with_sqs_s_twelve_hours() {
    let queue = queue();
    queue.send("m");
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, work(&log, MAX_VISIBILITY + VISIBILITY, Verdict::Ack));
    running.queue.until(|_| handled(&log).len() == 2).await;
    // A second less than twelve hours after its receive the message comes again, and no earlier.
    assert_eq!(begin.elapsed(), MAX_VISIBILITY - SECOND);
    let last = changes(&running.queue, "m", begin).pop().expect("it was extended");
    assert!(last.0 + last.1 == MAX_VISIBILITY - SECOND && !last.1.is_zero(), "{last:?}");
    running.queue.until(empty).await;
    assert!(!running.metric("logferry_queue_errors_total{"), "the queue refused none of it");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_extension_on_its_way_does_not_overtake_a_retry() {
    let queue = queue();
    queue.send("m");
    // The first extension is slow (the SDK retries it), and the verdict comes meanwhile.
    queue.slow_calls(Operation::ChangeVisibility, 1..=1, 5 * SECOND);
    let delay = 2 * VISIBILITY;
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, work(&log, VISIBILITY / 2 + 2 * SECOND, retry_after(delay)));
    running.queue.until(empty).await;
    assert!(begin.elapsed() >= delay, "it came again after {:?}", begin.elapsed());
    running.stop().await;
}
