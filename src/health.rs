//! Liveness and readiness, as named conditions. `app` reports the outcome of calls and probes; `/healthz`, `/readyz` and
//! `logferry_condition_degraded` show what follows from them.
//!
//! Each condition has one or more checks: kinds of calls whose failures are counted in a row. Three failures in a row, a second
//! or more apart, degrade the condition, and only a success of the same check mends it. A failure that one tenant can cause is
//! not reported here, or it counts only together with failures of other tenants: see [`CheckCall::by`].

mod course;
mod report;
mod sentences;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};

use self::course::{Course, Standing};
pub use self::{
    report::{ConditionReport, ConditionStatus, HealthReport, HealthStatus},
    sentences::Explanation,
};
use crate::breaker;

/// A condition of readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReadinessCondition {
    /// Messages can be received.
    Receive,
    /// The tenant table can be read.
    Lookup,
    /// AWS knows the worker, and the worker can assume the central role.
    Assume,
    /// The staging buckets can be read.
    Get,
    /// CloudWatch Logs can be reached.
    Put,
    /// Finished messages can be deleted, and dead letters sent.
    Settle,
    /// The ledger can be used.
    Ledger,
    /// The quarantine can be written.
    Quarantine,
    /// The worker does not drain. Degraded once it does.
    Draining,
}

impl ReadinessCondition {
    /// All conditions, in the order of a message's way.
    pub const ALL: [Self; 9] = [
        Self::Receive,
        Self::Lookup,
        Self::Assume,
        Self::Get,
        Self::Put,
        Self::Settle,
        Self::Ledger,
        Self::Quarantine,
        Self::Draining,
    ];

    /// Name of the condition in answers, metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Lookup => "lookup",
            Self::Assume => "assume",
            Self::Get => "get",
            Self::Put => "put",
            Self::Settle => "settle",
            Self::Ledger => "ledger",
            Self::Quarantine => "quarantine",
            Self::Draining => "draining",
        }
    }
}

/// A kind of call, or of probe. Failures in a row are counted for each check, and within a check for each resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// ReceiveMessage.
    Receive,
    /// A read of the tenant table.
    Lookup,
    /// GetCallerIdentity with the worker's own credentials.
    Identity,
    /// A session in the central role.
    CentralRole,
    /// HeadBucket of a staging bucket.
    SourceBucket,
    /// A read of an object of a staging bucket.
    Read,
    /// PutLogEvents in a Region. A failure counts only if the Region is expected or has answered before: a tenant's row may name
    /// a Region that does not exist.
    Put,
    /// SendMessage to the dead-letter queue.
    DeadLetters,
    /// Whether IAM allows sends to the dead-letter queue. The probe stores no message, so its success does not show that a real
    /// message can be stored: the key of an encrypted queue may be disabled.
    DeadLettersAllowed,
    /// DeleteMessage.
    Delete,
    /// A call to the ledger.
    Ledger,
    /// HeadBucket of the quarantine bucket.
    QuarantineBucket,
    /// PutObject to the quarantine bucket.
    QuarantineFile,
}

impl Check {
    /// The check's call for this resource, such as a bucket or a Region.
    pub fn on(self, resource: &str) -> CheckCall<'_> {
        CheckCall { check: self, resource, party: None }
    }

    fn condition(self) -> ReadinessCondition {
        match self {
            Self::Receive => ReadinessCondition::Receive,
            Self::Lookup => ReadinessCondition::Lookup,
            Self::Identity | Self::CentralRole => ReadinessCondition::Assume,
            Self::SourceBucket | Self::Read => ReadinessCondition::Get,
            Self::Put => ReadinessCondition::Put,
            Self::DeadLetters | Self::DeadLettersAllowed | Self::Delete => ReadinessCondition::Settle,
            Self::Ledger => ReadinessCondition::Ledger,
            Self::QuarantineBucket | Self::QuarantineFile => ReadinessCondition::Quarantine,
        }
    }

    /// Whether only messages cause such calls. The other checks are repeated by probes, or by the receive loop.
    fn needs_messages(self) -> bool {
        matches!(self, Self::Read | Self::Put | Self::DeadLetters | Self::Delete | Self::QuarantineFile)
    }
}

/// A call of one check to one resource, perhaps for one party.
#[derive(Clone, Copy, Debug)]
pub struct CheckCall<'a> {
    check: Check,
    /// Empty if the check has only one resource.
    resource: &'a str,
    party: Option<&'a str>,
}

impl<'a> CheckCall<'a> {
    /// The call, made for this party, such as a customer's account. The condition then degrades only if three parties fail in a
    /// row. A Region in which fewer accounts were heard of degrades if all of them fail.
    pub fn by(self, party: &'a str) -> Self {
        Self { party: Some(party), ..self }
    }
}

