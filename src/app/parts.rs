//! The parts that deliver, built from a configuration: a worker, Lambda and `logferry manual` share them.

use std::sync::Arc;

use super::{
    addressing, central_role, ledger, longest_receive, memory_bound,
    metrics::Metrics,
    pipeline_settings, quarantine, readiness, rows, s3_store, session_settings, shadow_counts,
    source_buckets,
    watched::{Watched, WatchedStore},
};
use crate::{
    aws::Base,
    budget::{Budgets, Rates},
    config::Config,
    copy::s3::S3Copier,
    credentials::{assumed::AssumedRole, customers::Customers},
    health::{Check, Health, ReadinessCondition},
    ledger::{
        claim::{ClaimSettings, Claims},
        dynamodb::DynamoDbLedger,
    },
    object::s3::S3Store,
    pipeline::{PipelineSettings, Ports},
    shadow::{copier::ShadowCopier, dynamodb::DynamoDbCounts, sinks::ShadowSinks},
    sink::{budgeted::BudgetedSinks, cloudwatch::CloudWatchSinks, group_breaker::GroupBreakers},
    tenant::{
        cache::{CacheSettings, TenantCache},
        table::TenantRows,
    },
};

/// The tenant table, with its cache.
pub(super) type Tenants = TenantCache<Watched<TenantRows>>;
/// The ports of AWS.
pub(super) type AwsPorts = Ports<
    WatchedStore<S3Store>,
    Tenants,
    ShadowSinks<BudgetedSinks<Watched<CloudWatchSinks>>, DynamoDbCounts>,
    ShadowCopier<S3Copier, DynamoDbCounts>,
    Watched<DynamoDbLedger>,
>;

/// Everything that delivers.
#[derive(Debug)]
pub(super) struct Parts {
    /// For a pipeline.
    pub(super) ports: AwsPorts,
    /// For a pipeline.
    pub(super) settings: PipelineSettings,
    pub(super) metrics: Metrics,
    /// Learns from every call of the ports.
    pub(super) health: Arc<Health>,
    pub(super) tenants: Tenants,
    pub(super) central: AssumedRole,
    pub(super) claims: Claims<Watched<DynamoDbLedger>>,
    pub(super) customers: Customers,
    pub(super) groups: GroupBreakers,
}

impl Parts {
    /// Builds the parts. Makes no call to AWS, and starts no task.
    ///
    /// # Errors
    /// The configuration has no table or role, or a value cannot be used.
    pub(super) fn build(config: &Config, base: &Base) -> anyhow::Result<Self> {
        let central = central_role(config, base)?;
        let metrics = Metrics::new(base.calls().clone(), memory_bound(config), &config.metrics);
        let health = Arc::new(Health::new(longest_receive(config), &readiness::NEEDED));
        // A row may name a Region that does not exist. Our own Region exists.
        base.sdk().region().inspect(|region| health.expect(Check::Put.on(region.as_ref())));
        let tenants = TenantCache::new(
            Watched::new(rows(config, base)?, &health),
            CacheSettings {
                table: config.tenants.table.clone().unwrap_or_default(),
                capacity: config.tenants.cache_capacity,
                ttl: config.tenants.cache_ttl,
                negative_ttl: config.tenants.negative_ttl,
                max_stale: config.tenants.max_stale,
            },
            metrics.tenants.clone(),
        );
        let ledger = ledger(config, base).map(|ledger| Watched::new(ledger, &health));
        if ledger.is_none() {
            health.switch_off(ReadinessCondition::Ledger);
        }
        let claims = Claims::new(ledger, claim_settings(config), metrics.ledger.clone());
        let quarantine = quarantine(config, base, metrics.quarantine.clone(), &health)?;
        if quarantine.is_none() {
            health.switch_off(ReadinessCondition::Quarantine);
        }
        let sessions = session_settings(config);
        let customers = Customers::new(base, &central, sessions, metrics.customers.clone());
        let groups =
            GroupBreakers::new(sessions.probe_intervals, sessions.cache_capacity, metrics.groups.clone());
        let compression = config.delivery.request_compression;
        let sinks = CloudWatchSinks::new(base, customers.clone(), groups.clone(), compression);
        let rates =
            Rates { puts: config.delivery.put_rate, stream_creations: config.delivery.create_stream_rate };
        let staging = source_buckets(config)?.into_iter().map(|bucket| bucket.name);
        let settings = pipeline_settings(config)?;
        let key_rules = settings.key_rules.clone();
        let counts = shadow_counts(config, base);
        let sinks = BudgetedSinks::new(
            Watched::new(sinks, &health),
            Budgets::new(rates, config.queue.max_retry_delay, metrics.budgets.clone()),
        );
        let copier = S3Copier::new(base, addressing(config), customers.clone(), central.clone());
        let ports = Ports {
            store: WatchedStore::new(s3_store(config, base), staging, key_rules, &health),
            directory: tenants.clone(),
            sinks: ShadowSinks::new(sinks, counts.clone()),
            copier: ShadowCopier::new(copier, counts),
            claims: claims.clone(),
            quarantine,
        };
        Ok(Self { ports, settings, metrics, health, tenants, central, claims, customers, groups })
    }
}

pub(super) fn claim_settings(config: &Config) -> ClaimSettings {
    let crate::config::Ledger { lease, out_of_reach_after, .. } = config.ledger;
    ClaimSettings { lease, out_of_reach_after }
}

#[cfg(test)]
mod tests {
    use logferry_testbed::provision::Aws;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{pipeline::Pipeline, status::Status};

    /// The future of each message is moved to the heap. An async block that holds another future by value takes twice its size: the
    /// future once had 100 KiB.
    #[tokio::test]
    async fn the_future_of_a_message_is_small() {
        let mut config = Config::default();
        config.credentials.central_role_arn = Some("arn:aws:iam::111111111111:role/central".to_owned());
        config.tenants.table = Some("tenants".to_owned());
        config.ledger.table = Some("ledger".to_owned());
        config.source.buckets = vec!["staging".to_owned()];
        // No call is made.
        let base = Aws::new("http://127.0.0.1:9", "us-east-1").account("111111111111").sdk_config().into();
        let Parts { ports, settings, metrics, .. } =
            Parts::build(&config, &base).expect("the parts can be built");
        let pipeline = Pipeline::new(ports, settings, metrics.pipeline, Arc::new(Status::new(0)));
        let stop = CancellationToken::new();
        let size = size_of_val(&pipeline.process("", &stop));
        assert!(size < 12 * 1024, "{size}");
    }
}
