//! The customers' roles and the sessions in them, entered by way of the central role: what all adapters that act in a
//! customer's account share.
//!
//! Holds no client: what one costs is the adapters' affair. Credentials live in memory alone.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use aws_config::SdkConfig;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime::client::identity::IdentityCache;
use moka::{Expiry, future::Cache, policy::EvictionPolicy};

use super::{
    AssumeError, RoleArn,
    assumed::{AssumeRequest, AssumedRole, session_name},
    breaker::ProbeIntervals,
    flight::Flight,
    identity::{WhoAmIError, identity},
    role_breaker::RoleBreaker,
    scope::Scope,
};
use crate::metrics::Metrics;

/// What every customer's session has in common.
#[derive(Clone, Copy, Debug)]
pub struct SessionSettings {
    /// Life of a session.
    pub session_duration: Duration,
    /// How long before its end it is renewed.
    pub refresh_before: Duration,
    /// Most sessions remembered.
    pub cache_capacity: u64,
    /// How long a refused role is left alone.
    pub probe_intervals: ProbeIntervals,
}

/// Who wants into which account, and for what.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The tenant.
    pub tenant_id: String,
    /// The customer's role.
    pub role: RoleArn,
    /// What its trust policy asks for; our own account id if the tenant's row has none.
    pub external_id: Option<String>,
    /// Whether `tenant_id` and `cluster_id` are sent as session tags.
    pub session_tags: bool,
    /// Whether a source identity is sent.
    pub source_identity: bool,
    /// The cluster whose logs these are; empty if unknown.
    pub cluster: String,
    /// What the session is narrowed to.
    pub scope: Scope,
}

/// Enters customers' accounts and remembers their sessions; cheap to clone, clones share all of it.
#[derive(Clone, Debug)]
pub struct Customers {
    settings: SessionSettings,
    /// Signs with the central role: hop 1 is its credentials provider.
    sts: aws_sdk_sts::Client,
    central: AssumedRole,
    own_account: Arc<OwnAccount>,
    sessions: Cache<SessionKey, AssumedRole>,
    /// Apart from the sessions: a role that is refused has none.
    breakers: Cache<RoleKey, Arc<RoleBreaker>>,
    metrics: Metrics,
}

/// Our own account id, the external id of tenants whose row has none: asked for once, and a failure is shared.
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
        // Whoever had the turn before us may know it.
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

/// Everything that decides whether a role lets us in, and nothing that differs between the sessions in it: its clusters,
/// groups and Regions are refused together, and one probe does for all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RoleKey {
    tenant_id: String,
    role: RoleArn,
    external_id: String,
    session_tags: bool,
    source_identity: bool,
}

/// Everything that a session depends on: what differs in any of it must not share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SessionKey {
    role: RoleKey,
    scope: Scope,
    /// The cluster, where it becomes a session tag.
    tagged_cluster: Option<String>,
}

impl SessionKey {
    /// None: the entry has no external id, and our own account's is not known.
    fn of(entry: Entry, own_account: Option<String>) -> Option<Self> {
        Some(Self {
            role: RoleKey {
                tenant_id: entry.tenant_id,
                role: entry.role,
                external_id: entry.external_id.or(own_account)?,
                session_tags: entry.session_tags,
                source_identity: entry.source_identity,
            },
            scope: entry.scope,
            tagged_cluster: entry.session_tags.then_some(entry.cluster),
        })
    }
}

/// How long a breaker that nobody looks up is remembered. An open one is looked up by every message that waits for it; if
/// none does, the tenant is gone or its row names another role, and it must not be shown as refused.
#[derive(Clone, Copy, Debug)]
struct BreakerLife {
    open: Duration,
    closed: Duration,
}

impl BreakerLife {
    fn of(self, breaker: &RoleBreaker) -> Duration {
        if breaker.open().is_some() { self.open } else { self.closed }
    }
}

impl Expiry<RoleKey, Arc<RoleBreaker>> for BreakerLife {
    fn expire_after_create(&self, _: &RoleKey, breaker: &Arc<RoleBreaker>, _: Instant) -> Option<Duration> {
        Some(self.of(breaker))
    }

    fn expire_after_read(
        &self,
        _: &RoleKey,
        breaker: &Arc<RoleBreaker>,
        _: Instant,
        _: Option<Duration>,
        _: Instant,
    ) -> Option<Duration> {
        Some(self.of(breaker))
    }
}