impl From<Check> for CheckCall<'static> {
    fn from(check: Check) -> Self {
        check.on("")
    }
}

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckFailure {
    /// There was no answer, or an answer that fits no other cause.
    Unanswered,
    /// The resource does not exist.
    Missing,
    /// IAM denies the call.
    Denied,
    /// The resource is in another Region.
    Elsewhere,
    /// There are too many requests.
    Throttled,
    /// AWS refuses the worker's clock.
    Clock,
    /// AWS refuses the worker's own credentials.
    Credentials,
}

/// Health of the worker, for an orchestrator.
#[derive(Debug)]
pub struct Health {
    state: Mutex<State>,
    /// A receive loop that makes no turn for this long counts as hung.
    patience: Duration,
}

#[derive(Debug)]
struct State {
    started: Timestamp,
    last_move: Instant,
    draining: Option<Timestamp>,
    /// Conditions of parts that the configuration does not have.
    off: BTreeSet<ReadinessCondition>,
    courses: BTreeMap<Check, BTreeMap<String, Course>>,
}

impl Health {
    /// Creates the health of a worker that has started. `longest_receive` is the longest time of one receive, retries
    /// included: an outage of the queue must not cause a restart. The worker is not ready before each check in `needed` has
    /// succeeded.
    pub fn new(longest_receive: Duration, needed: &[Check]) -> Self {
        let started = now();
        let mut state = State {
            started,
            last_move: breaker::now(),
            draining: None,
            off: BTreeSet::new(),
            courses: BTreeMap::new(),
        };
        for check in needed {
            state.course(CheckCall::from(*check)).is_needed = true;
        }
        // The 60 s allow for the pause after a failed receive.
        Self { state: Mutex::new(state), patience: longest_receive + Duration::from_secs(60) }
    }

    /// Records that the receive loop began another turn.
    pub fn loop_moved(&self) {
        self.lock().last_move = breaker::now();
    }

    /// Records that no more messages are received.
    pub fn drain(&self) {
        self.lock().draining.get_or_insert_with(now);
    }

    /// Records that the configuration does not have the part of this condition.
    pub fn switch_off(&self, condition: ReadinessCondition) {
        self.lock().off.insert(condition);
    }

    /// Makes failures of this call count even before its first success.
    pub fn expect(&self, call: CheckCall<'_>) {
        self.lock().course(call);
    }

