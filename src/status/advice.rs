//! What each reason of a failure says about its tenant, and what an operator does about it. The sentences are fixed: they
//! hold no names and no request ids. The failure's own text, on the page and in the log, holds those.

use super::TenantState;

/// A reason with its meaning for the tenant.
#[derive(Debug, PartialEq, Eq)]
pub struct Advice {
    /// The reason, as `verdict::Failure::reason` names it.
    pub reason: &'static str,
    /// State of a tenant whose objects fail for this reason.
    pub state: TenantState,
    /// What mends it.
    pub remedy: &'static str,
}

/// Reason for an object of which CloudWatch Logs stored no event. The message is finished, and there is no dead letter.
pub const REJECTED: &str = "rejected";

/// Advice for a reason that the table does not have.
static UNKNOWN: Advice = refused("unknown", "Read the failure's text below and in the log.");

/// One row for each reason, in the order of docs/dead-letters.md, and one for [`REJECTED`].
static ADVICE: &[Advice] = &[
    // Dead letters at once.
    refused(
        "bad_event",
        "The message is no notification of S3, or its form is unknown: look at the dead letter, and correct the topic, the \
         rule or the sender.",
    ),
    refused(
        "bad_key",
        "Correct the key_prefix of the shipper, source.key_layout or source.rules, then move the dead letters back with `logferry redrive \
         move --reason bad_key`.",
    ),
    refused(
        "foreign_bucket",
        "Add the bucket to source.buckets if it is yours; otherwise remove its notification from the queue.",
    ),
    refused(
        "unknown_tenant",
        "Write the tenant's row with `logferry tenant put`, then move the dead letters back with `logferry redrive move \
         --reason unknown_tenant`.",
    ),
    paused(
        "tenant_paused",
        "Run `logferry tenant resume` for the tenant when it may receive logs again, then `logferry redrive move --reason \
         tenant_paused`.",
    ),
    refused(
        "bad_tenant_row",
        "Correct the fields that the failure names with `logferry tenant put`, then move the dead letters back with `logferry \
         redrive move --reason bad_tenant_row`.",
    ),
    refused(
        "object_missing",
        "The object was deleted before it was read: check the bucket's lifecycle rules, and whether the queue is far behind.",
    ),
    refused(
        "object_too_large",
        "Let the shipper write smaller objects, or raise source.max_object or source.max_stored, then move the dead letter back.",
    ),
    refused(
        "corrupt_object",
        "The object itself is broken; the records before the break are delivered. Let the shipper send it again, or set \
         quarantine.bucket to step over broken lines.",
    ),
    refused(
        "window_too_large",
        "Let the shipper compress with smaller zstd windows, or raise source.zstd_windows, then move the dead letter back.",
    ),
    refused(
        "unsupported_format",
        "The object is no log that the worker can read; the failure names its content. Keep such objects out of the bucket, or out \
         of its notification. If it is text or JSON, choose its format by a rule in source.rules.",
    ),
    refused(
        "record_too_long",
        "Set quarantine.bucket, which keeps the record's position, or raise source.max_record, then move the dead letter back.",
    ),
    refused(
        "event_refused",
        "Set quarantine.bucket, which keeps the record, then move the dead letter back.",
    ),
    refused(
        "key_too_long",
        "Shorten bucket_prefix, bucket_key or layout in the tenant's row, then move the dead letter back.",
    ),
    refused(
        "copy_collision",
        "The customer's bucket has a copy of another object under this key: use more parts of the object's key in bucket_key \
         in the tenant's row, for example {cluster}, then move the dead letter back.",
    ),
    refused(
        "unaccounted",
        "This is a defect of logferry: please report it with the log, and keep the dead letter.",
    ),
    // Dead letters after `queue.max_refusals` refusals.
    refused(
        "object_refused",
        "S3 refuses to read the object: check the bucket's Region and the worker's settings for S3, then move the dead letter back.",
    ),
    refused(
        "lake_encoding",
        "This is a defect of logferry: please report it with the log, and keep the dead letter.",
    ),
    refused("object_archived", "Restore the object from its archive, then move the dead letter back."),
    refused(
        "source_bucket_missing",
        "Create the bucket, correct source.buckets or aws.region, or remove the messages of a bucket that is gone.",
    ),
    refused(
        "batch_refused",
        "CloudWatch Logs refuses the request as a whole: compare the log group's settings with the failure's text, then move the \
         dead letter back.",
    ),
    refused(
        "copy_refused",
        "S3 refuses the copy: compare the settings of the customer's bucket with the failure's text, then move the dead letter back.",
    ),
    refused(
        "bucket_elsewhere",
        "Set target_region in the tenant's row to the Region of the customer's bucket.",
    ),
    // Retried until `queue.max_age`.
    refused(
        "role_denied",
        "Run `logferry doctor --tenant` for the tenant: the customer's role must exist and trust the central role with the row's \
         external_id. Delivery resumes by itself.",
    ),
    waiting("role_unavailable", "STS does not answer: wait, and check AWS's health and the way to STS."),
    refused(
        "group_denied",
        "The policy of the customer's role must allow logs:PutLogEvents and logs:CreateLogStream on the log group, or the customer \
         creates the group. Delivery resumes by itself.",
    ),
    waiting(
        "group_missing",
        "CloudWatch Logs does not find the new log group yet: wait; if it lasts, check who deletes the group.",
    ),
    refused(
        "group_quota",
        "The customer's account has as many log groups as its quota allows: the customer raises the quota or creates the group.",
    ),
    refused(
        "bucket_denied",
        "The policy of the customer's bucket or its KMS key must allow the copy; docs/copies.md lists both. Copies resume by \
         themselves.",
    ),
    refused(
        "bucket_missing",
        "The customer creates the bucket, or you correct bucket_name in the tenant's row.",
    ),
    waiting(
        "bucket_unavailable",
        "S3 does not answer for the customer's bucket: wait, and check AWS's health.",
    ),
    waiting(
        "throttled",
        "The customer's account is at its quota: wait; if it lasts, the customer raises the quota, or you lower delivery.put_rate.",
    ),
    waiting(
        "logs_unavailable",
        "CloudWatch Logs does not answer: wait, and check AWS's health and the way to the Region.",
    ),
    waiting(
        "identity",
        "AWS refuses the worker itself: check its credentials, its clock and its right to the central role; /readyz says which.",
    ),
    waiting(
        "object_denied",
        "The worker's role may not read the object: allow s3:GetObject and the bucket's KMS key.",
    ),
    waiting("object_unavailable", "S3 does not answer for the staging bucket: wait, and check AWS's health."),
    waiting(
        "checksum_mismatch",
        "The object's bytes were altered on their way: wait for the retry; if it lasts, check proxies between the worker and S3.",
    ),
    waiting(
        "tenant_lookup",
        "The tenants' table does not answer: check dynamodb:Query on it, its capacity and AWS's health.",
    ),
    waiting(
        "ledger_unavailable",
        "The ledger does not answer: check dynamodb:UpdateItem on it, its capacity and AWS's health.",
    ),
    refused(
        "ledger_unreadable",
        "Look at the object's entry with `logferry ledger show`, and delete it with `logferry ledger forget` if the object may be \
         delivered again.",
    ),
    waiting(
        "quarantine",
        "The quarantine cannot be written: check quarantine.bucket and s3:PutObject on it.",
    ),
    waiting("object_busy", "Nothing to do: another worker delivers the object, or its lease ends soon."),
    waiting(
        "lease_lost",
        "Nothing to do: another worker has taken the object over. If it happens often, raise ledger.lease.",
    ),
    waiting(
        "lease_ended",
        "Nothing to do: the object is taken up again. If it happens often, raise ledger.lease.",
    ),
    waiting(
        "sequence",
        "Nothing to do: another program writes the same log stream, and the batch is put again. If it lasts, find that program.",
    ),
    waiting(
        "panic",
        "This is a defect of logferry: please report it with the log. The message is tried again.",
    ),
    // These wait whatever the message's age.
    waiting(
        "over_share",
        "Nothing to do: the tenant has more objects than its share of the slots. If it lasts, add workers or raise \
         fairness.max_objects.",
    ),
    waiting(
        "window_memory",
        "Nothing to do: the object waits for memory. If it happens often, raise source.zstd_windows.",
    ),
    waiting(
        "lake_memory",
        "Nothing to do: the object waits for memory for long lake files. If it happens often, add workers.",
    ),
    waiting("stopping", "Nothing to do: the worker stops, and another one takes the message."),
    // Not a failure of a message: nothing is retried.
    refused(
        REJECTED,
        "Check the clock and the timestamps of the shipper: CloudWatch Logs rejects events older than 14 days (too old) or than \
         the group's retention (expired), or more than 2 h ahead (too new).",
    ),
];

