use tracing_subscriber::layer::SubscriberExt;

use super::{
    ConditionStatus::{Degraded, Unknown},
    course::{APART, EVIDENCE_LASTS},
    *,
};
use crate::metrics::rendered;

fn health(needed: &[Check]) -> Health {
    Health::new(Duration::from_secs(20), needed)
}

fn of(health: &Health, condition: ReadinessCondition) -> ConditionReport {
    let conditions = health.ready().conditions;
    conditions
        .into_iter()
        .find(|found| found.condition == condition.word())
        .expect("every condition is there")
}

fn status(health: &Health, condition: ReadinessCondition) -> ConditionStatus {
    of(health, condition).status
}

fn fail<'a>(health: &Health, call: impl Into<CheckCall<'a>>, times: usize) {
    let call = call.into();
    for _ in 0..times {
        health.failed(call, CheckFailure::Unanswered, &"no route to host");
        a_second_passes(health);
    }
}

/// Makes the next failure count.
fn a_second_passes(health: &Health) {
    let mut state = health.lock();
    let rows = state.courses.values_mut().flat_map(BTreeMap::values_mut);
    for counted in rows.filter_map(|course| course.row.as_mut()?.counted.as_mut()) {
        *counted -= APART;
    }
}

/// Makes the last calls older.
fn age(health: &Health, by: Duration) {
    let mut state = health.lock();
    state.courses.values_mut().flat_map(BTreeMap::values_mut).for_each(|course| course.last -= by);
}

#[test]
fn failures_at_once_count_as_one() {
    let health = health(&[]);
    let state = || status(&health, ReadinessCondition::Ledger);
    let many = || (0..64).for_each(|_| health.failed(Check::Ledger, CheckFailure::Unanswered, &"a stall"));
    many();
    a_second_passes(&health);
    many();
    assert_eq!(state(), Unknown, "two stalls");
    a_second_passes(&health);
    many();
    assert_eq!(state(), Degraded);
    health.succeeded(Check::Ledger);
    many();
    assert_eq!(state(), ConditionStatus::Ok, "a new row begins");
}

#[test]
fn the_third_failure_in_a_row_degrades_and_only_the_same_check_mends() {
    let health = health(&[Check::Receive]);
    assert_eq!(health.ready().status, HealthStatus::Starting);
    assert_eq!(status(&health, ReadinessCondition::Receive), Unknown);
    health.succeeded(Check::Receive);
    assert_eq!(health.ready().status, HealthStatus::Ok);
    fail(&health, Check::Receive, 2);
    health.succeeded(Check::Receive);
    fail(&health, Check::Receive, 2);
    assert_eq!(health.ready().status, HealthStatus::Ok, "a success between ends the row");
    fail(&health, Check::Receive, 1);
    assert_eq!(health.ready().status, HealthStatus::Unready);
    assert_eq!(status(&health, ReadinessCondition::Receive), Degraded);

    fail(&health, Check::DeadLetters, 3);
    health.succeeded(Check::Delete);
    health.succeeded(Check::DeadLettersAllowed);
    assert_eq!(
        status(&health, ReadinessCondition::Settle),
        Degraded,
        "neither a delete nor a probe mends a send"
    );
    health.succeeded(Check::DeadLetters);
    assert_eq!(status(&health, ReadinessCondition::Settle), ConditionStatus::Ok);
    fail(&health, Check::SourceBucket.on("a"), 3);
    health.succeeded(Check::SourceBucket.on("b"));
    let get = of(&health, ReadinessCondition::Get);
    assert_eq!((get.status, get.resource.as_deref()), (Degraded, Some("a")));
    health.succeeded(Check::SourceBucket.on("a"));
    health.succeeded(Check::Receive);
    assert_eq!(health.ready().status, HealthStatus::Ok);
}

