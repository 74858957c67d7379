//! The breaker of a customer's role, shared by all sessions in the role. It stops calls for a refused role, except for
//! probes, and logs each change once. The rules are those of [`crate::breaker`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::registry::Registry;

use super::{AssumeError, RoleArn, flight::Flight, refusal::RefusalCause};
use crate::{
    breaker::{Admission, Breaker, Change, Metrics, ProbeIntervals, Stopped, now},
    metrics::add,
    trace::milliseconds,
};

/// The breaker between STS and one tenant's sessions in one role.
#[derive(Debug)]
pub struct RoleBreaker {
    tenant_id: String,
    role: RoleArn,
    intervals: ProbeIntervals,
    metrics: Metrics,
    state: Mutex<State>,
    flight: Arc<Flight>,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    /// Last refusal and its cause, while the breaker is open.
    refusal: Option<(Arc<AssumeError>, RefusalCause)>,
}

/// Registers two metrics. `logferry_role_breakers_open` counts the customers' roles that STS refuses, so that only probes
/// ask for them. `logferry_role_breaker_changes_total{change, cause}` counts changes; the cause is that of the refusal.
pub fn register(metrics: &Metrics, registry: &mut Registry) {
    add(registry, "role_breakers_open", "Customers' roles that STS refuses", &metrics.open);
    add(
        registry,
        "role_breaker_changes",
        "Changes of roles' breakers by cause of the refusal",
        &metrics.changes,
    );
}