const fn refused(reason: &'static str, remedy: &'static str) -> Advice {
    Advice { reason, state: TenantState::Refused, remedy }
}

const fn paused(reason: &'static str, remedy: &'static str) -> Advice {
    Advice { reason, state: TenantState::Paused, remedy }
}

const fn waiting(reason: &'static str, remedy: &'static str) -> Advice {
    Advice { reason, state: TenantState::Waiting, remedy }
}

impl Advice {
    /// The advice for a reason.
    pub fn on(reason: &str) -> &'static Self {
        ADVICE.iter().find(|advice| advice.reason == reason).unwrap_or(&UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The literals of `Failure::reason`, which is an exhaustive match.
    fn reasons() -> BTreeSet<&'static str> {
        let code = include_str!("../verdict.rs");
        let (_, body) =
            code.split_once("pub fn reason(&self) -> &'static str {").expect("the function is there");
        let (body, _) = body.split_once("\n    }\n").expect("the function ends");
        body.split('"').skip(1).step_by(2).collect()
    }

    #[test]
    fn every_reason_has_one_remedy_and_no_other_has_one() {
        let mut reasons = reasons();
        assert!(reasons.len() > 40 && reasons.contains("role_denied"), "{reasons:?}");
        assert!(reasons.insert(REJECTED), "no message fails for it");
        let advised: BTreeSet<_> = ADVICE.iter().map(|advice| advice.reason).collect();
        assert_eq!(advised, reasons);
        assert_eq!(ADVICE.len(), advised.len(), "no reason comes twice");
        let pages =
            [include_str!("../../docs/dead-letters.md"), include_str!("../../docs/status-page.md")].concat();
        for Advice { reason, remedy, .. } in ADVICE {
            assert_eq!(Advice::on(reason).reason, *reason);
            assert!(pages.contains(&format!("`{reason}`")), "neither page names {reason}");
            assert!(remedy.ends_with('.') && remedy.len() < 220, "{reason}: {remedy}");
        }
        assert_eq!(Advice::on("x"), &UNKNOWN);
    }
}