#[test]
fn a_worker_that_starts_is_not_ready_before_every_needed_check_succeeded() {
    let health = health(&[Check::Lookup, Check::CentralRole, Check::Ledger]);
    health.succeeded(Check::Lookup);
    health.succeeded(Check::Identity);
    health.switch_off(ReadinessCondition::Ledger);
    assert_eq!(status(&health, ReadinessCondition::Assume), Unknown, "the role has not answered");
    assert_eq!(health.ready().status, HealthStatus::Starting);
    health.succeeded(Check::CentralRole);
    assert_eq!(health.ready().status, HealthStatus::Ok);
    assert_eq!(status(&health, ReadinessCondition::Ledger), ConditionStatus::Off);
    assert_eq!(status(&health, ReadinessCondition::Get), Unknown, "nothing was read yet");
}

#[test]
fn a_region_degrades_only_after_several_accounts_fail_in_a_row() {
    let health = health(&[]);
    let state = || status(&health, ReadinessCondition::Put);
    let put = |account: &'static str| Check::Put.on("eu-west-1").by(account);
    for account in ["1", "2", "3", "4"] {
        fail(&health, put(account), 1);
    }
    assert_eq!(state(), Unknown, "the Region may not exist");
    for account in ["1", "2", "3"] {
        health.succeeded(put(account));
    }
    fail(&health, put("1"), 50);
    fail(&health, put("2"), 50);
    assert_eq!(state(), ConditionStatus::Ok, "two accounts");
    fail(&health, put("3"), 1);
    assert_eq!(of(&health, ReadinessCondition::Put).resource.as_deref(), Some("eu-west-1"));
    health.succeeded(put("4"));
    assert_eq!(state(), ConditionStatus::Ok);

    health.expect(Check::Put.on("us-east-1"));
    for account in ["1", "2", "3"] {
        fail(&health, Check::Put.on("us-east-1").by(account), 1);
    }
    assert_eq!(
        of(&health, ReadinessCondition::Put).resource.as_deref(),
        Some("us-east-1"),
        "our own Region exists"
    );
}

#[test]
fn a_region_with_few_accounts_degrades_when_all_of_them_fail() {
    let health = health(&[]);
    let state = || status(&health, ReadinessCondition::Put);
    let put = |account: &'static str| Check::Put.on("eu-west-1").by(account);
    health.succeeded(put("1"));
    fail(&health, put("1"), 2);
    assert_eq!(state(), ConditionStatus::Ok, "two failures");
    fail(&health, put("1"), 1);
    assert_eq!(state(), Degraded, "there is no other account");
    health.succeeded(put("2"));
    fail(&health, put("1"), 50);
    assert_eq!(state(), ConditionStatus::Ok, "it may be the account's own trouble");
    fail(&health, put("2"), 1);
    assert_eq!(state(), Degraded, "both fail");

    health.succeeded(put("1"));
    let forget = |account: &str| {
        let mut state = health.lock();
        let course = state.known(Check::Put.on("eu-west-1")).expect("it is known");
        let heard = course.heard.iter_mut().find(|(name, _)| name == account).expect("it was heard");
        heard.1 -= EVIDENCE_LASTS + Duration::from_secs(1);
    };
    forget("2");
    fail(&health, put("1"), 3);
    assert_eq!(state(), Degraded, "nothing was heard of 2 for an hour");
}

#[test]
fn accounts_that_fail_at_once_all_count() {
    let health = health(&[]);
    let state = || status(&health, ReadinessCondition::Put);
    let put = |account: &'static str| Check::Put.on("eu-west-1").by(account);
    let at_once = |accounts: &[&'static str]| {
        accounts
            .iter()
            .for_each(|account| health.failed(put(account), CheckFailure::Unanswered, &"a timeout"));
        a_second_passes(&health);
    };
    health.succeeded(put("1"));
    at_once(&["1", "2", "3", "4"]);
    fail(&health, put("1"), 1);
    assert_eq!(state(), ConditionStatus::Ok, "two failures");
    fail(&health, put("1"), 1);
    assert_eq!(state(), Degraded, "the others make no more calls");

    let read = |tenant: &'static str| Check::Read.on("staging").by(tenant);
    for _ in 0..3 {
        for tenant in ["busy", "a", "b"] {
            health.failed(read(tenant), CheckFailure::Unanswered, &"a timeout");
        }
        a_second_passes(&health);
    }
    assert_eq!(status(&health, ReadinessCondition::Get), Degraded, "the busiest tenant is always first");
}

