//! What became of the objects of a run, as the document that `logferry manual` prints.

use serde::Serialize;

use super::{Item, Origin};
use crate::{
    delivery::Tally,
    event::{Event, Ignored},
    pipeline::{MessageReport, Skipped},
    route::Rules,
    status::Advice,
    verdict::Failed,
};

/// The outcome of a run.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Whether nothing was put, because the run only showed what would be put.
    pub dry_run: bool,
    /// Number of objects with failures.
    pub failed: usize,
    /// Every object, in the order in which the operator named them.
    pub objects: Vec<ObjectOutcome>,
    /// Reasons of the event's parts that name no created object.
    pub ignored: Vec<&'static str>,
}

/// The outcome of one object.
#[derive(Debug, Serialize)]
pub struct ObjectOutcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    bucket: Option<String>,
    /// Path of a local file.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// By the key; `None` if the key does not match its layout.
    tenant: Option<String>,
    /// The state.
    pub state: State,
    /// Deliveries that succeeded.
    deliveries: Vec<DeliveryOutcome>,
    /// Why nothing, or a part, was delivered although nothing failed.
    skipped: Vec<&'static str>,
    failures: Vec<FailureOutcome>,
}

/// State of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Every delivery that wants it has it.
    Delivered,
    /// Every delivery had it before, as the ledger says.
    AlreadyDelivered,
    /// No delivery wants it.
    Skipped,
    /// A delivery failed.
    Failed,
}

#[derive(Debug, Serialize)]
struct DeliveryOutcome {
    delivery: String,
    /// `live`, or `shadow` if the object was only counted.
    mode: &'static str,
    records: Records,
    batches: u64,
    bytes: u64,
}

/// Number of records, by outcome. `read` is the sum of the others.
#[derive(Debug, Serialize)]
struct Records {
    read: u64,
    accepted: u64,
    resumed: u64,
    empty: u64,
    quarantined: u64,
    too_old: u64,
    too_new: u64,
    expired: u64,
    refused: u64,
}

/// A failure, with what an operator can do.
#[derive(Debug, Serialize)]
pub struct FailureOutcome {
    /// `type` of the delivery's row, if the failure is that of one delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<String>,
    /// Name of the reason.
    pub reason: &'static str,
    /// Error text.
    pub error: String,
    /// What an operator can do.
    pub remedy: &'static str,
    /// Whether the same command may succeed later without a change.
    pub retry: bool,
}

impl Outcome {
    /// Starts with the event's parts that name no created object.
    pub fn of(event: &Event) -> Self {
        let ignored = event.ignored.iter().map(|ignored| match ignored {
            Ignored::TestEvent => Skipped::TestEvent.reason(),
            Ignored::NotObjectCreated(_) => Skipped::NotObjectCreated.reason(),
        });
        Self { ignored: ignored.collect(), ..Self::default() }
    }

    /// Adds an object.
    pub fn add(&mut self, item: &Item, report: MessageReport, key_rules: &Rules) {
        let object = ObjectOutcome::new(item, report, key_rules);
        self.failed += usize::from(object.state == State::Failed);
        self.objects.push(object);
    }
}

impl ObjectOutcome {
    fn new(item: &Item, report: MessageReport, key_rules: &Rules) -> Self {
        let state = State::of(&report);
        let MessageReport { skipped, delivered, failures, .. } = report;
        let file = match &item.origin {
            Origin::File(path) => Some(path.display().to_string()),
            Origin::Event | Origin::Url => None,
        };
        let deliveries = delivered.into_iter().map(|delivered| DeliveryOutcome {
            delivery: delivered.delivery,
            mode: delivered.mode.word(),
            records: Records::from(&delivered.tally),
            batches: delivered.tally.batches,
            bytes: delivered.tally.bytes,
        });
        Self {
            bucket: file.is_none().then(|| item.object.bucket.clone()),
            file,
            key: item.object.key.clone(),
            version: item.object.version_id.clone(),
            tenant: key_rules.route(&item.object.key).ok().map(|route| route.tenant),
            state,
            deliveries: deliveries.collect(),
            skipped: skipped.into_iter().map(Skipped::reason).collect(),
            failures: failures.iter().map(FailureOutcome::from).collect(),
        }
    }
}

impl State {
    /// The state of a report's only object.
    pub fn of(report: &MessageReport) -> Self {
        if !report.failures.is_empty() {
            Self::Failed
        } else if !report.delivered.is_empty() {
            Self::Delivered
        } else if report.skipped.contains(&Skipped::AlreadyDelivered) {
            Self::AlreadyDelivered
        } else {
            Self::Skipped
        }
    }
}

impl From<&Tally> for Records {
    fn from(tally: &Tally) -> Self {
        let Tally { read, put, empty, quarantined, resumed, .. } = *tally;
        let crate::batch::BatchTally { accepted, too_old, too_new, expired, refused } = put;
        Self { read, accepted, resumed, empty, quarantined, too_old, too_new, expired, refused }
    }
}

impl From<&Failed> for FailureOutcome {
    fn from(failed: &Failed) -> Self {
        let reason = failed.failure.reason();
        Self {
            delivery: failed.delivery.clone(),
            reason,
            error: failed.to_string(),
            remedy: Advice::on(reason).remedy,
            retry: failed.failure.comes_again(),
        }
    }
}
