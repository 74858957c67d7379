//! The sessions in customers' roles, assumed from the central role. All adapters that act in customers' accounts share them.
//!
//! The adapters have clients of their own. Credentials stay in memory.

use std::sync::{Arc, OnceLock};

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime::client::identity::IdentityCache;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    AssumeError, RoleArn,
    assumed::AssumedRole,
    flight::Flight,
    identity::{WhoAmIError, identity},
    request::{AssumeRequest, SessionLife, SessionSpec},
    role_breaker::{self, RoleBreaker},
    scope::Scope,
};
use crate::{
    aws::Base,
    breaker::{self, ProbeIntervals, Stopped},
    metrics::{Ended, add},
    recent::Recent,
};

/// Settings of every customer's session.
#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// Life of a session.
    pub life: SessionLife,
    /// Largest number of sessions in the cache.
    pub cache_capacity: u64,
    /// Time between two calls for a refused role.
    pub probe_intervals: ProbeIntervals,
}

/// Metrics of customers' roles and sessions. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Breakers of roles.
    pub roles: breaker::Metrics,
    /// `logferry_sessions_cached`: sessions in the cache.
    pub sessions_cached: Gauge,
    /// `logferry_session_lookups_total{result}`: `hit`, `miss`.
    pub session_lookups: Family<Ended, Counter>,
    /// `logferry_session_renewals_total{result}`: `renewed`, `failed`.
    pub session_renewals: Family<Ended, Counter>,
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        role_breaker::register(&self.roles, registry);
        add(registry, "sessions_cached", "Customers' sessions in the cache", &self.sessions_cached);
        add(
            registry,
            "session_lookups",
            "Look-ups of customers' sessions in the cache, by result",
            &self.session_lookups,
        );
        add(
            registry,
            "session_renewals",
            "Sessions in customers' roles that STS was asked for, by result",
            &self.session_renewals,
        );
    }
}

/// Enters customers' accounts and caches their sessions. Cheap to clone; clones share the cache.
#[derive(Clone, Debug)]
pub struct Customers {
    settings: SessionSettings,
    /// Signs with the credentials of the central role.
    sts: aws_sdk_sts::Client,
    central: AssumedRole,
    own_account: Arc<OwnAccount>,
    sessions: Recent<SessionKey, AssumedRole>,
    /// Separate from the sessions, because a refused role has none. A session uses the breaker of its role.
    breakers: Recent<RoleKey, Arc<RoleBreaker>>,
    metrics: Metrics,
}

/// Our own account id, which is the external id of tenants whose row has none. STS is asked once; callers share a failure.
#[derive(Debug)]
struct OwnAccount {
    /// Signs with our own credentials.
    sts: aws_sdk_sts::Client,
    id: OnceLock<String>,
    flight: Flight,
}

impl OwnAccount {
    async fn id(&self) -> Result<String, AssumeError> {
        if let Some(id) = self.id.get() {
            return Ok(id.clone());
        }
        let _turn = self.flight.turn().await?;
        // The caller that had the turn before may have received the id.
        if let Some(id) = self.id.get() {
            return Ok(id.clone());
        }
        match identity(&self.sts).await {
            Ok(identity) => {
                self.flight.answer();
                Ok(self.id.get_or_init(|| identity.account).clone())
            }
            Err(error) => {
                let error = match error {
                    WhoAmIError::Refused(ours) => AssumeError::Ours(ours),
                    WhoAmIError::Unanswered(problem) => AssumeError::Unavailable {
                        role: "of a tenant without external_id".to_owned(),
                        problem,
                    },
                };
                self.flight.fail(&error);
                Err(error)
            }
        }
    }
}

/// Everything on which STS's decision about a role depends. A tenant's clusters, groups and Regions are not part of it, so
/// that one probe is enough for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RoleKey {
    tenant_id: String,
    role: RoleArn,
    external_id: String,
    session_tags: bool,
    source_identity: bool,
}

/// Everything that a session depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SessionKey {
    role: RoleKey,
    scope: Scope,
    /// The cluster, if it is sent as a session tag.
    tagged_cluster: Option<String>,
}

impl SessionKey {
    /// `None` if the session has no external id and our own account's id is unknown.
    fn of(session: &SessionSpec, own_account: Option<String>) -> Option<Self> {
        Some(Self {
            role: RoleKey {
                tenant_id: session.tenant_id.clone(),
                role: session.role.clone(),
                external_id: session.external_id.clone().or(own_account)?,
                session_tags: session.session_tags,
                source_identity: session.source_identity,
            },
            scope: session.scope.clone(),
            tagged_cluster: session.session_tags.then(|| session.cluster.clone()),
        })
    }
}

