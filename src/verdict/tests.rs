//! Tests of every kind of failure and its verdict.

use super::*;
use crate::{credentials::identity::IdentityError, ledger::lease::LeaseEnded};

const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(10),
    longest: Duration::from_secs(60),
    max_age: Duration::from_secs(3600),
    max_refusals: 3,
};

/// Verdict on a message that has not exceeded the maximum age and was refused for the first time.
fn judge(failures: &[Failed], attempts: u32, chance: f64) -> Verdict {
    decide(failures, Tries { attempts, refusals: 1, age: BACKOFF.max_age }, &BACKOFF, chance)
}

/// Verdict on a message after 100 attempts.
fn judge_refused(failures: &[Failed], refusals: u32) -> Verdict {
    decide(failures, Tries { attempts: 100, refusals, age: BACKOFF.max_age }, &BACKOFF, 0.0)
}

fn failed(failure: Failure) -> Failed {
    let object = ObjectRef {
        bucket: "b".into(),
        key: "k".into(),
        version_id: Some("v".into()),
        ..ObjectRef::default()
    };
    Failed { object: Some(object), tenant_id: Some("acme".into()), delivery: None, failure }
}

fn record(index: u64) -> Failure {
    Failure::Record(RecordError { index, problem: RecordProblem::Truncated("record") })
}

fn denied() -> AssumeError {
    AssumeError::Denied {
        role: "r".into(),
        external_id: None,
        code: "AccessDenied".into(),
        message: "no".into(),
    }
}

fn open(seconds: u64) -> AssumeError {
    AssumeError::Held { refusal: denied().into(), probe_in: Duration::from_secs(seconds) }
}

fn held(seconds: u64) -> SinkError {
    SinkError::Held { denied: text().into(), probe_in: Duration::from_secs(seconds) }
}

fn paused(seconds: u64) -> SinkError {
    SinkError::Paused { account: text(), region: text(), retry_in: Duration::from_secs(seconds) }
}

fn unreached(seconds: u64) -> SinkError {
    SinkError::Unreached { region: text(), retry_in: Duration::from_secs(seconds) }
}

fn text() -> String {
    "words".to_owned()
}

