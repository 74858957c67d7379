//! Simulates a worker and its queue over minutes, to test the effects of the rule.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

const STEP: Duration = Duration::from_millis(5);
/// Largest number of messages in one receive.
const RECEIVE: usize = 10;

#[derive(Clone, Debug)]
struct Message {
    tenant: usize,
    sent: Duration,
    refused: u32,
}

/// The messages that a tenant sends, and how long its objects take.
#[derive(Clone, Copy)]
struct Load {
    /// Number of messages at the start.
    backlog: usize,
    /// Interval at which further messages are sent.
    every: Option<Duration>,
    takes: Duration,
}

#[derive(Clone, Debug, Default)]
struct Outcome {
    done: usize,
    refusals: Vec<u32>,
    /// From sending to admission.
    waits: Vec<Duration>,
    longest_wait: Duration,
    last: Duration,
}

impl Outcome {
    fn mean_refusals(&self) -> f64 {
        f64::from(self.refusals.iter().sum::<u32>()) / self.refusals.len().max(1) as f64
    }

    fn most_refusals(&self) -> u32 {
        self.refusals.iter().copied().max().unwrap_or_default()
    }
}

/// Runs until all backlogs are done, for at most `most`. The tenants' backlogs alternate in the queue.
fn simulate(slots: usize, loads: &[Load], most: Duration) -> Vec<Outcome> {
    let (mut book, start) = (Book::new(Limits { slots, ..super::tests::LIMITS }), Instant::now());
    let mut outcomes = vec![Outcome::default(); loads.len()];
    let mut queue: VecDeque<Message> = VecDeque::new();
    let mut hidden: BTreeMap<(Duration, u64), Message> = BTreeMap::new();
    let mut running: BTreeSet<(Duration, u64, usize, Duration)> = BTreeSet::new();
    let (mut serial, mut now) = (0, Duration::ZERO);
    let backlogs: usize = loads.iter().map(|load| load.backlog).sum();
    for turn in 0..loads.iter().map(|load| load.backlog).max().unwrap_or_default() {
        let tenants = loads.iter().enumerate().filter(|(_, load)| turn < load.backlog);
        queue.extend(tenants.map(|(tenant, _)| Message { tenant, sent: now, refused: 0 }));
    }
    let (mut random, mut backlog_done) = (fastrand::Rng::with_seed(1), 0);
    while backlog_done < backlogs && now < most {
        now += STEP;
        for (tenant, load) in loads.iter().enumerate() {
            if load.every.is_some_and(|every| now.as_millis().is_multiple_of(every.as_millis())) {
                queue.push_back(Message { tenant, sent: now, refused: 0 });
            }
        }
        while let Some(entry) = hidden.first_entry()
            && entry.key().0 <= now
        {
            queue.push_back(entry.remove());
        }
        while running.first().is_some_and(|(end, ..)| *end <= now) {
            let (end, _, tenant, since) = running.pop_first().expect("an object is running");
            book.leave(&tenant.to_string(), 0, UNITS, start + since, start + now);
            outcomes[tenant].done += 1;
            outcomes[tenant].last = end;
            backlog_done += usize::from(loads[tenant].backlog > 0);
        }
        let room = slots.saturating_sub(running.len()).min(RECEIVE).min(queue.len());
        for mut message in queue.drain(..room) {
            serial += 1;
            match book.enter(&message.tenant.to_string(), 0, UNITS, start + now, random.f64()) {
                Ok(()) => {
                    let outcome = &mut outcomes[message.tenant];
                    outcome.refusals.push(message.refused);
                    outcome.waits.push(now - message.sent);
                    outcome.longest_wait = outcome.longest_wait.max(now - message.sent);
                    let takes = loads[message.tenant].takes.mul_f64(0.5 + random.f64());
                    running.insert((now + takes, serial, message.tenant, now));
                }
                Err(wait) => {
                    message.refused += 1;
                    hidden.insert((now + wait, serial), message);
                }
            }
        }
    }
    outcomes
}

