//! Tests of delays with fractions of a second. SQS counts delays in whole seconds.

use super::*;
use crate::worker::settle::Settler;

struct Waiting {
    queue: Arc<MemoryQueue>,
    settler: Settler<MemoryQueue>,
}

/// Settles one message with a retry after `delay`.
async fn waiting(delay: Duration) -> Waiting {
    let queue = Arc::new(queue());
    queue.send("m");
    let message = queue.receive(1, SECOND).await.expect("the receive succeeds").remove(0);
    let leases = MessageLeases::new(Arc::clone(&queue), VISIBILITY, Metrics::default());
    let WorkerSettings { max_hidden, backoff, .. } = settings();
    let settler = Settler::start(
        Arc::clone(&queue),
        max_hidden,
        backoff.max_age,
        Messages::default(),
        Metrics::default(),
    );
    // Time for the settler to read the queue's retention.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let lease = leases.hold(&message);
    let verdict = retry_after(delay);
    settler.settle(Settlement { message: Arc::new(message), verdict, lease, span: Span::none() });
    Waiting { queue, settler }
}

/// The delays for which the worker asked the queue to hide messages.
fn hidden(queue: &MemoryQueue) -> Vec<Duration> {
    let calls = queue.calls().into_iter().filter_map(|(_, call)| match call {
        QueueCall::ChangeVisibility(entries) => Some(entries),
        _ => None,
    });
    calls.flatten().map(|(_, delay)| delay).collect()
}

#[tokio::test(start_paused = true)]
async fn the_worker_waits_for_the_fraction_of_a_second_itself() {
    for (delay, seconds, odd) in [(2400, 2, 400), (400, 0, 400), (3000, 3, 0)] {
        let start = Instant::now();
        let Waiting { queue, settler } = waiting(Duration::from_millis(delay)).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(settler.backlog(), usize::from(odd == 0), "a waiting message is no backlog");
        let again = queue.receive(1, Duration::from_secs(20)).await.expect("the receive succeeds");
        assert_eq!((again.len(), hidden(&queue)), (1, vec![Duration::from_secs(seconds)]));
        let late = start.elapsed() - Duration::from_millis(delay);
        assert!(late < Duration::from_millis(200), "{delay} ms and {late:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn shutdown_does_not_wait_for_the_fraction_of_a_second() {
    let start = Instant::now();
    let Waiting { queue, settler } = waiting(Duration::from_millis(2900)).await;
    settler.finish().await;
    assert_eq!(hidden(&queue), [Duration::from_millis(2900)], "the queue rounds the delay up");
    assert!(start.elapsed() < Duration::from_millis(200));
}