/// Every kind of failure except permanent refusals: its reason, and whether it is poison.
fn table() -> Vec<(Failure, &'static str, bool)> {
    let row = BadRow { tenant_id: text(), name: text(), enabled: true, problems: Vec::new() };
    let lookup = LookupError { tenant_id: text(), table: text(), problem: text() };
    let unavailable = || AssumeError::Unavailable { role: text(), problem: text() };
    let decode = |error| Failure::Decode { records: 3, error };
    let at = |problem| RecordError { index: 3, problem };
    vec![
        (Failure::Event(EventError::Unknown(text())), "bad_event", true),
        (Failure::Key(KeyError::EmptySegment(1)), "bad_key", true),
        (Failure::ForeignBucket, "foreign_bucket", true),
        (Failure::UnknownTenant, "unknown_tenant", true),
        (Failure::TenantPaused, "tenant_paused", true),
        (Failure::Row(row), "bad_tenant_row", true),
        (decode(DecodeError::Truncated { format: "gzip", produced: 1 }), "corrupt_object", true),
        (decode(DecodeError::TooLarge { limit: 1 }), "object_too_large", true),
        (record(1), "corrupt_object", true),
        (decode(DecodeError::WindowTooLarge { window: 2, limit: 1, produced: 0 }), "window_too_large", true),
        (decode(DecodeError::Dictionary { id: 7, produced: 0 }), "unsupported_format", true),
        (Failure::Record(at(RecordProblem::Unsupported(text()))), "unsupported_format", true),
        (Failure::Unkept(at(RecordProblem::SteppedOver)), "record_too_long", true),
        (Failure::Unkept(at(RecordProblem::Refused)), "event_refused", true),
        (Failure::Object(ObjectError::Missing(text())), "object_missing", true),
        (Failure::Object(ObjectError::TooLarge { stored: 2, limit: 1 }), "object_too_large", true),
        (Failure::Object(ObjectError::Denied(text())), "object_denied", false),
        (Failure::Object(ObjectError::NoBucket(text())), "source_bucket_missing", false),
        (Failure::Object(ObjectError::Ours(ours())), "identity", false),
        (Failure::Sink(SinkError::Ours(ours())), "identity", false),
        (Failure::Sink(SinkError::Session(AssumeError::Ours(ours()))), "identity", false),
        (Failure::Copy(CopyError::Ours(ours())), "identity", false),
        (Failure::Copy(CopyError::Session(AssumeError::Ours(ours()))), "identity", false),
        (Failure::Sink(SinkError::GroupQuota(text())), "group_quota", false),
        (Failure::Object(ObjectError::ChecksumMismatch(text())), "checksum_mismatch", false),
        (Failure::Object(ObjectError::Unavailable(text())), "object_unavailable", false),
        (Failure::Lookup(lookup), "tenant_lookup", false),
        (Failure::OverShare { wait: BACKOFF.first }, "over_share", false),
        (Failure::NoWindow, "window_memory", false),
        (Failure::NoLakeShare, "lake_memory", false),
        (Failure::Sink(SinkError::Session(open(0))), "role_denied", false),
        (Failure::Sink(SinkError::Session(denied())), "role_denied", false),
        (Failure::Sink(SinkError::Session(unavailable())), "role_unavailable", false),
        (Failure::Sink(SinkError::NotFound(text())), "group_missing", false),
        (Failure::Sink(SinkError::Denied(text())), "group_denied", false),
        (Failure::Sink(held(0)), "group_denied", false),
        (Failure::Sink(SinkError::Throttled(text())), "throttled", false),
        (Failure::Sink(paused(0)), "throttled", false),
        (Failure::Sink(SinkError::InvalidSequenceToken { expected: None }), "sequence", false),
        (Failure::Sink(SinkError::DataAlreadyAccepted { expected: None }), "sequence", false),
        (Failure::Sink(SinkError::LeaseEnded(LeaseEnded)), "lease_ended", false),
        (Failure::Sink(SinkError::Unavailable(text())), "logs_unavailable", false),
        (Failure::Sink(unreached(7)), "logs_unavailable", false),
        (Failure::Quarantine(QuarantineError { key: text(), problem: text() }), "quarantine", false),
        (Failure::Busy(Duration::ZERO), "object_busy", false),
        (Failure::Ledger(LedgerError::Lost(text())), "lease_lost", false),
        (Failure::Ledger(LedgerError::Throttled(text())), "ledger_unavailable", false),
        (Failure::Ledger(LedgerError::Unavailable(text())), "ledger_unavailable", false),
        (Failure::Ledger(LedgerError::Unreadable(text())), "ledger_unreadable", false),
        (Failure::Copy(CopyError::SourceMissing(text())), "object_missing", true),
        (Failure::Copy(CopyError::TooLarge(text())), "object_too_large", true),
        (Failure::Copy(CopyError::KeyTooLong(1025)), "key_too_long", true),
        (Failure::Copy(CopyError::Collision { key: text(), original: text() }), "copy_collision", true),
        (Failure::Copy(CopyError::NoSuchBucket(text())), "bucket_missing", false),
        (Failure::Copy(CopyError::Denied(text())), "bucket_denied", false),
        (Failure::Copy(CopyError::Session(denied())), "role_denied", false),
        (Failure::Copy(CopyError::Session(open(0))), "role_denied", false),
        (Failure::Copy(CopyError::Session(unavailable())), "role_unavailable", false),
        (Failure::Copy(CopyError::Throttled(text())), "throttled", false),
        (Failure::Copy(CopyError::Unavailable(text())), "bucket_unavailable", false),
        (Failure::Unaccounted { read: 2, accounted: 1 }, "unaccounted", true),
        (Failure::Panic, "panic", false),
    ]
}

