//! The breakers of log groups that the customers' roles may not write. An open breaker admits only probes, by the rules of
//! [`crate::breaker`]. The breaker is checked before an object is opened, so that a denied group costs one download per
//! interval.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::registry::Registry;

use super::SinkError;
use crate::{
    breaker::{Admission, Breaker, Change, Metrics, ProbeIntervals, Stopped, now},
    credentials::RoleArn,
    metrics::add,
    recent::Recent,
};

/// A group and the role that writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// The tenant.
    pub tenant_id: String,
    /// The customer's role.
    pub role: RoleArn,
    /// The group's Region.
    pub region: String,
    /// The group.
    pub log_group_name: String,
}

impl GroupKey {
    fn arn(&self) -> String {
        let Self { role, region, log_group_name, .. } = self;
        format!("arn:{}:logs:{region}:{}:log-group:{log_group_name}", role.partition(), role.account())
    }
}

/// A call that CloudWatch Logs can deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `logs:PutLogEvents`.
    PutLogEvents,
    /// `logs:CreateLogStream`.
    CreateLogStream,
    /// `logs:CreateLogGroup`.
    CreateLogGroup,
}

impl Action {
    /// Name of the action in IAM.
    pub fn name(self) -> &'static str {
        match self {
            Self::PutLogEvents => "logs:PutLogEvents",
            Self::CreateLogStream => "logs:CreateLogStream",
            Self::CreateLogGroup => "logs:CreateLogGroup",
        }
    }

    /// The value of the metrics' label.
    fn word(self) -> &'static str {
        match self {
            Self::PutLogEvents => "put_log_events",
            Self::CreateLogStream => "create_log_stream",
            Self::CreateLogGroup => "create_log_group",
        }
    }
}

/// The breakers of denied groups. Other groups take no memory.
#[derive(Clone, Debug)]
pub struct GroupBreakers {
    open: Recent<GroupKey, Arc<OpenBreaker>>,
    intervals: ProbeIntervals,
    metrics: Metrics,
}

#[derive(Debug)]
struct OpenBreaker {
    metrics: Metrics,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    denied: Arc<str>,
    action: Action,
    /// Whether the gauge counts this breaker.
    counted: bool,
}

/// Permission to write a group. Its holder reports the result with [`GroupPermit::succeeded`] or [`GroupPermit::denied`]. An
/// open breaker ignores the reports of all permits except its probe, because the other permits were given before the breaker
/// opened.
#[derive(Clone, Debug)]
pub struct GroupPermit {
    key: Arc<GroupKey>,
    breakers: Arc<GroupBreakers>,
    probe: Option<Arc<OpenBreaker>>,
}

/// Registers two metrics. `logferry_group_breakers_open` counts the customers' log groups that may not be written, so that
/// only probes try them. `logferry_group_breaker_changes_total{change, cause}` counts changes; the cause is the call that
/// was denied.
pub fn register(metrics: &Metrics, registry: &mut Registry) {
    add(registry, "group_breakers_open", "Customers' log groups that may not be written", &metrics.open);
    add(
        registry,
        "group_breaker_changes",
        "Changes of groups' breakers by the call that was denied",
        &metrics.changes,
    );
}

impl GroupBreakers {
    /// Starts without a denied group. Keeps at most `capacity` breakers that are not in use.
    pub fn new(intervals: ProbeIntervals, capacity: u64, metrics: Metrics) -> Self {
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        Self { open: Recent::new(capacity), intervals, metrics }
    }

    /// Forgets breakers that have been idle for long. Every message that waits for a group looks up the group's breaker. If
    /// no message does, the tenant's row names another group by now.
    pub fn tidy(&self) {
        self.open.forget_idle(|_| self.intervals.longest * 2);
    }

    /// The groups that may not be written.
    pub fn stopped(&self) -> Vec<Stopped> {
        self.open.pick(|key, breaker| {
            let state = breaker.state();
            let probe_in = state.breaker.probe_in(now())?;
            let cause = state.action.word();
            Some(Stopped { tenant_id: key.tenant_id.clone(), subject: key.arn(), cause, probe_in })
        })
    }