impl Customers {
    /// Enters accounts from the central role; `base` has the HTTP client, retries and endpoints of all calls.
    pub fn new(base: &Base, central: &AssumedRole, settings: SessionSettings, metrics: Metrics) -> Self {
        let sts = base
            .sts()
            .credentials_provider(SharedCredentialsProvider::new(central.clone()))
            .identity_cache(IdentityCache::no_cache())
            .build();
        let capacity = usize::try_from(settings.cache_capacity).unwrap_or(usize::MAX / 2);
        Self {
            settings,
            sts: aws_sdk_sts::Client::from_conf(sts),
            central: central.clone(),
            own_account: Arc::new(OwnAccount {
                sts: aws_sdk_sts::Client::from_conf(base.sts().build()),
                id: OnceLock::new(),
                flight: Flight::default(),
            }),
            sessions: Recent::new(capacity),
            // Sessions use at most half of the breakers. The other half is for refused roles: if the breaker of a refused
            // role were forgotten, the role would be asked for again at once.
            breakers: Recent::new(2 * capacity),
            metrics,
        }
    }

    /// Forgets sessions and breakers that have been idle for long. Every message that waits for a refused role asks for the
    /// role. If no message does, the tenant is gone or its row names another role, and the metrics must not show the old
    /// role as refused.
    pub fn tidy(&self) {
        let SessionSettings { life: SessionLife { duration, .. }, probe_intervals, .. } = self.settings;
        let life = |refused| if refused { probe_intervals.longest * 2 } else { duration * 2 };
        // Sessions first: a session uses the breaker of its role.
        self.sessions.forget_idle(|role| life(role.is_refused()));
        self.count_sessions();
        self.breakers.forget_idle(|breaker| life(breaker.held().is_some()));
    }

    /// The roles that STS refuses. A session that is refused because of its own request is not among them.
    pub fn stopped(&self) -> Vec<Stopped> {
        self.breakers.pick(|_, breaker| breaker.stopped())
    }

    /// Enters a customer's account. The role that is returned has a session and renews it; later calls for the same session
    /// find it in the cache.
    ///
    /// # Errors
    /// One of the two roles cannot be assumed, or the customer's role was refused and no probe is due.
    pub async fn enter(&self, session: SessionSpec) -> Result<AssumedRole, AssumeError> {
        let own_account = match session.external_id {
            Some(_) => None,
            None => Some(self.own_account.id().await?),
        };
        let key = SessionKey::of(&session, own_account).expect("one of the two ids is known");
        let breaker = self.breaker(&key.role);
        let count = |result| self.metrics.session_lookups.get_or_create(&Ended::new(result)).inc();
        let role = match self.sessions.get(&key) {
            Some(role) => {
                count("hit");
                role
            }
            None => {
                count("miss");
                breaker.check()?;
                let make = || self.session(&session, &key.role, Arc::clone(&breaker));
                let role = self.sessions.get_or_insert_with(&key, make);
                self.count_sessions();
                role
            }
        };
        // Credentials are resolved here, so that a refusal is reported before a later call fails because of it.
        let entered = role.credentials().await;
        if entered.is_err() && breaker.held().is_some() {
            self.sessions.remove(&key);
            self.count_sessions();
        }
        entered.map(|_| role)
    }

    /// The error that [`Customers::enter`] would return without a call: the role is refused, no probe is due, and no session is
    /// cached.
    pub fn closed(&self, session: SessionSpec) -> Option<AssumeError> {
        let key = SessionKey::of(&session, self.own_account.id.get().cloned())?;
        let refused = self.breakers.get(&key.role)?.check().err()?;
        (!self.sessions.contains(&key)).then_some(refused)
    }

    fn count_sessions(&self) {
        self.metrics.sessions_cached.set(i64::try_from(self.sessions.len()).unwrap_or(i64::MAX));
    }

    fn breaker(&self, key: &RoleKey) -> Arc<RoleBreaker> {
        self.breakers.get_or_insert_with(key, || {
            let (role, intervals) = (key.role.clone(), self.settings.probe_intervals);
            Arc::new(RoleBreaker::new(&key.tenant_id, role, intervals, &self.metrics.roles))
        })
    }