fn ours() -> IdentityError {
    IdentityError::Credentials { problem: text() }
}

/// Every permanent refusal and its reason.
fn refusals() -> Vec<(Failure, &'static str)> {
    vec![
        (Failure::Object(ObjectError::BucketGone(text())), "source_bucket_missing"),
        (Failure::Object(ObjectError::Refused(text())), "object_refused"),
        (Failure::Object(ObjectError::Archived(text())), "object_archived"),
        (Failure::Sink(SinkError::Refused(text())), "batch_refused"),
        (Failure::Copy(CopyError::SourceArchived(text())), "object_archived"),
        (Failure::Copy(CopyError::WrongRegion(text())), "bucket_elsewhere"),
        (Failure::Copy(CopyError::Refused(text())), "copy_refused"),
    ]
}

#[test]
fn a_permanent_refusal_is_retried_a_few_times_and_is_poison_then() {
    for (index, (_, reason)) in refusals().into_iter().enumerate() {
        let refused = || failed(refusals().swap_remove(index).0);
        assert!(refused().failure.comes_again() && refused().failure.is_refusal(), "{reason}");
        for (refusals, is_poison) in [(1, false), (2, false), (3, true), (70, true)] {
            match judge_refused(&[refused()], refusals) {
                Verdict::Retry(cause) => {
                    assert_eq!((cause.reason, is_poison), (reason, false), "{refusals}");
                    assert_eq!(cause.refusals, refusals);
                }
                Verdict::Poison(cause) => assert_eq!((cause.reason, is_poison), (reason, true), "{refusals}"),
                other => panic!("{reason}: {other:?}"),
            }
        }
        // A failure for which a retry may succeed comes first, however often the message was refused.
        let verdict = judge_refused(&[refused(), failed(Failure::Panic)], 70);
        assert!(matches!(&verdict, Verdict::Retry(cause) if cause.reason == "panic"), "{verdict:?}");
        let verdict = judge_refused(&[failed(Failure::ForeignBucket), refused()], 2);
        assert!(matches!(&verdict, Verdict::Retry(cause) if cause.reason == reason), "{verdict:?}");
    }
}

#[test]
fn every_failure_has_a_reason_and_a_verdict() {
    for (failure, reason, is_poison) in table() {
        assert_eq!(failure.reason(), reason);
        assert_eq!((failure.comes_again(), failure.is_refusal()), (!is_poison, false), "{reason}");
        let (cause, was_poison) = match judge(&[failed(failure)], 1, 0.0) {
            Verdict::Poison(cause) => (cause, true),
            Verdict::Retry(cause) => (cause, false),
            other => panic!("{reason}: {other:?}"),
        };
        assert_eq!((cause.reason, cause.delay, was_poison), (reason, BACKOFF.first, is_poison));
    }
}

#[test]
fn without_failures_the_verdict_is_ack_and_a_retry_comes_before_poison() {
    assert_eq!(judge(&[], 1, 0.5), Verdict::Ack);
    let failures = [failed(Failure::ForeignBucket), failed(Failure::Panic)];
    assert!(matches!(judge(&failures, 1, 0.0), Verdict::Retry(cause) if cause.reason == "panic"));
}

#[test]
fn a_message_past_its_maximum_age_is_overdue_with_the_reason_of_its_failure() {
    let check = |failures: Vec<Failure>, overdue: Option<&str>| {
        let failures: Vec<_> = failures.into_iter().map(failed).collect();
        let tries = Tries { attempts: 7, refusals: 1, age: BACKOFF.max_age };
        let young = decide(&failures, tries, &BACKOFF, 0.0);
        let verdict = decide(
            &failures,
            Tries { age: BACKOFF.max_age + Duration::from_millis(1), ..tries },
            &BACKOFF,
            0.0,
        );
        match overdue {
            None => assert_eq!(verdict, young),
            Some(reason) => {
                assert!(matches!(young, Verdict::Retry(_)), "{young:?}");
                assert!(matches!(&verdict, Verdict::Overdue(cause) if cause.reason == reason), "{verdict:?}");
            }
        }
    };
    for (failure, reason, is_poison) in table() {
        let is_turn = matches!(failure, Failure::OverShare { .. } | Failure::NoWindow | Failure::NoLakeShare);
        check(vec![failure], (!is_poison && !is_turn).then_some(reason));
    }
    let turn = || Failure::OverShare { wait: Duration::from_secs(3) };
    check(vec![turn(), Failure::Panic], Some("panic"));
    check(vec![turn(), Failure::ForeignBucket], None);
    check(vec![Failure::ForeignBucket, Failure::Panic], Some("panic"));
    check(vec![Failure::Panic, Failure::Stopping], None);
    check(vec![], None);
}