    /// Asks for permission to write a group, and takes the probe if one is due.
    ///
    /// # Errors
    /// The group was denied before and no probe is due: [`SinkError::Held`].
    pub fn permit(self: &Arc<Self>, key: GroupKey) -> Result<GroupPermit, SinkError> {
        let probe = self.open.get(&key);
        let key = Arc::new(key);
        if let Some(breaker) = &probe {
            let mut state = breaker.state();
            if let Admission::Held(probe_in) = state.breaker.admit(now(), fastrand::f64()) {
                return Err(SinkError::Held { denied: Arc::clone(&state.denied), probe_in });
            }
            tracing::debug!(
                tenant.id = key.tenant_id,
                log.group = key.log_group_name,
                "a group's breaker is half open: probing"
            );
        }
        Ok(GroupPermit { key, breakers: Arc::clone(self), probe })
    }

    /// The error that [`GroupBreakers::permit`] would return. Takes no probe.
    pub fn held(&self, key: &GroupKey) -> Option<SinkError> {
        let breaker = self.open.get(key)?;
        let state = breaker.state();
        let probe_in = state.breaker.probe_in(now()).filter(|probe_in| !probe_in.is_zero())?;
        Some(SinkError::Held { denied: Arc::clone(&state.denied), probe_in })
    }
}

impl GroupPermit {
    /// Name of the group.
    pub fn log_group_name(&self) -> &str {
        &self.key.log_group_name
    }

    /// Whether this is a probe.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Reports that the group accepted events. Closes the breaker if this is its probe.
    pub fn succeeded(&self) {
        let Some(probe) = &self.probe else { return };
        let (change, action) = {
            let mut state = probe.state();
            let change = state.breaker.succeed();
            // `Metrics::count` takes the breaker off the gauge.
            state.counted &= change.is_none();
            (change, state.action)
        };
        let Some(change) = change else { return };
        self.breakers.open.remove(&self.key);
        self.breakers.metrics.count(change, action.word());
        tracing::info!(
            tenant.id = self.key.tenant_id,
            role.arn = %self.key.role,
            aws.region = self.key.region,
            log.group = self.key.log_group_name,
            breaker.change = change.word(),
            breaker.cause = action.word(),
            "a group may be written again: its breaker closes"
        );
    }

    /// Reports that the role may not do `action`. Opens the group's breaker, or keeps it open for longer if this is its probe.
    pub fn denied(&self, action: Action, problem: &str) {
        let mut opened = None;
        let breaker = self.breakers.open.get_or_insert_with(&self.key, || {
            opened = Some(Change::Opened);
            Arc::new(OpenBreaker::new(&self.breakers, action, problem))
        });
        let ours = self.probe.as_ref().is_some_and(|probe| Arc::ptr_eq(probe, &breaker));
        let (change, probe_in) = {
            let mut state = breaker.state();
            let change = match opened {
                Some(opened) => opened,
                None if ours => {
                    state.action = action;
                    state.denied = problem.into();
                    let change = state.breaker.refuse(now(), fastrand::f64());
                    // `Metrics::count` puts the breaker on the gauge again.
                    state.counted |= change == Change::Opened;
                    change
                }
                None => return,
            };
            (change, state.breaker.probe_in(now()).unwrap_or_default())
        };
        self.breakers.metrics.count(change, action.word());
        let consequence = match change {
            Change::Opened => "a group may not be written: its breaker opens, and its messages wait",
            Change::ProbeRefused | Change::Closed => {
                "a group may still not be written: its breaker stays open"
            }
        };
        let GroupKey { tenant_id, role, region, log_group_name } = &*self.key;
        let group = self.key.arn();
        let itself = match action {
            Action::CreateLogGroup => "; or the customer creates the group",
            Action::PutLogEvents | Action::CreateLogStream => "",
        };
        let remedy = format!("the policies of {role} must allow {} on {group}:*{itself}", action.name());
        tracing::warn!(
            tenant.id = tenant_id,
            role.arn = %role,
            aws.region = region,
            log.group = log_group_name,
            error = problem,
            breaker.change = change.word(),
            breaker.cause = action.word(),
            breaker.remedy = remedy,
            breaker.probe_in = ?probe_in,
            "{consequence}"
        );
    }
}

