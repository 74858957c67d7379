//! Tests of the room that messages take.

use super::*;

/// Starts a worker with two slots. A message whose body begins with a digit needs so many units.
fn start_sized(queue: MemoryQueue, takes: Duration) -> Running {
    let units = |message: &Message| message.body[..1].parse().expect("the body begins with its units");
    start_in_room(queue, WorkerSettings { concurrency: 2, ..settings() }, units, move |_, _, _| async move {
        tokio::time::sleep(takes).await;
        Verdict::Ack
    })
}

async fn until_in_flight(running: &Running, count: i64) {
    running.queue.until(|_| running.metrics.messages_in_flight.get() == count).await;
}

#[tokio::test(start_paused = true)]
async fn small_messages_share_a_slot_and_leave_one_free() {
    let queue = queue();
    queue.send_all(numbered(60).map(|number| format!("1 small {number}")));
    let running = start_sized(queue, SECOND);
    // Eight share a slot; the ninth takes the other one.
    until_in_flight(&running, 9).await;
    assert_eq!(running.metrics.slots_busy.get(), 2.0);
    running.queue.until(empty).await;
    assert!(running.metric("logferry_messages_total{verdict=\"ack\"} 60\n"));
    assert_eq!(running.stop().await, Drained::default());
}

#[tokio::test(start_paused = true)]
async fn a_large_message_waits_for_a_slot_and_nothing_is_received_meanwhile() {
    let queue = queue();
    queue.send_all(["3 small", "8 large", "8 large too", "1 small"].map(str::to_owned));
    let running = start_sized(queue, 10 * SECOND);
    until_in_flight(&running, 2).await;
    tokio::time::sleep(5 * SECOND).await;
    assert_eq!(running.metrics.messages_in_flight.get(), 2, "the second large one does not fit");
    assert!(receives(&running.queue).len() <= 2, "{:?}", receives(&running.queue));
    running.queue.until(empty).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_for_room_for_some_seconds_only() {
    let queue = queue();
    queue.send_all(numbered(40).map(|number| format!("1 small {number}")));
    let running = start_sized(queue, 3600 * SECOND);
    // The slots are taken by small messages. Ten of the other messages were received with them, at most.
    until_in_flight(&running, 9).await;
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(running.queue.in_flight(), 9, "the others are in the queue, where another worker finds them");
    drop(running);
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_for_room_return_to_the_queue_when_the_worker_stops() {
    let queue = queue();
    // After the small messages, the worker expects further small ones, and receives more of the large ones than fit.
    let (small, large) = (numbered(45).map(|number| format!("1 small {number}")), numbered(20));
    queue.send_all(small.chain(large.map(|number| format!("8 large {number}"))));
    let running = start_sized(queue, SECOND);
    let waits = |queue: &MemoryQueue| {
        let in_work = usize::try_from(running.metrics.messages_in_flight.get()).expect("a number");
        in_work == 2 && running.metrics.slots_busy.get() == 2.0 && queue.in_flight() > 2
    };
    running.queue.until(waits).await;
    let queue = Arc::clone(&running.queue);
    assert_eq!(running.stop().await, Drained::default());
    assert_eq!((queue.left().len(), queue.in_flight()), (18, 0), "two of twenty were finished");
}