#[test]
fn a_letter_names_every_tenant_that_failed() {
    let of = |tenant: &str| Failed { tenant_id: Some(tenant.into()), ..failed(Failure::UnknownTenant) };
    let check = |failures: &[Failed], expected: Option<&str>| {
        let Verdict::Poison(cause) = judge(failures, 1, 0.0) else { panic!("poison") };
        let tenants = cause.attributes.iter().find(|(name, _)| *name == "tenants");
        assert_eq!(tenants.map(|(_, value)| value.as_str()), expected);
        assert_eq!(cause.tenant_id(), failures[0].tenant_id.as_deref());
    };
    check(&[of("globex"), of("acme"), of("globex")], Some("acme/globex"));
    check(&[of("acme"), of("acme")], Some("acme"));
    check(&[of("acme")], None);
    check(&[Failed { tenant_id: None, ..of("") }], None);
    check(&[Failed { tenant_id: None, ..of("") }, Failed { tenant_id: None, ..of("") }], None);
}

#[test]
fn delays_grow_with_attempts_and_have_jitter() {
    for (attempts, chance, seconds) in [
        (0, 0.0, 10.0),
        (1, 0.0, 10.0),
        (2, 0.0, 20.0),
        (3, 0.0, 40.0),
        (4, 0.0, 60.0),
        (1000, 0.0, 60.0),
        (1, 1.0, 7.5),
        (3, 0.5, 35.0),
    ] {
        let verdict = judge(&[failed(Failure::Panic)], attempts, chance);
        assert_eq!(verdict.retry_after(), Some(Duration::from_secs_f64(seconds)), "{attempts} {chance}");
    }
}

#[test]
fn a_retry_does_not_come_before_it_can_succeed() {
    let check = |failures: Vec<Failure>, attempts, chance, seconds: f64| {
        let failures: Vec<_> = failures.into_iter().map(failed).collect();
        let verdict = judge(&failures, attempts, chance);
        assert_eq!(verdict.retry_after(), Some(Duration::from_secs_f64(seconds)), "{failures:?}");
    };
    let role = |seconds| Failure::Sink(SinkError::Session(open(seconds)));
    check(vec![role(30)], 1, 0.0, 30.0);
    check(vec![role(30)], 1, 1.0, 32.5);
    check(vec![role(30)], 3, 1.0, 30.0);
    check(vec![Failure::Copy(CopyError::Session(open(30)))], 3, 1.0, 30.0);
    check(vec![Failure::Sink(held(30))], 1, 0.0, 30.0);
    // The delay for the attempt is longer than the wait for the probe.
    check(vec![role(30)], 3, 0.0, 40.0);
    check(vec![role(30)], 3, 0.5, 35.0);
    // The probe comes shortly before the longest delay, or after it.
    check(vec![role(58)], 2, 1.0, 60.0);
    check(vec![role(60)], 1, 0.7, 60.0);
    check(vec![role(300)], 1, 0.0, 60.0);
    check(vec![role(300)], 1, 1.0, 45.0);
    // The probe is due, or another failure has a shorter delay.
    check(vec![role(0)], 1, 0.0, 10.0);
    check(vec![role(50), role(30)], 1, 0.0, 30.0);
    check(vec![role(30), Failure::Sink(SinkError::Throttled(text()))], 1, 0.0, 10.0);
    check(vec![role(30), Failure::ForeignBucket], 1, 0.0, 30.0);
    check(vec![Failure::Sink(paused(30))], 1, 0.0, 30.0);
    check(vec![Failure::Sink(unreached(30))], 1, 0.0, 30.0);
    check(vec![Failure::Busy(Duration::from_secs(30))], 1, 0.0, 30.0);
    // The wait for a turn does not depend on the attempts.
    let turn = |seconds| Failure::OverShare { wait: Duration::from_secs(seconds) };
    check(vec![turn(3)], 1, 0.5, 3.0);
    check(vec![turn(3)], 7, 0.5, 3.0);
    check(vec![turn(45), role(30)], 1, 0.0, 30.0);
    check(vec![turn(3), role(30), Failure::ForeignBucket], 1, 0.0, 3.0);
    for waits in [|| Failure::NoWindow, || Failure::NoLakeShare] {
        check(vec![waits()], 1, 0.0, 10.0);
        check(vec![waits()], 3, 0.0, 40.0);
        check(vec![waits()], 30, 0.0, 40.0);
    }
}

