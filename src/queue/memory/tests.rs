//! Tests of the in-memory queue.

use std::sync::Arc;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

async fn receive(queue: &MemoryQueue) -> Vec<Message> {
    queue.receive(MAX_BATCH, WAIT).await.expect("the receive succeeds")
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_not_deleted_is_delivered_again_with_a_new_receipt() {
    let queue = MemoryQueue::new(TIMEOUT);
    queue.send("m");
    let start = Instant::now();
    let first = receive(&queue).await.remove(0);
    // The first receive ends empty after its 20 s. The second one gets the message when its visibility timeout of 30 s ends.
    assert_eq!(receive(&queue).await, []);
    assert_eq!(start.elapsed(), Duration::from_secs(20));
    let second = receive(&queue).await.remove(0);
    assert_eq!(start.elapsed(), TIMEOUT);
    assert_eq!((first.attempts, second.attempts), (1, 2));
    assert_eq!((first.age(), second.age(), second.kept_for()), (TIMEOUT, TIMEOUT, TIMEOUT));
    assert_ne!(first.receipt, second.receipt);

    let delete = |receipt: &Receipt| std::slice::from_ref(receipt).to_vec();
    assert!(matches!(queue.delete(&delete(&first.receipt)).await[0], Err(QueueError::Gone(_))));
    let late = queue.change_visibility(&[(first.receipt, TIMEOUT)]).await;
    assert!(matches!(late[0], Err(QueueError::Gone(_))));
    assert_eq!(queue.left(), ["m"]);
    for _ in 0..2 {
        assert!(queue.delete(&delete(&second.receipt)).await[0].is_ok(), "deleting twice is no error");
    }
    assert_eq!(queue.left(), [""; 0]);
    let deleted = queue.change_visibility(&[(second.receipt, TIMEOUT)]).await;
    assert!(matches!(deleted[0], Err(QueueError::Gone(_))));
}

#[tokio::test(start_paused = true)]
async fn visibility_can_be_extended_and_ended_and_is_limited() {
    let queue = MemoryQueue::new(TIMEOUT);
    queue.send("m");
    let message = receive(&queue).await.remove(0);
    tokio::time::advance(TIMEOUT / 2).await;
    assert!(queue.change_visibility(&[(message.receipt.clone(), TIMEOUT)]).await[0].is_ok());
    assert_eq!(queue.hidden_for("m"), TIMEOUT);
    let too_long = queue.change_visibility(&[(message.receipt.clone(), MAX_VISIBILITY)]).await;
    assert!(matches!(too_long[0], Err(QueueError::Unavailable(_))), "12 hours count from the receive");
    assert!(queue.change_visibility(&[(message.receipt.clone(), Duration::ZERO)]).await[0].is_ok());
    assert_eq!(queue.hidden_for("m"), Duration::ZERO);
    let not_in_flight = queue.change_visibility(&[(message.receipt, TIMEOUT)]).await;
    assert!(matches!(not_in_flight[0], Err(QueueError::Gone(_))));
    assert_eq!(receive(&queue).await[0].attempts, 2);
}

#[tokio::test(start_paused = true)]
async fn a_receive_waits_for_messages_and_takes_no_more_than_its_maximum() {
    let queue = MemoryQueue::new(TIMEOUT);
    let start = Instant::now();
    let (received, ()) = tokio::join!(receive(&queue), async {
        tokio::time::sleep(Duration::from_secs(7)).await;
        queue.send("m");
    });
    assert_eq!((received.len(), start.elapsed()), (1, Duration::from_secs(7)));
    queue.send_all(["a", "b", "c"]);
    assert_eq!(queue.receive(2, WAIT).await.expect("the receive succeeds").len(), 2);
    assert_eq!(receive(&queue).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_sent_anew_is_a_new_message_with_the_same_age() {
    let queue = MemoryQueue::new(TIMEOUT);
    queue.send_traced("m", Some("Root=1"));
    let begin = Instant::now();
    tokio::time::advance(TIMEOUT).await;
    let first = Arc::new(receive(&queue).await.remove(0));
    tokio::time::advance(TIMEOUT / 3).await;
    assert_eq!(queue.in_flight(), 1);
    let delay = Duration::from_secs(100);
    let tenant_id = Some("acme".into());
    let entry = SentAnew { message: Arc::clone(&first), refusals: 2, delay, tenant_id };
    assert!(queue.send_anew(&[entry]).await[0].is_ok());
    assert_eq!((queue.left(), queue.in_flight()), (vec!["m".to_owned(), "m".to_owned()], 1));
    assert!(queue.delete(std::slice::from_ref(&first.receipt)).await[0].is_ok());
    assert_eq!(
        (queue.left(), queue.in_flight()),
        (vec!["m".to_owned()], 0),
        "a delayed message is not in flight"
    );
    while begin.elapsed() < TIMEOUT * 4 / 3 + delay {
        assert_eq!(queue.in_flight(), 0);
        assert!(queue.receive(1, SECOND).await.expect("the receive succeeds").len() <= 1);
    }
    tokio::time::advance(TIMEOUT).await;
    let second = receive(&queue).await.remove(0);
    assert_eq!((second.id.as_str(), second.body.as_str()), ("m+1", "m"));
    assert_eq!(second.attempts, 3, "one attempt of the old message and two of the new one");
    assert_eq!(second.trace_header.as_deref(), Some("Root=1"));
    assert_eq!(second.age() - second.kept_for(), TIMEOUT / 3);
    assert_eq!(queue.highest_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_older_than_the_retention_is_lost() {
    let queue = MemoryQueue::new(TIMEOUT).with_retention(TIMEOUT * 3);
    queue.send("m");
    for left in [1, 1, 1, 0] {
        assert_eq!(queue.receive(1, Duration::ZERO).await.expect("the receive succeeds").len(), left);
        tokio::time::advance(TIMEOUT).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_permission_to_send_nothing_is_sent() {
    let queue = MemoryQueue::new(TIMEOUT).without_sending();
    queue.send("m");
    assert!(matches!(queue.probe_sending().await, Err(QueueError::Denied(_))));
    let message = Arc::new(receive(&queue).await.remove(0));
    let entry = SentAnew { message, refusals: 0, delay: SECOND, tenant_id: None };
    assert!(matches!(queue.send_anew(&[entry]).await[0], Err(QueueError::Denied(_))));
    assert_eq!(queue.left(), ["m"]);
}

#[tokio::test(start_paused = true)]
async fn calls_and_entries_fail_as_requested() {
    let queue = MemoryQueue::new(TIMEOUT);
    queue.fail_calls(QueueOperation::Receive, 1..=2);
    queue.fail_entry(QueueOperation::Delete, "b", 1);
    queue.send_all(["a", "b"]);
    for _ in 0..2 {
        assert!(queue.receive(1, WAIT).await.is_err());
    }
    let receipts: Vec<_> = receive(&queue).await.into_iter().map(|message| message.receipt).collect();
    let results = queue.delete(&receipts).await;
    assert!(results[0].is_ok() && matches!(results[1], Err(QueueError::Unavailable(_))), "{results:?}");
    assert_eq!(queue.left(), ["b"]);
    assert!(queue.delete(&receipts).await.iter().all(Result::is_ok));
    let letter = DeadLetter { body: "a".into(), attributes: vec![("reason", "test".into())] };
    queue.send_dead_letter(&letter).await.expect("the letter is sent");
    assert_eq!(queue.dead_letters(), [letter]);
}