impl OpenBreaker {
    /// An open breaker; the caller counts its opening.
    fn new(breakers: &GroupBreakers, action: Action, problem: &str) -> Self {
        let mut breaker = Breaker::new(breakers.intervals);
        breaker.refuse(now(), fastrand::f64());
        let state = State { breaker, denied: problem.into(), action, counted: true };
        Self { metrics: breakers.metrics.clone(), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenBreaker {
    fn drop(&mut self) {
        if self.state().counted {
            self.metrics.open.dec();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const INTERVALS: ProbeIntervals =
        ProbeIntervals { first: Duration::from_secs(30), longest: Duration::from_secs(900) };

    fn breakers(metrics: &Metrics) -> Arc<GroupBreakers> {
        Arc::new(GroupBreakers::new(INTERVALS, 100, metrics.clone()))
    }

    fn key(group: &str) -> GroupKey {
        GroupKey {
            tenant_id: "acme".into(),
            role: "arn:aws:iam::222222222222:role/customer".parse().expect("a role"),
            region: "eu-central-1".into(),
            log_group_name: group.into(),
        }
    }

    fn held(breakers: &Arc<GroupBreakers>, group: &str) -> Option<Duration> {
        match breakers.permit(key(group)) {
            Err(SinkError::Held { probe_in, .. }) => Some(probe_in),
            Err(error) => panic!("{error}"),
            Ok(_) => None,
        }
    }

    fn shows(metrics: &Metrics, line: &str) {
        let text = crate::metrics::rendered(|registry| register(metrics, registry));
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_denied_group_is_probed_once_per_interval_and_other_groups_are_not_held() {
        let breakers = breakers(&Metrics::default());
        breakers.permit(key("g")).expect("no breaker is open").denied(Action::PutLogEvents, "no");
        let mut least = 30.0;
        for _ in 0..3 {
            let wait = held(&breakers, "g").expect("the breaker is open");
            assert!((least..=least * 1.25).contains(&wait.as_secs_f64()), "{wait:?}");
            assert_eq!(held(&breakers, "another"), None);
            tokio::time::advance(wait).await;
            let probe = breakers.permit(key("g")).expect("a probe is due");
            assert!(held(&breakers, "g").is_some(), "one is enough");
            probe.denied(Action::CreateLogStream, "still no");
            least *= 2.0;
        }
        let Err(SinkError::Held { denied, .. }) = breakers.permit(key("g")) else {
            panic!("the breaker is open")
        };
        assert_eq!(&*denied, "still no");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_being_probed_is_not_forgotten() {
        let metrics = Metrics::default();
        let breakers = Arc::new(GroupBreakers::new(INTERVALS, 2, metrics.clone()));
        let deny = |group| {
            breakers.permit(key(group)).expect("no breaker is open").denied(Action::PutLogEvents, "no")
        };
        deny("g");
        tokio::time::advance(Duration::from_secs(60)).await;
        let probe = breakers.permit(key("g")).expect("a probe is due");
        ["a", "b", "c", "d"].into_iter().for_each(deny);
        shows(&metrics, "logferry_group_breakers_open 2");
        assert!(held(&breakers, "g").is_some() && held(&breakers, "d").is_some());
        assert_eq!((held(&breakers, "a"), held(&breakers, "c")), (None, None), "they are forgotten");
        probe.succeeded();
        assert_eq!(held(&breakers, "g"), None);
        shows(&metrics, "logferry_group_breakers_open 1");
        // No message looks up the other group any more.
        tokio::time::advance(INTERVALS.longest * 2).await;
        breakers.tidy();
        shows(&metrics, "logferry_group_breakers_open 0");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_probe_closes_a_breaker() {
        let metrics = Metrics::default();
        let breakers = breakers(&metrics);
        let early = [breakers.permit(key("g")), breakers.permit(key("g"))];
        let [one, other] = early.map(|permit| permit.expect("no breaker is open"));
        one.denied(Action::CreateLogGroup, "no");
        let wait = held(&breakers, "g").expect("the breaker is open");
        // Both permits were given before the breaker opened.
        one.denied(Action::CreateLogGroup, "no");
        other.denied(Action::CreateLogGroup, "no");
        other.succeeded();
        assert_eq!(held(&breakers, "g"), Some(wait));
        shows(&metrics, "logferry_group_breakers_open 1");

        tokio::time::advance(wait).await;
        let probe = breakers.permit(key("g")).expect("a probe is due");
        probe.succeeded();
        probe.succeeded();
        assert_eq!(held(&breakers, "g"), None);
        shows(&metrics, "logferry_group_breakers_open 0");
        for change in ["opened", "closed"] {
            let labels = format!("change=\"{change}\",cause=\"create_log_group\"");
            shows(&metrics, &format!("logferry_group_breaker_changes_total{{{labels}}} 1"));
        }
        // A denial in the middle of an object opens a new breaker, with the first interval.
        probe.denied(Action::PutLogEvents, "no");
        let wait = held(&breakers, "g").expect("the breaker is open");
        assert!(wait <= Duration::from_millis(37_500), "{wait:?}");
    }
}