#[test]
fn only_unexpected_failures_and_defects_need_attention() {
    for (failure, reason, _) in table() {
        let expected = match reason {
            "unaccounted" | "panic" => Notice::Defect,
            "over_share" | "object_busy" => Notice::Expected,
            _ if failure.held_for().is_some() => Notice::Expected,
            _ => Notice::Unexpected,
        };
        assert_eq!(failure.notice(), expected, "{reason}");
    }
    assert_eq!(Failure::Stopping.notice(), Notice::Expected);
    assert_eq!(Failure::Sink(held(1)).notice(), Notice::Expected, "the breaker has logged it");
    assert_eq!(Failure::Stopping.reason(), "stopping");
}

#[test]
fn verdicts_have_names_and_only_a_retry_has_a_delay() {
    let cause = || cause(&failed(record(7)), &[failed(record(7))], BACKOFF.first, 0);
    let verdicts = [
        (Verdict::Ack, "ack", None),
        (Verdict::Retry(cause()), "retry", Some(BACKOFF.first)),
        (Verdict::Poison(cause()), "poison", None),
        (Verdict::Overdue(cause()), "overdue", None),
    ];
    for (verdict, word, delay) in verdicts {
        assert_eq!((verdict.word(), verdict.retry_after()), (word, delay));
    }
}

#[test]
fn failures_of_a_lane_keep_their_kind() {
    let unkept = RecordError { index: 3, problem: RecordProblem::SteppedOver };
    let failures: [(LaneError, &str, Option<u64>); 4] = [
        (SinkError::NotFound(text()).into(), "group_missing", None),
        (QuarantineError { key: text(), problem: text() }.into(), "quarantine", None),
        (LaneError::Unkept(unkept), "record_too_long", Some(3)),
        (LedgerError::Lost(text()).into(), "lease_lost", None),
    ];
    for (error, reason, record_offset) in failures {
        let failure = Failure::from(error);
        assert_eq!((failure.reason(), failure.record_offset()), (reason, record_offset));
    }
    let decode = Failure::Decode { records: 5, error: DecodeError::TooLarge { limit: 1 } };
    assert_eq!(decode.record_offset(), Some(5));
}

#[test]
fn the_attributes_of_poison_name_tenant_object_and_record() {
    let Verdict::Poison(poison) = judge(&[failed(record(7))], 1, 0.0) else { panic!("poison") };
    let expected = [
        ("tenant", "acme"),
        ("bucket", "b"),
        ("key", "k"),
        ("version", "v"),
        ("record_offset", "7"),
        ("failures", "1"),
    ];
    for (name, value) in expected {
        assert!(poison.attributes.contains(&(name, value.to_owned())), "{name}");
    }
    assert!(poison.attributes.iter().any(|(name, value)| *name == "error" && value.contains("record 7")));
}