#[test]
fn reads_degrade_only_when_three_tenants_fail() {
    let health = health(&[]);
    let state = || status(&health, ReadinessCondition::Get);
    let read = |tenant: &'static str| Check::Read.on("staging").by(tenant);
    for tenant in ["a", "b"] {
        fail(&health, read(tenant), 50);
    }
    assert_eq!(state(), Unknown);
    health.succeeded(Check::Read.on("staging"));
    for tenant in ["b", "c"] {
        fail(&health, read(tenant), 1);
    }
    assert_eq!(state(), ConditionStatus::Ok, "a success between ends the row");
    fail(&health, read("a"), 1);
    assert_eq!(state(), Degraded);
}

#[test]
fn an_answer_without_evidence_neither_degrades_nor_shows_that_all_is_well() {
    let health = health(&[]);
    let state = || status(&health, ReadinessCondition::Get);
    let head = || Check::SourceBucket.on("staging");
    health.answered(head());
    assert_eq!(state(), Unknown);
    fail(&health, head(), 3);
    assert_eq!(state(), Degraded);
    health.answered(head());
    assert_eq!(state(), Unknown, "there is an answer again");
    fail(&health, head(), 2);
    assert_eq!(state(), Unknown, "a new row begins");
    health.succeeded(head());
    health.answered(head());
    assert_eq!(state(), Unknown);
    for _ in 0..3 {
        health.failed(head(), CheckFailure::Missing, &"404");
        a_second_passes(&health);
    }
    health.answered(head());
    let get = of(&health, ReadinessCondition::Get);
    assert_eq!(get.status, Degraded, "a denied HeadBucket does not show that the bucket exists");
    health.succeeded(head());
    assert_eq!(state(), ConditionStatus::Ok);
}

/// The lines of the log, and whether the lock was free while each was written.
#[derive(Clone)]
struct Lines {
    health: Arc<Health>,
    written: Arc<Mutex<Vec<(String, bool)>>>,
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut line = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn fmt::Debug| {
            line.push_str(&format!("{field}={value:?} "));
        });
        let is_free = self.health.state.try_lock().is_ok();
        self.written.lock().expect("no test panics with the lock").push((line, is_free));
    }
}

#[test]
fn every_change_is_logged_and_no_line_is_written_under_the_lock() {
    let lines = Lines { health: Arc::new(health(&[])), written: Arc::default() };
    let subscriber = tracing_subscriber::registry().with(lines.clone());
    crate::trace::testing::with_subscriber(subscriber, || {
        let health = &lines.health;
        let head = || Check::SourceBucket.on("staging");
        fail(health, head(), 3);
        health.succeeded(head());
        fail(health, head(), 3);
        health.answered(head());
        fail(health, Check::QuarantineFile, 3);
        fail(health, Check::DeadLetters, 2);
        age(health, EVIDENCE_LASTS + Duration::from_secs(1));
        health.ready();
        health.alive();
    });
    let written = lines.written.lock().expect("no test panics with the lock").clone();
    assert!(written.iter().all(|(_, is_free)| *is_free), "{written:?}");
    for (text, count) in
        [("is degraded", 3), ("is mended", 1), ("is no longer degraded", 2), ("for an hour", 1)]
    {
        let found = written.iter().filter(|(line, _)| line.contains(text)).count();
        assert_eq!(found, count, "{text}: {written:?}");
    }
}

