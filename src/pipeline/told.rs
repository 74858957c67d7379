//! The log lines of objects: one for each delivery of an object, one for each failure, and samples of the events that
//! CloudWatch Logs does not store, and of members that a lake's records do not have.

use std::time::Duration;

use jiff::Timestamp;

use super::{Admitted, seen::Unseen};
use crate::{
    batch::BatchTally,
    delivery::Lane,
    lake::{self, LakeAccount},
    ledger::{Ledger, owed::QuarantineReason},
    queue::Message,
    sampler::LineSampler,
    sink::LogSink,
    tenant::{Delivery, Mode},
    trace::milliseconds,
    verdict::{Failed, Notice, Verdict},
};

/// How long the parts of an object's delivery took. Each part begins when the one before ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// Until the object was claimed and the customers' accounts were entered.
    pub(super) entering: Duration,
    /// Until S3 answered.
    pub(super) opening: Duration,
    /// Until the last record was given to the deliveries. They put batches meanwhile.
    pub(super) reading: Duration,
}

/// Logs that a delivery accounted for every record of an object.
pub(super) fn delivered<S: LogSink, L: Ledger>(
    admitted: &Admitted<'_>,
    delivery: &Delivery,
    lane: &Lane<S, L>,
    spent: Spent,
) {
    let &Admitted { object, message, began, .. } = admitted;
    let tally = lane.tally();
    let BatchTally { accepted, too_old, too_new, expired, refused } = tally.put;
    let what = match delivery.mode {
        Mode::Live => "an object was delivered",
        Mode::Shadow => "an object was counted; nothing was put, because its delivery is in shadow mode",
    };
    tracing::info!(
        message.id = message.map(|message| message.id.as_str()),
        message.attempts = message.map(|message| message.attempts),
        object.bucket,
        object.key,
        object.size,
        tenant.id = delivery.tenant_id,
        delivery.name,
        records.read = tally.read,
        records.accepted = accepted,
        records.resumed = tally.resumed,
        records.empty = tally.empty,
        records.skipped = tally.skipped,
        records.quarantined = tally.quarantined,
        records.too_old = too_old,
        records.too_new = too_new,
        records.expired = expired,
        records.refused = refused,
        records.undated = tally.undated,
        records.mended = tally.mended,
        records.oversize = tally.oversize,
        batches = tally.batches,
        batches.bytes = tally.bytes,
        time.queue_ms = message.map(|message| milliseconds(message.kept_when_received)),
        time.enter_ms = milliseconds(spent.entering),
        time.open_ms = milliseconds(spent.opening),
        time.read_ms = milliseconds(spent.reading),
        time.put_ms = milliseconds(lane.putting()),
        time.total_ms = milliseconds(began.elapsed()),
        "{what}"
    );
}

/// Logs that an object's records were written into a customer's lake, or counted.
pub(super) fn laked<A: LakeAccount, L: Ledger>(
    admitted: &Admitted<'_>,
    delivery: &Delivery,
    lane: &lake::LakeLane<A, L>,
    spent: Spent,
) {
    let &Admitted { object, message, began, .. } = admitted;
    let tally = lane.tally();
    let what = match delivery.mode {
        Mode::Live => "an object was written into a lake",
        Mode::Shadow => "an object was counted; nothing was written, because its delivery is in shadow mode",
    };
    tracing::info!(
        message.id = message.map(|message| message.id.as_str()),
        message.attempts = message.map(|message| message.attempts),
        object.bucket,
        object.key,
        object.size,
        tenant.id = delivery.tenant_id,
        delivery.name,
        records.read = tally.read,
        records.written = tally.written,
        records.skipped = tally.skipped,
        records.quarantined = tally.quarantined,
        records.undated = tally.undated,
        records.mended = tally.mended,
        files = tally.files,
        files.bytes = tally.bytes,
        time.queue_ms = message.map(|message| milliseconds(message.kept_when_received)),
        time.enter_ms = milliseconds(spent.entering),
        time.open_ms = milliseconds(spent.opening),
        time.read_ms = milliseconds(spent.reading),
        time.put_ms = milliseconds(lane.putting()),
        time.total_ms = milliseconds(began.elapsed()),
        "{what}"
    );
}