    fn session(&self, session: &SessionSpec, key: &RoleKey, breaker: Arc<RoleBreaker>) -> AssumedRole {
        let request = AssumeRequest::customer(session, Some(key.external_id.clone()));
        let renewals = self.metrics.session_renewals.clone();
        let (sts, central) = (self.sts.clone(), self.central.clone());
        AssumedRole::of_customer(sts, central, request, self.settings.life, breaker, renewals)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use logferry_sandbox::{
        Sandbox,
        faults::{Effect, ErrorAnswer, Fault},
    };
    use logferry_testbed::provision::{Aws, Customer, CustomerSpec, Provider, ProviderSpec};

    use super::*;

    #[tokio::test]
    async fn our_account_is_asked_for_once_and_a_failure_is_shared() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let asked = || sandbox.calls("sts", "GetCallerIdentity");
        let base = Aws::new(&sandbox.endpoint(), "us-east-1").account("111111111111").sdk_config();
        let ours = OwnAccount {
            sts: aws_sdk_sts::Client::new(&base),
            id: OnceLock::new(),
            flight: Flight::default(),
        };
        let down = Effect::Error(ErrorAnswer::new(503, "ServiceUnavailable"));
        let down = sandbox.faults().add(Fault::new("sts", "GetCallerIdentity", down));
        let told = tokio::join!(ours.id(), ours.id(), ours.id());
        for told in <[_; 3]>::from(told) {
            assert!(matches!(told, Err(AssumeError::Unavailable { .. })), "{told:?}");
        }
        let tried = asked();
        assert!(tried <= 3, "{tried} requests, and the SDK makes three for one call");
        sandbox.faults().remove(down);
        let back = async {
            while ours.id().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), back).await.expect("STS is asked again soon");
        assert_eq!(ours.id().await, Ok("111111111111".to_owned()));
        assert_eq!(asked(), tried + 1);
    }

    #[tokio::test]
    async fn sessions_and_breakers_in_use_are_not_forgotten() {
        let sandbox = Sandbox::start().await.expect("loopback has a free port");
        let aws = Aws::new(&sandbox.endpoint(), "us-east-1");
        let provider =
            Provider::create(&aws, &ProviderSpec::new("x")).await.expect("the accounts can be set up");
        let customer = Customer::create(&aws, "222222222222", &provider, CustomerSpec::new("acme")).await;
        let customer = customer.expect("the accounts can be set up");
        let root = aws.account(&provider.account);
        let worker = root
            .assume_role(&provider.worker_role_arn, "worker", &[])
            .await
            .expect("the account may be the worker");
        let (base, hour) = (worker.sdk_config(), Duration::from_secs(3600));
        let life = SessionLife { duration: hour, refresh_before: hour / 12 };
        let request = AssumeRequest::central(provider.central_role_arn.parse().expect("a role"));
        let central = AssumedRole::new(aws_sdk_sts::Client::new(&base), None, request, life);
        let probe_intervals = ProbeIntervals { first: hour, longest: hour };
        let settings = SessionSettings { life, cache_capacity: 1, probe_intervals };
        let metrics = Metrics::default();
        let customers = Customers::new(&base.into(), &central, settings, metrics.clone());
        let entry = |group: &str| SessionSpec {
            tenant_id: "acme".to_owned(),
            role: customer.role_arn.parse().expect("a role"),
            external_id: Some(customer.external_id.clone()),
            session_tags: false,
            source_identity: false,
            cluster: String::new(),
            scope: Scope::LogGroup { region: "us-east-1".to_owned(), log_group_name: group.to_owned() },
        };
        let assumed = || sandbox.calls("sts", "AssumeRole");
        let before = assumed();

        let held = customers.enter(entry("a")).await.expect("the role lets us in");
        let key = SessionKey::of(&entry("a"), None).expect("the row has an external id");
        let breaker = Arc::downgrade(&customers.breaker(&key.role));
        for group in ["b", "c"] {
            customers.enter(entry(group)).await.expect("the role lets us in");
        }
        for other in 0..9 {
            customers.breaker(&RoleKey { tenant_id: other.to_string(), ..key.role.clone() });
        }
        assert_eq!(assumed() - before, 1 + 3, "the central role and three sessions");
        let again = customers.enter(entry("a")).await.expect("the role lets us in");
        assert_eq!(assumed() - before, 4, "the session in use is the one that is found");
        assert!(std::sync::Weak::ptr_eq(&breaker, &Arc::downgrade(&customers.breaker(&key.role))));
        customers.enter(entry("b")).await.expect("the role lets us in");
        assert_eq!(assumed() - before, 5, "nobody used this one");

        drop((held, again));
        customers.enter(entry("c")).await.expect("the role lets us in");
        customers.enter(entry("a")).await.expect("the role lets us in");
        assert_eq!(assumed() - before, 7, "nobody uses it any more");
        let count = |family: &Family<Ended, Counter>, result| family.get_or_create(&Ended::new(result)).get();
        assert_eq!((count(&metrics.session_lookups, "hit"), count(&metrics.session_lookups, "miss")), (1, 6));
        assert_eq!(count(&metrics.session_renewals, "renewed"), 6);
        assert_eq!(metrics.sessions_cached.get(), 1);
        let nobody = SessionSpec { external_id: Some("wrong".to_owned()), ..entry("a") };
        customers.enter(nobody).await.expect_err("STS refuses");
        assert_eq!(count(&metrics.session_renewals, "failed"), 1);
        assert_eq!(metrics.sessions_cached.get(), 0, "the refused session is not kept");
    }
}