#[test]
fn an_old_failure_that_no_probe_repeats_becomes_unknown() {
    let health = health(&[]);
    fail(&health, Check::QuarantineFile, 3);
    fail(&health, Check::DeadLetters, 3);
    fail(&health, Check::SourceBucket, 3);
    age(&health, EVIDENCE_LASTS - Duration::from_secs(60));
    assert_eq!(status(&health, ReadinessCondition::Quarantine), Degraded);
    age(&health, Duration::from_secs(61));
    assert_eq!(status(&health, ReadinessCondition::Quarantine), Unknown);
    assert_eq!(status(&health, ReadinessCondition::Settle), Unknown, "a probe sends no dead letter");
    assert_eq!(status(&health, ReadinessCondition::Get), Degraded, "a probe would have mended it");
    fail(&health, Check::QuarantineFile, 2);
    assert_eq!(status(&health, ReadinessCondition::Quarantine), Unknown, "a new row begins");
}

#[test]
fn an_answer_has_fixed_sentences_and_the_metric_agrees() {
    let health = Arc::new(health(&[]));
    let before = Timestamp::now();
    for _ in 0..3 {
        health.failed(
            Check::Identity,
            CheckFailure::Clock,
            &"RequestId: 6a7f; Signature expired: 20261127T113000Z",
        );
        a_second_passes(&health);
    }
    let found = serde_json::to_value(health.ready()).expect("JSON");
    assert_eq!(found["status"], "unready");
    let assume = &found["conditions"][2];
    let since: Timestamp = assume["since"].as_str().expect("a text").parse().expect("RFC 3339");
    assert!(since.duration_since(before).abs().as_secs() < 60, "{assume}");
    let expected = serde_json::json!({
        "condition": "assume", "status": "degraded", "since": assume["since"],
        "problem": "AWS refuses the worker's signatures, because this host's clock is wrong.",
        "remedy": "Set the host's clock, preferably by NTP.",
    });
    assert_eq!(*assume, expected);
    let text = rendered(|registry| health.register(registry));
    for condition in ReadinessCondition::ALL {
        let degraded = i64::from(condition == ReadinessCondition::Assume);
        let line = format!("logferry_condition_degraded{{condition=\"{}\"}} {degraded}\n", condition.word());
        assert!(text.contains(&line), "{line}{text}");
    }
}

#[test]
fn a_worker_that_drains_is_alive_and_not_ready() {
    let health = health(&[]);
    assert_eq!((health.alive().status, health.ready().status), (HealthStatus::Ok, HealthStatus::Ok));
    health.drain();
    assert_eq!(
        (health.alive().status, health.ready().status),
        (HealthStatus::Draining, HealthStatus::Draining)
    );
    assert_eq!(status(&health, ReadinessCondition::Draining), Degraded);
}

#[test]
fn a_loop_that_hangs_is_not_alive() {
    let health = Health { patience: Duration::ZERO, ..health(&[]) };
    let stalled =
        std::iter::repeat_with(|| health.alive()).find(|report| report.status == HealthStatus::Stalled);
    assert_eq!(stalled.and_then(|report| report.stalled), Some(sentences::STALLED));
    health.drain();
    assert_eq!(health.alive().status, HealthStatus::Draining);
}

#[test]
fn every_check_explains_every_cause_in_sentences() {
    use Check::*;
    let checks = [
        Receive,
        Lookup,
        Identity,
        CentralRole,
        SourceBucket,
        Read,
        Put,
        DeadLetters,
        DeadLettersAllowed,
        Delete,
        Ledger,
        QuarantineBucket,
        QuarantineFile,
    ];
    let causes = [
        CheckFailure::Unanswered,
        CheckFailure::Missing,
        CheckFailure::Denied,
        CheckFailure::Elsewhere,
        CheckFailure::Throttled,
        CheckFailure::Clock,
        CheckFailure::Credentials,
    ];
    for check in checks {
        for cause in causes {
            let Explanation { problem, remedy } = check.explain(cause);
            for text in [problem, remedy] {
                assert!(
                    text.starts_with(char::is_uppercase) && text.ends_with('.'),
                    "{check:?} {cause:?}: {text}"
                );
            }
        }
    }
}