/// Logs that no record has members that the row's `fields` names. Does so for a few objects of each row and minute.
pub(super) fn without_fields(
    admitted: &Admitted<'_>,
    delivery: &Delivery,
    unseen: &[Unseen<'_>],
    sampler: &LineSampler,
) {
    let subject = format!("{}\n{}", delivery.tenant_id, delivery.name);
    let Some(left_out) = sampler.admit(&subject) else { return };
    let object = admitted.object;
    let missing: Vec<_> = unseen.iter().map(|unseen| unseen.name).collect();
    let similar: Vec<_> = unseen.iter().filter_map(|unseen| unseen.similar).collect();
    tracing::warn!(
        message.id = admitted.message.map(|message| message.id.as_str()),
        object.bucket,
        object.key,
        tenant.id = delivery.tenant_id,
        delivery.name,
        fields.missing = missing.join(","),
        fields.similar = (!similar.is_empty()).then(|| similar.join(",")),
        left_out.objects = left_out,
        "the fields of a lake's row name members that no record has had yet, so the lake's lines lack them; mend the names in the \
         row, in the records' upper and lower case, and replay the objects"
    );
}

/// Logs that a message, or a part of it, failed.
pub(super) fn failed(message: &Message, failed: &Failed, verdict: &Verdict) {
    let object = failed.object.as_ref();
    let (age_ms, retry_in_ms) = (milliseconds(message.age()), verdict.retry_after().map(milliseconds));
    macro_rules! tell {
        ($level:ident, $what:literal) => {
            tracing::$level!(
                message.id, message.attempts, message.age_ms = age_ms,
                object.bucket = object.map(|object| object.bucket.as_str()),
                object.key = object.map(|object| object.key.as_str()),
                tenant.id = failed.tenant_id, delivery.name = failed.delivery,
                reason = failed.failure.reason(), error = %failed, verdict = verdict.word(), retry_in_ms,
                $what
            )
        };
    }
    match failed.failure.notice() {
        Notice::Expected if matches!(verdict, Verdict::Overdue(_)) => {
            tell!(warn, "a message was retried for longer than queue.max_age")
        }
        Notice::Expected => tell!(debug, "a message is retried later"),
        Notice::Unexpected => tell!(warn, "a message could not be handled"),
        Notice::Defect => tell!(error, "a message could not be handled"),
    }
}

/// Logs that an object was copied into a customer's bucket, or counted.
pub(super) fn copied(admitted: &Admitted<'_>, delivery: &Delivery, copying: Duration) {
    let &Admitted { object, message, began, .. } = admitted;
    let what = match delivery.mode {
        Mode::Live => "an object was copied",
        Mode::Shadow => "an object was counted, and not copied, because its delivery is in shadow mode",
    };
    tracing::info!(
        message.id = message.map(|message| message.id.as_str()),
        message.attempts = message.map(|message| message.attempts),
        object.bucket,
        object.key,
        object.size,
        tenant.id = delivery.tenant_id,
        delivery.name,
        time.queue_ms = message.map(|message| milliseconds(message.kept_when_received)),
        time.copy_ms = milliseconds(copying),
        time.total_ms = milliseconds(began.elapsed()),
        "{what}"
    );
}

/// Logs how many events of an object CloudWatch Logs did not store, with the first of them as a sample. Does so for a few
/// objects of each tenant and minute.
pub(super) fn rejected<S: LogSink, L: Ledger>(
    admitted: &Admitted<'_>,
    delivery: &Delivery,
    lane: &Lane<S, L>,
    sampler: &LineSampler,
) {
    let BatchTally { accepted: _, too_old, too_new, expired, refused } = lane.tally().put;
    let Some(sample) = lane.rejected() else { return };
    let Some(left_out) = sampler.admit(&delivery.tenant_id) else { return };
    let (object, stream) = (admitted.object, lane.stream());
    tracing::warn!(
        message.id = admitted.message.map(|message| message.id.as_str()),
        object.bucket,
        object.key,
        tenant.id = delivery.tenant_id,
        delivery.name,
        aws.account = stream.account,
        log.group = stream.log_group_name,
        log.stream = stream.log_stream_name,
        records.too_old = too_old,
        records.too_new = too_new,
        records.expired = expired,
        records.refused = refused,
        sample.reason = QuarantineReason::Rejected(sample.reason).word(),
        sample.record = sample.record,
        sample.timestamp = Timestamp::from_millisecond(sample.timestamp).ok().map(tracing::field::display),
        error = sample.error,
        left_out.objects = left_out,
        "CloudWatch Logs did not store events of an object; they are not retried"
    );
}