impl Customers {
    /// Enters accounts by way of `central`; `base` has the HTTP client, retries and endpoints that all share.
    pub fn new(base: &SdkConfig, central: &AssumedRole, settings: SessionSettings, metrics: Metrics) -> Self {
        let sts = aws_sdk_sts::config::Builder::from(base)
            .credentials_provider(SharedCredentialsProvider::new(central.clone()))
            .identity_cache(IdentityCache::no_cache())
            .build();
        Self {
            settings,
            sts: aws_sdk_sts::Client::from_conf(sts),
            central: central.clone(),
            own_account: Arc::new(OwnAccount {
                sts: aws_sdk_sts::Client::new(base),
                id: OnceLock::new(),
                flight: Flight::default(),
            }),
            sessions: Cache::builder()
                .max_capacity(settings.cache_capacity)
                .eviction_policy(EvictionPolicy::lru())
                // Longer than a session lives: an idle customer's is not worth its memory.
                .time_to_idle(settings.session_duration * 2)
                .build(),
            breakers: Cache::builder()
                .max_capacity(settings.cache_capacity)
                .eviction_policy(EvictionPolicy::lru())
                .expire_after(BreakerLife {
                    open: settings.probe_intervals.longest * 2,
                    // Longer than any session in the role is remembered, so that all of them share one.
                    closed: settings.session_duration * 3,
                })
                .eviction_listener(|_, breaker: Arc<RoleBreaker>, _| breaker.retire())
                .build(),
            metrics,
        }
    }

    /// Forgets roles that nobody has asked for in long: a cache that is not used does so only when it is told.
    pub async fn tidy(&self) {
        self.breakers.run_pending_tasks().await;
        self.sessions.run_pending_tasks().await;
    }

    /// Enters a customer's account; the role that comes back has a session and renews it. Later calls for the same entry find
    /// it in memory.
    ///
    /// # Errors
    /// One of the two roles cannot be assumed, or the customer's has been refused and no probe is due.
    pub async fn enter(&self, entry: Entry) -> Result<AssumedRole, AssumeError> {
        let own_account = match entry.external_id {
            Some(_) => None,
            None => Some(self.own_account.id().await?),
        };
        let key = SessionKey::of(entry, own_account).expect("one of the two is there");
        let breaker = self.breaker(&key.role).await;
        let role = match self.sessions.get(&key).await {
            Some(role) => role,
            None => {
                breaker.check()?;
                self.sessions.get_with_by_ref(&key, async { self.session(&key, Arc::clone(&breaker)) }).await
            }
        };
        // Asked for here, so that a refusal is the role's error and not some call's.
        let entered = role.credentials().await;
        if entered.is_err() && breaker.open().is_some() {
            self.sessions.invalidate(&key).await;
            // Looked up again, so that it is remembered as an open one.
            self.breaker(&key.role).await;
        }
        entered.map(|_| role)
    }

    /// The error that [`Customers::enter`] is known to end with, without a call: the role is refused, no probe is due, and there
    /// is no session from before.
    pub async fn closed(&self, entry: Entry) -> Option<AssumeError> {
        let key = SessionKey::of(entry, self.own_account.id.get().cloned())?;
        let refused = self.breakers.get(&key.role).await?.check().err()?;
        (!self.sessions.contains_key(&key)).then_some(refused)
    }

    async fn breaker(&self, key: &RoleKey) -> Arc<RoleBreaker> {
        let closed = async {
            let (role, intervals) = (key.role.clone(), self.settings.probe_intervals);
            Arc::new(RoleBreaker::new(&key.tenant_id, role, intervals, &self.metrics))
        };
        self.breakers.get_with_by_ref(key, closed).await
    }

    fn session(&self, key: &SessionKey, breaker: Arc<RoleBreaker>) -> AssumedRole {
        let RoleKey { tenant_id, role, external_id, source_identity, .. } = &key.role;
        let mut tags = Vec::new();
        if let Some(cluster) = &key.tagged_cluster {
            tags.push(("tenant_id", tenant_id.clone()));
            if !cluster.is_empty() {
                tags.push(("cluster_id", cluster.clone()));
            }
        }
        let session_name = session_name(tenant_id);
        AssumedRole::of_customer(
            self.sts.clone(),
            self.central.clone(),
            AssumeRequest {
                role: role.clone(),
                external_id: Some(external_id.clone()),
                policy: Some(key.scope.policy(role)),
                tags,
                source_identity: source_identity.then(|| session_name.clone()),
                session_name,
                duration: self.settings.session_duration,
                refresh_before: self.settings.refresh_before,
            },
            breaker,
        )
    }
}

#[cfg(test)]
mod tests {
    use logferry_sandbox::{
        Sandbox,
        faults::{Effect, ErrorAnswer, Fault},
    };
    use logferry_testbed::provision::Aws;

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
        assert!(tried <= 3, "{tried} calls, and the SDK makes three of one");
        sandbox.faults().remove(down);
        let back = async {
            while ours.id().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), back).await.expect("it is asked again soon");
        assert_eq!(ours.id().await, Ok("111111111111".to_owned()));
        assert_eq!(asked(), tried + 1);
    }
}
