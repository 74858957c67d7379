//! Answers of `/healthz` and `/readyz`.

use jiff::Timestamp;
use serde::Serialize;

use super::Explanation;

/// Answer of `/healthz` or `/readyz`.
#[derive(Clone, Debug, Serialize)]
pub struct HealthReport {
    /// The answer in a word.
    pub status: HealthStatus,
    /// What is wrong with the receive loop; `None` unless it stands still.
    #[serde(flatten)]
    pub stalled: Option<Explanation>,
    /// Every condition, in the order of [`ReadinessCondition::ALL`](super::ReadinessCondition::ALL).
    pub conditions: Vec<ConditionReport>,
}

/// The answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Nothing is wrong.
    Ok,
    /// A needed check has not succeeded yet.
    Starting,
    /// A condition is degraded.
    Unready,
    /// The worker receives nothing more.
    Draining,
    /// The receive loop stands still.
    Stalled,
}

/// What is known of one condition.
#[derive(Clone, Debug, Serialize)]
pub struct ConditionReport {
    /// Its name: [`ReadinessCondition::word`](super::ReadinessCondition::word).
    pub condition: &'static str,
    /// Its state.
    pub status: ConditionStatus,
    /// Start of this state. A degraded state starts with the first failure of the row.
    pub since: Timestamp,
    /// The bucket or Region that is degraded, if the check has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// What is wrong, and what mends it.
    #[serde(flatten)]
    pub explanation: Option<Explanation>,
}

/// State of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConditionStatus {
    /// A call has succeeded, and no check is degraded.
    Ok,
    /// Three failures of a check counted in a row, and no call of that check has succeeded since.
    Degraded,
    /// No answer tells yet, or no longer, whether calls succeed.
    Unknown,
    /// The configuration does not have this part.
    Off,
}