impl RoleBreaker {
    /// A closed breaker.
    pub fn new(tenant_id: &str, role: RoleArn, intervals: ProbeIntervals, metrics: &Metrics) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            role,
            intervals,
            metrics: metrics.clone(),
            state: Mutex::new(State { breaker: Breaker::new(intervals), refusal: None }),
            flight: Arc::default(),
        }
    }

    /// A closed breaker for one session in the role, for refusals of the session's request. Its `flight` is not used.
    pub fn of_session(&self) -> Self {
        Self {
            tenant_id: self.tenant_id.clone(),
            role: self.role.clone(),
            intervals: self.intervals,
            metrics: self.metrics.clone(),
            state: Mutex::new(State { breaker: Breaker::new(self.intervals), refusal: None }),
            flight: Arc::default(),
        }
    }

    /// The right to ask STS, one call at a time for all sessions in the role.
    pub fn flight(&self) -> Arc<Flight> {
        Arc::clone(&self.flight)
    }

    /// Checks that the role may be asked for now.
    ///
    /// # Errors
    /// The breaker is open and no probe is due: [`AssumeError::Held`].
    pub fn check(&self) -> Result<(), AssumeError> {
        match self.held() {
            Some(AssumeError::Held { refusal, probe_in }) if !probe_in.is_zero() => {
                Err(AssumeError::Held { refusal, probe_in })
            }
            _ => Ok(()),
        }
    }

    /// The error of an open breaker, whether or not a probe is due; `None` while the breaker is closed.
    pub fn held(&self) -> Option<AssumeError> {
        let state = self.state();
        let probe_in = state.breaker.probe_in(now())?;
        let (refusal, _) = state.refusal.as_ref()?;
        Some(AssumeError::Held { refusal: Arc::clone(refusal), probe_in })
    }

    /// What the breaker stops; `None` while it is closed.
    pub fn stopped(&self) -> Option<Stopped> {
        let state = self.state();
        let probe_in = state.breaker.probe_in(now())?;
        let (_, cause) = state.refusal.as_ref()?;
        let (tenant_id, subject) = (self.tenant_id.clone(), self.role.to_string());
        Some(Stopped { tenant_id, subject, cause: cause.word(), probe_in })
    }

    /// Takes the probe that is due, if the breaker is open. Call this right before the call to STS, while holding the
    /// flight's turn.
    pub fn take_probe(&self) {
        if self.state().breaker.admit(now(), fastrand::f64()) == Admission::Probe {
            tracing::debug!(tenant.id = self.tenant_id, role.arn = %self.role, "a role's breaker is half open: probing");
        }
    }

    /// Opens the breaker after a refusal, or keeps it open for longer. Returns the error for the caller.
    pub fn refuse(&self, refusal: AssumeError, cause: RefusalCause, remedy: &str) -> AssumeError {
        let refusal = Arc::new(refusal);
        let (change, probe_in) = {
            let mut state = self.state();
            let now = now();
            let change = state.breaker.refuse(now, fastrand::f64());
            state.refusal = Some((Arc::clone(&refusal), cause));
            (change, state.breaker.probe_in(now).unwrap_or_default())
        };
        self.metrics.count(change, cause.word());
        let consequence = match change {
            Change::Opened => "a role is refused: its breaker opens, and its messages wait",
            Change::ProbeRefused | Change::Closed => "a role is still refused: its breaker stays open",
        };
        tracing::warn!(
            tenant.id = self.tenant_id,
            role.arn = %self.role,
            error = %refusal,
            breaker.change = change.word(),
            breaker.cause = cause.word(),
            breaker.remedy = remedy,
            breaker.probe_in_ms = milliseconds(probe_in),
            "{consequence}"
        );
        AssumeError::Held { refusal, probe_in }
    }

    /// Closes the breaker, if it was open, after STS gave a session.
    pub fn succeed(&self) {
        let (change, refusal) = {
            let mut state = self.state();
            (state.breaker.succeed(), state.refusal.take())
        };
        if let (Some(change), Some((_, cause))) = (change, refusal) {
            self.metrics.count(change, cause.word());
            tracing::info!(
                tenant.id = self.tenant_id,
                role.arn = %self.role,
                breaker.change = change.word(),
                breaker.cause = cause.word(),
                "a role can be assumed again: its breaker closes"
            );
        }
    }

    /// Closes the breaker without logging: the role is not asked for any more.
    fn retire(&self) {
        let mut state = self.state();
        state.breaker = Breaker::new(self.intervals);
        if state.refusal.take().is_some() {
            self.metrics.open.dec();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RoleBreaker {
    fn drop(&mut self) {
        self.retire();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const INTERVALS: ProbeIntervals =
        ProbeIntervals { first: Duration::from_secs(30), longest: Duration::from_secs(900) };

    fn closed(metrics: &Metrics) -> RoleBreaker {
        let role = "arn:aws:iam::222222222222:role/customer".parse().expect("a role");
        RoleBreaker::new("acme", role, INTERVALS, metrics)
    }

    fn denied() -> AssumeError {
        AssumeError::Denied {
            role: "r".into(),
            external_id: None,
            code: "AccessDenied".into(),
            message: "no".into(),
        }
    }

    fn shows(metrics: &Metrics, line: &str) {
        let text = crate::metrics::rendered(|registry| register(metrics, registry));
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_knows_its_next_probe() {
        let breaker = closed(&Metrics::default());
        assert_eq!((breaker.check(), breaker.held()), (Ok(()), None));
        let AssumeError::Held { refusal, probe_in } =
            breaker.refuse(denied(), RefusalCause::TrustPolicy, "mend it")
        else {
            panic!("the breaker is open")
        };
        assert_eq!(*refusal, denied());
        assert!((30.0..=37.5).contains(&probe_in.as_secs_f64()), "{probe_in:?}");
        tokio::time::advance(Duration::from_secs(10)).await;
        let left = AssumeError::Held { refusal, probe_in: probe_in - Duration::from_secs(10) };
        assert_eq!(breaker.check(), Err(left));
        tokio::time::advance(probe_in).await;
        assert_eq!(breaker.check(), Ok(()), "a probe is due");
        breaker.take_probe();
        assert!(breaker.check().is_err(), "one probe is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn open_breakers_and_changes_are_counted() {
        let metrics = Metrics::default();
        let (one, other) = (closed(&metrics), closed(&metrics));
        one.refuse(denied(), RefusalCause::TrustPolicy, "");
        one.refuse(denied(), RefusalCause::TrustPolicy, "");
        other.refuse(denied(), RefusalCause::TagSession, "");
        shows(&metrics, "logferry_role_breakers_open 2");
        one.succeed();
        one.succeed();
        shows(&metrics, "logferry_role_breakers_open 1");
        other.retire();
        assert_eq!(other.held(), None);
        drop(other);
        one.refuse(denied(), RefusalCause::TrustPolicy, "");
        drop(one);
        shows(&metrics, "logferry_role_breakers_open 0");
        for (change, cause, count) in [
            ("opened", "trust_policy", 2),
            ("probe_refused", "trust_policy", 1),
            ("closed", "trust_policy", 1),
            ("opened", "tag_session", 1),
        ] {
            let labels = format!("change=\"{change}\",cause=\"{cause}\"");
            shows(&metrics, &format!("logferry_role_breaker_changes_total{{{labels}}} {count}"));
        }
    }
}
