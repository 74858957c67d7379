//! Checks the conditions that delivery needs, with the worker's own calls and in the worker's order.
//!
//! Each condition holds, fails with a fix, or was not checked for a stated reason. The doctor receives no message and stores
//! no event. It creates what the worker would create at its first delivery: the log group, if it is missing, and one stream,
//! which stays empty.

mod bucket;
mod cloudwatch;
pub mod metrics;
mod role;
mod tenant;
mod wiring;

use crate::{
    app::commands::Instruments,
    config::Config,
    credentials::{
        AssumeError,
        identity::{Identity, IdentityError},
        refusal::RefusalCause,
    },
    name::bucket::OwnBucket,
    tenant::OwnBuckets,
};

/// A condition of delivery, and the result of its check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The tenant; `None` for a condition of the provider's side.
    pub tenant_id: Option<String>,
    /// The delivery, by its row's `type`.
    pub delivery: Option<String>,
    /// The condition's name.
    pub name: &'static str,
    /// The result.
    pub finding: Finding,
}

/// Result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The condition holds; with what was found.
    Ok(String),
    /// The condition fails.
    Failed {
        /// What was found instead.
        problem: String,
        /// How to fix it.
        fix: String,
    },
    /// The condition holds, but something should be better.
    Warning {
        /// What was found.
        problem: String,
        /// How to improve it.
        fix: String,
    },
    /// The condition was not checked; with the reason.
    Skipped(String),
}

impl Finding {
    fn failed(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Failed { problem: problem.into(), fix: fix.into() }
    }

    fn warning(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Warning { problem: problem.into(), fix: fix.into() }
    }

    fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }

    /// Whether the condition fails.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// The tenants to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Patient {
    /// No tenant: only the provider's side.
    Nobody,
    /// One tenant, and the part of the provider's side that its delivery needs.
    One {
        /// Key of the tenant table.
        tenant_id: String,
        /// Only this delivery, by its row's `type`.
        delivery: Option<String>,
    },
    /// Every tenant with an enabled delivery, and the provider's side.
    Everyone,
}

/// The checks, with the clients and settings that they need.
#[derive(Debug)]
pub struct Doctor {
    instruments: Instruments,
    config: Config,
    table: String,
    ledger_table: String,
    central_role_arn: String,
    /// `source.buckets`.
    source: Vec<OwnBucket>,
    /// `quarantine.bucket`.
    quarantine: Option<OwnBucket>,
    own_buckets: OwnBuckets,
    /// Sent as a session tag, if the tenant's row has session tags.
    cluster: String,
}

/// Names of conditions, with their results.
type Findings = Vec<(&'static str, Finding)>;

const NO_CREDENTIALS: &str = "there are no credentials to call AWS with";

/// Conditions that were not checked for one reason.
fn skipped(names: &[&'static str], why: &str) -> Findings {
    names.iter().map(|name| (*name, Finding::skipped(why))).collect()
}

/// Results of the checks of the provider's side, for the checks that depend on them.
#[derive(Clone, Debug)]
struct OurSide {
    identity: Option<Identity>,
    /// Whether the central role cannot be assumed.
    no_central: bool,
    /// Whether the tenant table cannot be read.
    no_table: bool,
}

impl Doctor {
    /// Checks what `config` describes. `cluster` is sent as a session tag, unless it is empty.
    pub fn new(instruments: Instruments, config: &Config, cluster: String) -> Self {
        Self {
            instruments,
            config: config.clone(),
            ledger_table: config.ledger.table.clone().unwrap_or_default(),
            table: config.tenants.table.clone().unwrap_or_default(),
            central_role_arn: config.credentials.central_role_arn.clone().unwrap_or_default(),
            source: config.source.buckets.iter().filter_map(|bucket| bucket.parse().ok()).collect(),
            quarantine: config.quarantine.bucket.as_ref().and_then(|bucket| bucket.parse().ok()),
            own_buckets: config.own_buckets(),
            cluster,
        }
    }

    /// Checks all conditions that concern the patient.
    ///
    /// # Cancel safety
    /// Safe: nothing is held.
    pub async fn examine(self, patient: &Patient) -> Vec<Condition> {
        let whole = !matches!(patient, Patient::One { .. });
        let queues = async { if whole { self.queues().await } else { (Vec::new(), None) } };
        // At once, so that the waits for endpoints that do not answer do not add up.
        let ((mut findings, queue), (ours, our_side)) = tokio::join!(queues, self.our_side());
        findings.extend(ours);
        if whole {
            findings.push(("clock", self.clock(&our_side).await));
            findings.extend(self.tables(&our_side).await);
            findings.extend(self.buckets(&our_side, queue.as_ref()).await);
        }
        let ours = |(name, finding)| Condition { tenant_id: None, delivery: None, name, finding };
        let mut conditions: Vec<_> = findings.into_iter().map(ours).collect();
        match patient {
            Patient::Nobody => {}
            Patient::One { tenant_id, delivery } => {
                conditions.extend(self.tenant(tenant_id, delivery.as_deref(), &our_side).await);
            }
            Patient::Everyone => conditions.extend(self.everyone(&our_side).await),
        }
        conditions
    }

    /// The result for a role that cannot be entered. `remedy` gives the fix for STS's error.
    fn refusal(
        &self,
        error: &AssumeError,
        remedy: impl FnOnce(Option<RefusalCause>, &str) -> String,
    ) -> Finding {
        match error {
            AssumeError::Held { refusal, .. } => self.refusal(refusal, remedy),
            AssumeError::Denied { role, code, message, .. }
            | AssumeError::Ours(IdentityError::CentralRole { role, code, message }) => Finding::failed(
                format!("{role}: {code}: {message}"),
                remedy(RefusalCause::of(code, message), message),
            ),
            AssumeError::Ours(error) => Finding::failed(error.to_string(), error.remedy()),
            AssumeError::Unavailable { role, problem } => Finding::failed(
                format!("{role}: {problem}"),
                "STS did not answer: check that its endpoint can be reached from here, and try again",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Finding;

    /// Checks that a finding is good, or failed with a fix, and has these words.
    #[track_caller]
    pub(super) fn check(finding: &Finding, expected: Result<&str, &str>) {
        match (finding, expected) {
            (Finding::Ok(found), Ok(words)) => assert!(found.contains(words), "{finding:?}"),
            (Finding::Failed { problem, fix }, Err(words)) => {
                assert!(problem.contains(words) && !fix.is_empty(), "{finding:?}");
            }
            _ => panic!("{finding:?} instead of {expected:?}"),
        }
    }

    /// Checks that a condition was not checked, for a reason with these words.
    #[track_caller]
    pub(super) fn skips(finding: &Finding, words: &str) {
        assert!(matches!(finding, Finding::Skipped(why) if why.contains(words)), "{finding:?}");
    }
}