fn steady(every: u64, takes: u64) -> Load {
    let (every, takes) = (Duration::from_millis(every), Duration::from_millis(takes));
    Load { backlog: 0, every: Some(every), takes }
}

fn backlog(backlog: usize, takes: u64) -> Load {
    Load { backlog, every: None, takes: Duration::from_millis(takes) }
}

#[test]
fn a_slow_backlog_does_not_delay_other_tenants() {
    let mut loads = vec![backlog(1000, 5000)];
    loads.extend([steady(100, 20); 10]);
    let outcomes = simulate(16, &loads, Duration::from_secs(3600));
    let (noisy, others) = outcomes.split_first().expect("there are eleven tenants");
    assert_eq!(noisy.done, 1000);
    assert!(noisy.mean_refusals() < 2.0 && noisy.most_refusals() <= 8, "{}", noisy.mean_refusals());
    // With half of the slots, the backlog takes at least 625 s.
    assert!(noisy.last < Duration::from_secs(1000), "{:?}", noisy.last);
    for other in others {
        assert!(other.mean_refusals() < 0.01, "{}", other.mean_refusals());
        // Until the first objects have ended, the book knows neither the other tenants nor how slow the backlog's objects
        // are.
        assert!(other.longest_wait < Duration::from_secs(10), "{:?}", other.longest_wait);
        let late = other.waits.iter().filter(|wait| **wait > STEP * 4).count();
        assert!(late * 50 < other.done, "{late} of {} waited", other.done);
    }
}

#[test]
fn a_hanging_sink_does_not_make_messages_come_back_again_and_again() {
    let loads = [backlog(1000, 30_000), steady(100, 20), steady(100, 20)];
    let outcomes = simulate(16, &loads, Duration::from_secs(7200));
    let (stuck, others) = outcomes.split_first().expect("there are three tenants");
    assert_eq!(stuck.done, 1000);
    // Their turns are beyond the longest wait, so some messages are refused once per longest wait.
    assert!(stuck.mean_refusals() < 4.0 && stuck.most_refusals() <= 12, "{}", stuck.mean_refusals());
    assert!(others.iter().all(|other| other.mean_refusals() < 0.02));
}

#[test]
fn equal_backlogs_finish_at_about_the_same_time() {
    for (tenants, objects, takes) in [(2, 1000, 200), (3, 1000, 200), (10, 500, 20), (10, 100, 2000)] {
        let loads = vec![backlog(objects, takes); tenants];
        let outcomes = simulate(16, &loads, Duration::from_secs(3600));
        let ideal =
            loads[0].takes * u32::try_from(objects * tenants).expect("the tests have few objects") / 16;
        for outcome in outcomes {
            assert_eq!(outcome.done, objects);
            assert!(outcome.mean_refusals() < 1.5 && outcome.most_refusals() <= 6, "{tenants} tenants");
            // Some slots stay free for tenants that hold none: a third of all slots with two busy tenants, an eleventh with
            // ten.
            assert!(outcome.last < ideal * 5 / 2, "{tenants} tenants: {:?} of {ideal:?}", outcome.last);
        }
    }
}

#[test]
fn a_backlog_alone_is_never_refused() {
    let outcomes = simulate(8, &[backlog(1000, 500)], Duration::from_secs(3600));
    assert_eq!((outcomes[0].done, outcomes[0].most_refusals()), (1000, 0));
}

#[test]
fn other_tenants_get_a_slot_beside_a_backlog_even_if_slots_are_few() {
    let outcomes = simulate(2, &[backlog(1000, 2000), steady(1000, 20)], Duration::from_secs(7200));
    assert_eq!(outcomes[0].done, 1000);
    assert!(outcomes[1].longest_wait < Duration::from_secs(10), "{:?}", outcomes[1].longest_wait);
}
