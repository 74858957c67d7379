//! Checks for real, in the order in which the worker meets them, the conditions that delivery needs.
//!
//! Never guesses: a condition holds, fails with a fix, or was not checked for a reason that is said. It takes no message and
//! stores no event. It does make what the worker would make at the first delivery: the log group if it is missing, and one
//! stream, which stays empty.

mod bucket;
mod cloudwatch;
mod role;
mod tenant;
mod wiring;

use crate::{
    app::commands::Instruments,
    config::{Config, Delivery, Queue},
    credentials::{
        AssumeError,
        identity::{Identity, IdentityError},
        refusal::Cause,
    },
    name::bucket::OwnBucket,
    tenant::OwnBuckets,
};

/// One thing that delivery needs, and whether it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whose; `None` if it is everybody's.
    pub tenant_id: Option<String>,
    /// The delivery, by its row's `type`.
    pub delivery: Option<String>,
    /// What.
    pub name: &'static str,
    /// Whether.
    pub finding: Finding,
}

/// What became of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It holds; what was found.
    Ok(String),
    /// It does not.
    Failed {
        /// What was found instead.
        problem: String,
        /// What mends it.
        fix: String,
    },
    /// It was not checked; why.
    Skipped(String),
}

impl Finding {
    fn failed(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Failed { problem: problem.into(), fix: fix.into() }
    }

    /// It does not hold.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// Which tenants are checked, and what of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patient {
    /// None: the provider's side alone.
    Nobody,
    /// This one, and of the provider's side only the way to it.
    One {
        /// Key of the tenant table.
        tenant_id: String,
        /// This delivery alone, by its row's `type`.
        delivery: Option<String>,
    },
    /// Everyone who has an enabled delivery, and the provider's side.
    Everyone,
}

/// What to check, and with what.
#[derive(Debug)]
pub struct Doctor {
    instruments: Instruments,
    queue: Queue,
    delivery: Delivery,
    table: String,
    ledger_table: String,
    central_role_arn: String,
    /// `source.buckets`.
    source: Vec<OwnBucket>,
    /// `quarantine.bucket`.
    quarantine: Option<OwnBucket>,
    own_buckets: OwnBuckets,
    /// Sent as a session tag where the tenant has those.
    cluster: String,
}

/// Of each condition, by its name, what was found.
type Findings = Vec<(&'static str, Finding)>;

/// What the checks before found, for those that depend on it.
#[derive(Clone, Debug)]
struct OurSide {
    identity: Option<Identity>,
    /// Nobody gets through hop 1.
    no_central: bool,
    /// No row can be read.
    no_table: bool,
}

impl Doctor {
    /// Checks what `config` describes; `cluster` is the one whose session tag is sent, none if empty.
    pub fn new(instruments: Instruments, config: &Config, cluster: String) -> Self {
        Self {
            instruments,
            queue: config.queue.clone(),
            delivery: config.delivery.clone(),
            ledger_table: config.ledger.table.clone().unwrap_or_default(),
            table: config.tenants.table.clone().unwrap_or_default(),
            central_role_arn: config.credentials.central_role_arn.clone().unwrap_or_default(),
            source: config.source.buckets.iter().filter_map(|bucket| bucket.parse().ok()).collect(),
            quarantine: config.quarantine.bucket.as_ref().and_then(|bucket| bucket.parse().ok()),
            own_buckets: config.own_buckets(),
            cluster,
        }
    }

    /// Checks everything that concerns the patient.
    ///
    /// # Cancel safety
    /// Safe: nothing is held.
    pub async fn examine(self, patient: &Patient) -> Vec<Condition> {
        let mut conditions = Vec::new();
        if !matches!(patient, Patient::One { .. }) {
            conditions.extend(self.queues().await);
        }
        let (ours, our_side) = self.our_side().await;
        conditions.extend(ours);
        if !matches!(patient, Patient::One { .. }) {
            conditions.push(self.ledger(&our_side).await);
            conditions.extend(self.buckets(&our_side).await);
        }
        match patient {
            Patient::Nobody => {}
            Patient::One { tenant_id, delivery } => {
                conditions.extend(self.tenant(tenant_id, delivery.as_deref(), &our_side).await);
            }
            Patient::Everyone => conditions.extend(self.everyone(our_side).await),
        }
        conditions
    }

    /// The words of a hop that failed, and its fix. `request` is what the customer's hop asks for.
    fn refusal(&self, error: &AssumeError, remedy: impl FnOnce(Option<Cause>, &str) -> String) -> Finding {
        match error {
            AssumeError::Held { refusal, .. } => self.refusal(refusal, remedy),
            AssumeError::Denied { role, code, message, .. }
            | AssumeError::Ours(IdentityError::CentralRole { role, code, message }) => Finding::failed(
                format!("{role}: {code}: {message}"),
                remedy(Cause::of(code, message), message),
            ),
            AssumeError::Ours(error) => Finding::failed(error.to_string(), error.remedy()),
            AssumeError::Unavailable { role, problem } => Finding::failed(
                format!("{role}: {problem}"),
                format!(
                    "STS did not answer within {} attempts: see whether its endpoint can be reached from here, and try again",
                    self.delivery.attempts
                ),
            ),
        }
    }
}