    /// Records a success. It mends what failures of the same check and resource degraded.
    pub fn succeeded<'a>(&self, call: impl Into<CheckCall<'a>>) {
        let call = call.into();
        let mended = self.lock().succeeded(call);
        tell(call.check, call.resource, mended, "is mended");
    }

    /// Records a failure. `error` goes to the log: answers have fixed sentences only.
    pub fn failed<'a>(&self, call: impl Into<CheckCall<'a>>, cause: CheckFailure, error: &dyn Display) {
        let call = call.into();
        let (condition, resource) = (call.check.condition().word(), named(call.resource));
        let degraded = self.lock().failed(call, cause);
        match degraded {
            Some(Explanation { problem, remedy }) => tracing::warn!(
                condition,
                resource,
                problem,
                remedy,
                error = %error,
                "a condition of readiness is degraded: three calls in a row failed"
            ),
            None => {
                tracing::debug!(condition, resource, error = %error, "a call failed that readiness counts")
            }
        }
    }

    /// Records an answer that shows neither that the resource can be used nor that it cannot.
    pub fn answered<'a>(&self, call: impl Into<CheckCall<'a>>) {
        let call = call.into();
        let doubted = self.lock().known(call).and_then(Course::answered);
        let why = "is no longer degraded: there is an answer, but it does not say whether calls succeed";
        tell(call.check, call.resource, doubted, why);
    }

    /// Checks that the receive loop runs. The status is [`HealthStatus::Stalled`] if the loop stands still while the worker does
    /// not drain.
    pub fn alive(&self) -> HealthReport {
        self.expire();
        let state = self.lock();
        let stalled = state.draining.is_none()
            && breaker::now().saturating_duration_since(state.last_move) > self.patience;
        let status = match state.draining {
            Some(_) => HealthStatus::Draining,
            None if stalled => HealthStatus::Stalled,
            None => HealthStatus::Ok,
        };
        HealthReport {
            status,
            stalled: stalled.then_some(sentences::STALLED),
            conditions: state.conditions(),
        }
    }

    /// Checks that the worker can take messages. The status is [`HealthStatus::Ok`] only if it can.
    pub fn ready(&self) -> HealthReport {
        self.expire();
        let state = self.lock();
        let conditions = state.conditions();
        let status = match state.draining {
            Some(_) => HealthStatus::Draining,
            None if conditions.iter().any(|found| found.status == ConditionStatus::Degraded) => {
                HealthStatus::Unready
            }
            None if state.is_starting() => HealthStatus::Starting,
            None => HealthStatus::Ok,
        };
        HealthReport { status, stalled: None, conditions }
    }

    /// Registers `logferry_condition_degraded{condition}`: 1 for a degraded condition, else 0.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Degraded(Arc::clone(self))));
    }

    /// Forgets failures that are too old to tell anything.
    fn expire(&self) {
        let expired = self.lock().expire();
        for (check, resource, since) in expired {
            let why = "is no longer degraded: no call of its kind was made for an hour";
            tell(check, &resource, Some(since), why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid after every statement, so the lock is usable after a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn named(resource: &str) -> Option<&str> {
    Some(resource).filter(|resource| !resource.is_empty())
}

/// Logs that a condition is not degraded any more, and since when it was.
fn tell(check: Check, resource: &str, degraded_since: Option<Timestamp>, what: &str) {
    if let Some(since) = degraded_since {
        let (condition, resource) = (check.condition().word(), named(resource));
        tracing::info!(condition, resource, since = %since, "a condition of readiness {what}");
    }
}

impl State {
    fn course(&mut self, call: CheckCall<'_>) -> &mut Course {
        let started = self.started;
        self.courses
            .entry(call.check)
            .or_default()
            .entry(call.resource.to_owned())
            .or_insert_with(|| Course::new(started))
    }

    fn known(&mut self, call: CheckCall<'_>) -> Option<&mut Course> {
        self.courses.get_mut(&call.check)?.get_mut(call.resource)
    }

    fn succeeded(&mut self, call: CheckCall<'_>) -> Option<Timestamp> {
        // A known course is found without a copy of the resource's name.
        let course = if self.known(call).is_some() { self.known(call)? } else { self.course(call) };
        course.succeeded(call)
    }

    fn failed(&mut self, call: CheckCall<'_>, cause: CheckFailure) -> Option<Explanation> {
        let course = if call.check == Check::Put { self.known(call)? } else { self.course(call) };
        course.failed(call, cause)
    }

    /// Forgets failures that are too old to tell anything. Returns what is not degraded any more, and since when it was.
    fn expire(&mut self) -> Vec<(Check, String, Timestamp)> {
        let old = self.courses.iter_mut().filter(|(check, _)| check.needs_messages());
        let old =
            old.flat_map(|(check, courses)| courses.iter_mut().map(|(name, course)| (*check, name, course)));
        old.filter_map(|(check, name, course)| Some((check, name.clone(), course.expire()?))).collect()
    }

    fn is_starting(&self) -> bool {
        let courses = self.courses.iter().filter(|(check, _)| !self.off.contains(&check.condition()));
        let mut courses = courses.flat_map(|(_, courses)| courses.values());
        courses.any(|course| course.is_needed && course.standing == Standing::Unknown)
    }

    fn conditions(&self) -> Vec<ConditionReport> {
        ReadinessCondition::ALL.into_iter().map(|condition| self.condition(condition)).collect()
    }

    fn condition(&self, condition: ReadinessCondition) -> ConditionReport {
        let report = |status, since, resource: &str, explanation| {
            let resource = named(resource).map(str::to_owned);
            ConditionReport { condition: condition.word(), status, since, resource, explanation }
        };
        if condition == ReadinessCondition::Draining {
            return match self.draining {
                Some(since) => report(ConditionStatus::Degraded, since, "", Some(sentences::DRAINING)),
                None => report(ConditionStatus::Ok, self.started, "", None),
            };
        }
        if self.off.contains(&condition) {
            return report(ConditionStatus::Off, self.started, "", None);
        }
        let courses = || {
            let checks = self.courses.iter().filter(move |(check, _)| check.condition() == condition);
            checks.flat_map(|(check, courses)| courses.iter().map(|(name, course)| (*check, name, course)))
        };
        let degraded = courses().filter_map(|(check, name, course)| match course.standing {
            Standing::Degraded(cause) => Some((course.since, name, check.explain(cause))),
            Standing::Unknown | Standing::Ok => None,
        });
        if let Some((since, name, explanation)) = degraded.min_by_key(|(since, ..)| *since) {
            return report(ConditionStatus::Degraded, since, name, Some(explanation));
        }
        let lacks = |course: &Course| course.is_needed && course.standing == Standing::Unknown;
        let answered = courses().filter(|(_, _, course)| course.standing == Standing::Ok);
        match answered.map(|(_, _, course)| course.since).max() {
            Some(since) if !courses().any(|(_, _, course)| lacks(course)) => {
                report(ConditionStatus::Ok, since, "", None)
            }
            _ => {
                let since = courses().map(|(_, _, course)| course.since).min().unwrap_or(self.started);
                report(ConditionStatus::Unknown, since, "", None)
            }
        }
    }
}

/// Encodes the conditions as a metric.
#[derive(Debug)]
struct Degraded(Arc<Health>);

impl Collector for Degraded {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Whether a condition of readiness is degraded";
        let mut metric = encoder.encode_descriptor("condition_degraded", help, None, MetricType::Gauge)?;
        for found in self.0.ready().conditions {
            let degraded = i64::from(found.status == ConditionStatus::Degraded);
            ConstGauge::new(degraded).encode(metric.encode_family(&[("condition", found.condition)])?)?;
        }
        Ok(())
    }
}

/// The time to the millisecond.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

#[cfg(test)]
mod tests;
