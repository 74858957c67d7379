//! Tests of messages that wait for their retry. A message is hidden for a short delay and sent anew for a long one. No
//! message waits beyond the queue's retention.

use super::*;
use crate::queue::{MAX_MESSAGE_BYTES, SentAnew};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn send_anew(body: &str, delay: Duration) -> QueueCall {
    QueueCall::SendAnew(vec![(body.to_owned(), delay)])
}

fn sends(queue: &MemoryQueue) -> usize {
    answers(queue).iter().filter(|call| matches!(call, QueueCall::SendAnew(_))).count()
}

#[tokio::test(start_paused = true)]
async fn a_message_with_a_long_delay_is_not_in_flight() {
    let queue = queue();
    queue.send_traced("m", Some("Root=1"));
    let (log, begin, delay) = (Log::default(), Instant::now(), 15 * MINUTE);
    let running = start(queue, until_attempt(&log, 4, retry_after(delay)));
    running.queue.until(|queue| queue.left().len() == 1 && queue.sent_anew().len() == 1).await;
    assert_eq!(running.queue.in_flight(), 0);
    running.queue.until(empty).await;
    // Each delay takes one send and then one delete.
    let round = [send_anew("m", delay), delete(&["m"])];
    assert_eq!(answers(&running.queue), [&round, &round, &round, &round[1..]].concat());
    // Each new message carries the number of earlier attempts, the trace header and the tenant.
    assert_eq!(handled(&log), (1..=4).map(|attempt| ("m".to_owned(), attempt)).collect::<Vec<_>>());
    assert!(begin.elapsed() >= 3 * delay);
    let sent = running.queue.sent_anew();
    let SentAnew { message, tenant_id, .. } = &sent[2];
    assert_eq!((message.trace_header.as_deref(), tenant_id.as_deref()), (Some("Root=1"), Some("acme")));
    assert!(message.age_when_received >= 2 * delay, "{message:?}");
    assert_eq!(message.kept_when_received, delay);
    assert!(running.metric("logferry_messages_sent_anew_total{reason=\"role_denied\"} 3\n"));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_long_delays_take_few_calls() {
    let queue = queue();
    queue.send_all(numbered(20));
    let settings = WorkerSettings { concurrency: 40, ..settings() };
    let running = start_with(queue, settings, until_attempt(&Log::default(), 2, retry_after(HOUR / 4)));
    running.queue.until(|queue| queue.sent_anew().len() == 20 && queue.left().len() == 20).await;
    assert_eq!(answers(&running.queue).len(), 4, "{:?}", answers(&running.queue));
    running.queue.until(empty).await;
    running.stop().await;
}

/// Only `max_hidden` messages with a short delay are hidden at once. The others are sent anew.
#[tokio::test(start_paused = true)]
async fn the_number_of_hidden_messages_is_bounded() {
    let queue = queue();
    queue.send_all(numbered(200));
    let log = Log::default();
    let running = start(queue, until_attempt(&log, 5, retry_after(30 * SECOND)));
    running.queue.until(empty).await;
    let WorkerSettings { concurrency, max_hidden, .. } = settings();
    // Hidden messages, messages in work, and messages whose verdicts are being carried out are in flight.
    let highest = running.queue.highest_in_flight();
    assert!((max_hidden..=max_hidden + 10 * concurrency).contains(&highest), "{highest}");
    assert_eq!(handled(&log).len(), 5 * 200, "each message was handled five times");
    running.stop().await;
}

/// The worker itself waits for delays of less than a second. Messages with such delays are in flight too, so `max_hidden`
/// counts them.
#[tokio::test(start_paused = true)]
async fn the_number_of_messages_hidden_for_less_than_a_second_is_bounded() {
    let queue = queue();
    queue.send_all(numbered(400));
    let (log, delay) = (Log::default(), Duration::from_millis(900));
    let running = start_with(
        queue,
        WorkerSettings { max_hidden: 30, ..settings() },
        until_attempt(&log, 3, retry_after(delay)),
    );
    running.queue.until(empty).await;
    let WorkerSettings { concurrency, .. } = settings();
    let highest = running.queue.highest_in_flight();
    assert!((30..=30 + 10 * concurrency).contains(&highest), "{highest}");
    assert_eq!(handled(&log).len(), 3 * 400);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_permission_to_send_a_message_is_hidden() {
    let queue = queue().without_sending();
    queue.send_all(["a", "b"]);
    let log = Log::default();
    let running = start(queue, until_attempt(&log, 3, retry_after(15 * MINUTE)));
    running.queue.until(empty).await;
    assert_eq!(handled(&log).len(), 6);
    let answers = answers(&running.queue);
    let hidden = answers.iter().filter(|call| matches!(call, QueueCall::ChangeVisibility(_))).count();
    // After a minute the worker tries to send again, once for both messages.
    let denied = sends(&running.queue);
    assert_eq!((hidden, denied, running.queue.sent_anew().len()), (2, 2, 0), "{answers:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_could_not_be_sent_is_hidden_and_a_sent_one_is_deleted() {
    let queue = queue();
    queue.send_all(["sent", "unsent"]);
    queue.fail_entry(QueueOperation::SendAnew, "unsent", 1);
    let delay = 2 * MINUTE;
    let running = start(queue, until_attempt(&Log::default(), 2, retry_after(delay)));
    running.queue.until(|queue| answers(queue).len() == 3).await;
    let both = ["sent", "unsent"].map(|body| (body.to_owned(), delay)).into();
    let mut expected = [QueueCall::SendAnew(both), hide("unsent", MINUTE), delete(&["sent"])];
    let mut found = answers(&running.queue);
    expected.sort_by_key(|call| format!("{call:?}"));
    found.sort_by_key(|call| format!("{call:?}"));
    assert_eq!(found, expected);
    running.queue.until(empty).await;
    running.stop().await;
}

/// SQS keeps a message even if its answer to the send is lost: the message is in the queue twice then. If the worker
/// sent each copy anew after each receive, the number of messages would double each time.
#[tokio::test(start_paused = true)]
async fn lost_answers_of_sends_do_not_multiply_messages() {
    let queue = queue();
    queue.send_all(numbered(20));
    queue.lose_answers(QueueOperation::SendAnew, 1..=usize::MAX);
    let begin = Instant::now();
    let running = start(queue, move |_| {
        std::future::ready(if begin.elapsed() < HOUR { retry_after(2 * MINUTE) } else { Verdict::Ack })
    });
    running.queue.until(empty).await;
    // After a failed send the worker sends nothing for a minute. Two batches can be in flight when the first one fails.
    let (copies, sends) = (running.queue.sent_anew().len(), sends(&running.queue));
    assert!(sends <= 2 * 60 && copies <= 10 * sends, "{copies} copies by {sends} sends");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_minute_after_a_failed_send_messages_are_sent_anew_again() {
    let queue = queue();
    queue.send("m");
    queue.lose_answers(QueueOperation::SendAnew, 1..=1);
    let (log, begin) = (Log::default(), Instant::now());
    let running = start(queue, until_attempt(&log, 4, retry_after(10 * MINUTE)));
    running.queue.until(|queue| sends(queue) == 2).await;
    assert!((MINUTE..2 * MINUTE).contains(&begin.elapsed()), "{:?}", begin.elapsed());
    running.queue.until(empty).await;
    running.stop().await;
}

/// The retries last longer than the queue's retention. No message may be lost, whatever its delay, with and without the
/// permission to send.
#[tokio::test(start_paused = true)]
async fn no_message_is_lost_at_the_end_of_the_retention() {
    for delay in [SECOND, 10 * SECOND, 50 * SECOND, 15 * MINUTE] {
        for may_send in [true, false] {
            let queue = queue().with_retention(MINUTE);
            let queue = if may_send { queue } else { queue.without_sending() };
            queue.send_all(numbered(10));
            let begin = Instant::now();
            let running = start_with(queue, WorkerSettings { concurrency: 20, ..settings() }, move |_| {
                std::future::ready(if begin.elapsed() < HOUR { retry_after(delay) } else { Verdict::Ack })
            });
            running.queue.until(empty).await;
            let letters = running.queue.dead_letters();
            if may_send {
                let acknowledged = running.metric("logferry_messages_total{verdict=\"ack\"} 10\n");
                assert!(letters.is_empty() && acknowledged, "{delay:?}: {letters:?}");
            } else {
                assert!(begin.elapsed() < MINUTE, "the letters come before the retention ends");
                let reasons = letters.iter().filter(|letter| letter.attributes[0].1 == "role_denied");
                assert_eq!(reasons.count(), 10, "{delay:?}: {letters:?}");
                assert!(running.metric("logferry_dead_letters_overdue_total{reason=\"role_denied\"} 10\n"));
            }
            running.stop().await;
        }
    }
}

/// While the retention cannot be read, no message is hidden, and none waits for more than 30 s.
#[tokio::test(start_paused = true)]
async fn an_unknown_retention_counts_as_the_shortest_one() {
    let queue = queue().with_retention(MINUTE);
    queue.send("m");
    queue.fail_calls(QueueOperation::Retention, 1..=8);
    let begin = Instant::now();
    let running = start(queue, move |_| {
        std::future::ready(if begin.elapsed() < HOUR { retry_after(15 * MINUTE) } else { Verdict::Ack })
    });
    running.queue.until(empty).await;
    assert!(begin.elapsed() >= HOUR && running.queue.dead_letters().is_empty());
    assert!(running.queue.sent_anew().iter().all(|sent| sent.delay == 30 * SECOND));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_overdue_message_becomes_a_letter_with_its_reason() {
    let queue = queue();
    queue.send("m");
    let running = start(queue, |_| {
        let Verdict::Retry(cause) = retry_after(SECOND) else { unreachable!("a retry") };
        std::future::ready(Verdict::Overdue(cause))
    });
    running.queue.until(empty).await;
    let letters = running.queue.dead_letters();
    assert!(letters[0].attributes.starts_with(&[("reason", "role_denied".to_owned())]), "{letters:?}");
    assert!(running.metric("logferry_dead_letters_overdue_total{reason=\"role_denied\"} 1\n"));
    assert!(running.metric("logferry_messages_total{verdict=\"overdue\"} 1\n"));
    running.stop().await;
}

/// Only the queue's redrive policy can move poison without a dead-letter queue, and the policy counts the receives of a message.
#[tokio::test(start_paused = true)]
async fn poison_without_a_dead_letter_queue_is_not_sent_anew() {
    let queue = queue().without_dead_letters();
    queue.send("m");
    let log = Log::default();
    let running = start(queue, until_attempt(&log, 5, Verdict::Poison(bad_key_after(15 * MINUTE))));
    running.queue.until(empty).await;
    assert_eq!((handled(&log).len(), running.queue.sent_anew().len()), (5, 0));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn poison_without_a_dead_letter_queue_is_hidden_even_if_the_retention_is_unknown() {
    for verdict in [Verdict::Poison, Verdict::Overdue] {
        let queue = queue().without_dead_letters();
        queue.send("m");
        queue.fail_calls(QueueOperation::Retention, 1..=usize::MAX);
        let log = Log::default();
        let begin = Instant::now();
        let running = start(queue, until_attempt(&log, 5, verdict(bad_key_after(15 * MINUTE))));
        running.queue.until(empty).await;
        assert_eq!((handled(&log).len(), running.queue.sent_anew().len()), (5, 0));
        assert_eq!(answers(&running.queue)[0], hide("m", 30 * SECOND), "the retention may be short");
        assert!(begin.elapsed() < 4 * MINUTE, "{:?}", begin.elapsed());
        running.stop().await;
    }
}

/// The dead-letter queue refuses the large letter each time, so the large message is hidden until the redrive policy moves it.
#[tokio::test(start_paused = true)]
async fn a_refused_letter_delays_no_other_letter() {
    let queue = queue().with_letters_up_to(1000);
    let large = "l".repeat(1001);
    queue.send_all([large.as_str(), "small"]);
    let log = Log::default();
    let begin = Instant::now();
    let running = start_with(
        queue,
        WorkerSettings { concurrency: 1, ..settings() },
        until_attempt(&log, 5, Verdict::Poison(bad_key_after(15 * MINUTE))),
    );
    running.queue.until(|queue| queue.dead_letters().len() == 1).await;
    assert!(begin.elapsed() < SECOND, "{:?}", begin.elapsed());
    running.queue.until(empty).await;
    assert_eq!((handled(&log).len(), running.queue.sent_anew().len()), (1 + 5, 0));
    running.stop().await;
}

/// A message whose text leaves no room for attributes is hidden. Other messages are still sent anew.
#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_sent_anew_does_not_affect_others() {
    let queue = queue();
    let large = "l".repeat(MAX_MESSAGE_BYTES);
    queue.send(&large);
    let (log, delay) = (Log::default(), 5 * MINUTE);
    let running = start(queue, until_attempt(&log, 3, retry_after(delay)));
    running.queue.until(|queue| answers(queue).len() == 2).await;
    running.queue.send("small");
    running.queue.until(|queue| queue.left().is_empty()).await;
    let small: Vec<_> = running.queue.sent_anew().iter().map(|sent| sent.message.body.clone()).collect();
    assert_eq!(small, ["small", "small"]);
    let hidden: Vec<_> = answers(&running.queue)
        .into_iter()
        .filter(|call| matches!(call, QueueCall::ChangeVisibility(_)))
        .collect();
    assert_eq!(hidden, [hide(&large, delay), hide(&large, delay)]);
    running.stop().await;
}

/// The deletes of a message fail for a while. The message is not handled, buried or sent anew a second time.
#[tokio::test(start_paused = true)]
async fn a_failed_delete_is_tried_again_and_then_remembered() {
    // The deletes fail for 45 s, or for so long that the message is delivered again.
    for (failing, comes_again) in [(15, false), (100, true)] {
        for verdict in [Verdict::Ack, bad_key(), retry_after(10 * MINUTE)] {
            let queue = queue();
            queue.send("m");
            queue.fail_calls(QueueOperation::Delete, 1..=failing);
            let (log, begin) = (Log::default(), Instant::now());
            let running = start(queue, until_attempt(&log, 2, verdict.clone()));
            running.queue.until(empty).await;
            let anew = usize::from(verdict.retry_after().is_some());
            assert_eq!(handled(&log).len(), 1 + anew, "{verdict:?}");
            let letters = usize::from(matches!(verdict, Verdict::Poison(_)));
            assert_eq!(running.queue.dead_letters().len(), letters, "{verdict:?}");
            assert_eq!(running.queue.sent_anew().len(), anew, "{verdict:?}");
            assert!(begin.elapsed() > 45 * SECOND, "{:?}", begin.elapsed());
            let receives = if comes_again { 2 } else { 1 } + anew;
            let received = format!("logferry_messages_received_total {receives}\n");
            assert!(comes_again || running.metric(&received), "{verdict:?}, {failing}");
            running.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_bodies_that_wait_for_a_slow_queue_are_bounded() {
    let queue = queue();
    let large = "x".repeat(1 << 20);
    queue.send_all(numbered(60).map(|number| format!("{number} {large}")));
    queue.slow_calls(QueueOperation::Delete, 1..=1000, 10 * SECOND);
    let WorkerSettings { concurrency, .. } = settings();
    let running = start(queue, |_| std::future::ready(Verdict::Ack));
    running.queue.until(|queue| queue.left().len() < 60).await;
    let most = MAX_HELD_BYTES / (1 << 20) + concurrency;
    let highest = running.queue.highest_in_flight();
    assert!((most - concurrency..=most).contains(&highest), "{highest}");
    running.queue.until(empty).await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_dead_letter_queue_does_not_delay_other_messages() {
    let queue = queue();
    queue.send_all(numbered(400).map(|number| format!("poison {number}")));
    queue.send("good");
    queue.slow_calls(QueueOperation::SendDeadLetter, 1..=100_000, 6 * SECOND);
    let begin = Instant::now();
    let running = start(queue, |message| {
        std::future::ready(if message.body == "good" { Verdict::Ack } else { bad_key() })
    });
    running.queue.until(|queue| !queue.left().iter().any(|body| body == "good")).await;
    // All poison is received before the good message. While more than 32 verdicts wait for the queue, nothing is received.
    assert!(begin.elapsed() < 15 * SECOND, "{:?}", begin.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn messages_with_long_delays_are_sent_anew_while_draining() {
    let queue = queue();
    queue.send_all(["a", "b"]);
    let running = start(queue, |_| async {
        tokio::time::sleep(10 * SECOND).await;
        retry_after(10 * MINUTE)
    });
    running.queue.until(|_| running.metrics.messages_in_flight.get() == 2).await;
    let queue = Arc::clone(&running.queue);
    assert_eq!(running.stop().await, Drained { given_back: 0 });
    assert_eq!((queue.sent_anew().len(), queue.left().len(), queue.in_flight()), (2, 2, 0));
}
