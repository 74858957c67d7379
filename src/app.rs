//! Builds the live parts from a configuration. Only this module builds adapters.

mod apart;
mod clients;
pub mod commands;
mod depth;
mod endpoint;
#[cfg(feature = "lambda")]
mod lambda;
#[cfg(feature = "tools")]
pub mod manual;
mod memory;
mod metrics;
mod outbound;
mod parts;
mod profile;
mod readiness;
#[cfg(feature = "tools")]
pub mod replay;
#[cfg(feature = "tools")]
pub mod tools;
mod watched;

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use tokio::signal::unix::SignalKind;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use self::endpoint::bind;
#[cfg(feature = "lambda")]
pub use self::lambda::lambda;
pub use self::memory::{MemoryBound, memory_bound, memory_limit};
use self::{
    apart::apart,
    clients::{load_sdk, queue_clients, s3_client, s3_store, short_sqs_client},
    endpoint::Listeners,
    parts::Parts,
    readiness::Readiness,
    watched::Watched,
};
use crate::{
    aws::Base,
    batch::MAX_BATCH_EVENTS,
    breaker::ProbeIntervals,
    config::{Config, Problem},
    copy::s3::Addressing,
    credentials::{
        assumed::AssumedRole,
        customers::{Customers, SessionSettings},
        request::{AssumeRequest, SessionLife},
    },
    fairness::book::Limits,
    health::Health,
    http::{self, Page, Sources},
    ledger::dynamodb::{self, DynamoDbLedger, LedgerSettings},
    name::bucket::OwnBucket,
    pipeline::{Pipeline, PipelineSettings},
    protection::{
        Protection,
        agent::{AGENT_URI, EcsAgent},
    },
    quarantine::{self, Quarantine, QuarantinePrefix, s3::S3Quarantine},
    queue::{Message, sqs::SqsQueue},
    shadow::dynamodb::DynamoDbCounts,
    sink::group_breaker::GroupBreakers,
    status::Status,
    telemetry::level::LogFilter,
    tenant::{Mode, table::TenantRows},
    trace,
    verdict::Backoff,
    worker::{self, Drained, WorkerSettings},
};

/// Time between two removals of idle breakers and expired facts.
const TIDY: Duration = Duration::from_secs(30);
/// The fields that name resources with a Region; see [`Config::elsewhere`].
const EVERYTHING: [&str; 4] = ["queue.url", "queue.dead_letter_url", "tenants.table", "ledger.table"];

/// The worker, which is built and listens, but does not run yet.
#[derive(Debug)]
pub struct App {
    config: Config,
    base: Base,
    listeners: Listeners,
    /// ECS's agent, if the worker is a task of ECS.
    agent: Option<EcsAgent>,
    log: Arc<LogFilter>,
    stop: CancellationToken,
}

impl App {
    /// Finds credentials and Region, and binds the endpoint, which can change the filter of `log`. Makes no call to AWS.
    ///
    /// # Errors
    /// There is no Region, the address is in use, or the address of ECS's agent is none.
    pub async fn build(config: Config, log: Arc<LogFilter>) -> anyhow::Result<Self> {
        let base = load_sdk(&config, "worker", &EVERYTHING).await?;
        let agent = std::env::var(AGENT_URI).ok().map(|address| EcsAgent::at(&address)).transpose();
        let agent = agent.map_err(|problem| Problem { field: AGENT_URI.to_owned(), problem })?;
        let listeners = Listeners::bind(&config.http).await?;
        Ok(Self { config, base, listeners, agent, log, stop: CancellationToken::new() })
    }

    /// The address of the endpoint, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// The system does not know the address.
    pub fn listen_address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.main.local_addr()
    }

    /// The address of the status page and the metrics, if it is not that of the endpoint.
    ///
    /// # Errors
    /// The system does not know the address.
    pub fn admin_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.listeners.admin.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// A token that starts the drain when it is cancelled.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Works until the stop token is cancelled, then drains.
    ///
    /// # Errors
    /// The configuration has no queue, table or role, or a bucket, a prefix or the key layout cannot be parsed.
    pub async fn run(self) -> anyhow::Result<Drained> {
        let Self { config, base, listeners, agent, log, stop } = self;
        warn_of_gaps(&config);
        let Parts { ports, settings, metrics, health, tenants, central, claims, customers, groups } =
            Parts::build(&config, &base)?;
        let queue_url = config.queue.url.clone().context("queue.url is required")?;
        let queue = SqsQueue::new(
            queue_clients(&config, &base),
            queue_url.clone(),
            config.queue.dead_letter_url.clone(),
            config.queue.visibility_timeout,
        );
        let asking = queue.clone();
        let queue = Watched::new(queue, &health);
        let stopped = {
            let (customers, groups) = (customers.clone(), groups.clone());
            Box::new(move || [customers.stopped(), groups.stopped()].concat())
        };
        let tidying = tidy(customers, groups, Arc::clone(&metrics.status));
        let pipeline =
            Arc::new(Pipeline::new(ports, settings, metrics.pipeline.clone(), Arc::clone(&metrics.status)));
        let calling = short_sqs_client(&base, config.delivery.attempts);
        let letters = config.queue.dead_letter_url.clone();
        let letters = letters.map(|url| SqsQueue::asking(calling, url));
        let readiness = Readiness {
            health: Arc::clone(&health),
            tenants,
            central,
            claims,
            sts: aws_sdk_sts::Client::from_conf(base.sts().build()),
            letters: letters.clone(),
            s3: s3_client(&config, &base),
            source: source_buckets(&config)?,
            quarantine: quarantine_bucket(&config)?,
        };
        let _probes = AbortOnDropHandle::new(tokio::spawn(readiness.keep_asking()));
        let depth = depth::keep_asking(asking, letters, metrics.queues.clone());
        let _depth = AbortOnDropHandle::new(tokio::spawn(depth));
        let _tidying = AbortOnDropHandle::new(tokio::spawn(tidying));
        let protection = Protection::default();
        // Once the drain has begun, ECS ends the task anyway.
        let _protecting = agent.map(|agent| {
            let protecting = protection.keep(agent, metrics.protection.clone());
            let stop = stop.clone();
            AbortOnDropHandle::new(tokio::spawn(
                async move { stop.run_until_cancelled_owned(protecting).await },
            ))
        });
        let page = Page::new(Sources {
            status: Arc::clone(&metrics.status),
            health: Arc::clone(&health),
            queue_url,
            slots: config.worker.concurrency,
            busy: metrics.worker.slots_busy.clone(),
            stopped,
            since: Timestamp::now(),
        });
        let served = CancellationToken::new();
        let probes = http::probes(Arc::clone(&health));
        let insight = http::insight(Arc::new(metrics.registry(&health)), page);
        let closing = served.clone();
        let endpoint = apart("http", move || listeners.serve(probes, insight, log, closing))?;
        // The loop runs as a task, because the thread that waits here is none of the runtime's: each wake-up would cost a
        // change of threads.
        let worked = worker::run(
            Arc::new(queue),
            {
                let pipeline = Arc::clone(&pipeline);
                move |message: &Message| pipeline.units(message)
            },
            move |message, place, stop| {
                let (pipeline, in_work) = (Arc::clone(&pipeline), protection.hold());
                async move {
                    let _in_work = in_work;
                    pipeline.handle(&message, &place, &stop).await
                }
            },
            worker_settings(&config),
            stop,
            health,
            metrics.worker,
        );
        let drained = AbortOnDropHandle::new(tokio::spawn(worked)).await?;
        // The endpoint serves until the drain is over, so that `/readyz` reports the drain.
        served.cancel();
        // An error means that the endpoint has ended.
        let _ = tokio::time::timeout(Duration::from_secs(1), endpoint).await;
        Ok(drained)
    }
}

/// Warns of missing settings without which messages are handled less well.
fn warn_of_gaps(config: &Config) {
    if config.source.buckets.is_empty() {
        tracing::warn!("source.buckets is empty: objects of any bucket that a message names are read");
    }
    if config.queue.dead_letter_url.is_none() {
        tracing::warn!(
            "queue.dead_letter_url is not set: messages that no retry can help stay in the queue until its redrive policy moves them"
        );
    }
    if config.delivery.mode == Mode::Shadow {
        tracing::warn!(
            "delivery.mode is shadow: nothing will be put or copied into any customer's account; objects are counted for `logferry \
             shadow compare`"
        );
    }
    if config.ledger.table.is_none() {
        tracing::warn!(
            "ledger.table is not set: a message that comes again repeats what was already put for it"
        );
    }
}

/// The tenant table for the commands that list and change it. Makes no call to AWS yet.
///
/// # Errors
/// There is no Region, or the configuration has no table.
pub async fn tenant_rows(config: &Config) -> anyhow::Result<TenantRows> {
    rows(config, &load_sdk(config, "tenant", &["tenants.table"]).await?)
}

fn rows(config: &Config, base: &Base) -> anyhow::Result<TenantRows> {
    let table = config.tenants.table.clone().context("tenants.table is required")?;
    let default_region = config.tenants.default_region.clone();
    Ok(TenantRows::new(dynamodb_client(base), table, default_region, config.delivery.mode))
}

fn dynamodb_client(base: &Base) -> aws_sdk_dynamodb::Client {
    aws_sdk_dynamodb::Client::from_conf(base.dynamodb().build())
}

/// Removes idle breakers, which the metrics would count as open for ever, and expired facts about tenants.
async fn tidy(customers: Customers, groups: GroupBreakers, status: Arc<Status>) {
    loop {
        tokio::time::sleep(TIDY).await;
        customers.tidy();
        groups.tidy();
        status.tidy();
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT. Exits at once at the second; unfinished messages stay in the queue.
///
/// # Errors
/// The system refuses to deliver signals to us.
pub fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for again in [false, true] {
            let signal = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if again {
                tracing::warn!(
                    signal,
                    "a second signal: exiting at once; unfinished messages return to the queue"
                );
                std::process::exit(1);
            }
            tracing::info!(signal, "stopping: no more work begins");
            stop.cancel();
        }
    });
    Ok(())
}

/// Longest time of a receive: every attempt times out, and between attempts the SDK pauses for 20 s at most.
fn longest_receive(config: &Config) -> Duration {
    let attempt = config.queue.wait_time + config.delivery.attempt_timeout + Duration::from_secs(20);
    attempt * config.delivery.attempts
}

fn addressing(config: &Config) -> Addressing {
    if config.aws.s3_use_path_style { Addressing::Path } else { Addressing::VirtualHost }
}

fn central_role(config: &Config, base: &Base) -> anyhow::Result<AssumedRole> {
    let arn = config.credentials.central_role_arn.as_deref();
    let role = arn.context("credentials.central_role_arn is required")?.parse()?;
    let request = AssumeRequest::central(role);
    Ok(AssumedRole::new(
        aws_sdk_sts::Client::from_conf(base.sts().build()),
        None,
        request,
        session_life(config),
    ))
}

fn ledger(config: &Config, base: &Base) -> Option<DynamoDbLedger> {
    let crate::config::Ledger { table, lease, max_clock_skew, retention, .. } = config.ledger.clone();
    let (table, pace) = (table?, dynamodb::pace(config.worker.concurrency));
    Some(DynamoDbLedger::new(base, LedgerSettings { table, lease, max_clock_skew, retention, pace }))
}

/// Where shadow mode keeps its counts, if there is a ledger.
fn shadow_counts(config: &Config, base: &Base) -> Option<DynamoDbCounts> {
    let table = config.ledger.table.clone()?;
    Some(DynamoDbCounts::new(dynamodb::client(base), table, config.shadow.retention))
}

/// The quarantine, if the configuration has one.
fn quarantine(
    config: &Config,
    base: &Base,
    metrics: quarantine::Metrics,
    health: &Arc<Health>,
) -> anyhow::Result<Option<Quarantine>> {
    let Some(OwnBucket { name, owner }) = quarantine_bucket(config)? else { return Ok(None) };
    let prefix = QuarantinePrefix::parse(&config.quarantine.prefix)
        .map_err(|problem| anyhow!("quarantine.prefix: {problem}"))?;
    let store = S3Quarantine::new(s3_client(config, base), name, owner);
    Ok(Some(Quarantine::new(Arc::new(Watched::new(store, health)), prefix, metrics)))
}

fn quarantine_bucket(config: &Config) -> anyhow::Result<Option<OwnBucket>> {
    let bucket = config.quarantine.bucket.as_ref().map(|bucket| bucket.parse()).transpose();
    bucket.map_err(|problem: String| anyhow!("quarantine.bucket: {problem}"))
}

fn source_buckets(config: &Config) -> anyhow::Result<Vec<OwnBucket>> {
    let buckets = config.source.buckets.iter().map(|bucket| bucket.parse());
    buckets.collect::<Result<_, _>>().map_err(|problem: String| anyhow!("source.buckets: {problem}"))
}

fn session_life(config: &Config) -> SessionLife {
    SessionLife {
        duration: config.credentials.session_duration,
        refresh_before: config.credentials.refresh_before,
    }
}

fn session_settings(config: &Config) -> SessionSettings {
    SessionSettings {
        life: session_life(config),
        cache_capacity: config.credentials.cache_capacity,
        probe_intervals: ProbeIntervals {
            first: config.credentials.probe_interval,
            longest: config.credentials.max_probe_interval,
        },
    }
}

fn pipeline_settings(config: &Config) -> anyhow::Result<PipelineSettings> {
    let buckets = source_buckets(config)?.into_iter().map(|bucket| (bucket.name, bucket.owner));
    let buckets: HashMap<_, _> = buckets.collect();
    Ok(PipelineSettings {
        key_rules: config.source.key_rules()?,
        buckets,
        own_buckets: config.own_buckets(),
        unknown_tenant: config.tenants.unknown,
        max_record: usize::try_from(config.source.max_record.as_u64()).context("source.max_record")?,
        max_object: config.source.max_object.as_u64(),
        zstd_windows: config.source.zstd_windows.as_u64(),
        max_stored: config.source.max_stored.as_u64(),
        backoff: backoff(config),
        // Two buffers for each delivery in work: one fills while the other is being put.
        max_batch_events: MAX_BATCH_EVENTS,
        most_buffers: 2 * config.worker.concurrency,
        shares: Limits {
            slots: config.worker.concurrency,
            max_objects: config.fairness.max_objects,
            max_bytes: config.fairness.max_bytes.map(|bytes| bytes.as_u64()),
            longest_wait: config.queue.max_retry_delay,
        },
        threads: tokio::runtime::Handle::current().metrics().num_workers(),
    })
}

fn worker_settings(config: &Config) -> WorkerSettings {
    WorkerSettings {
        concurrency: config.worker.concurrency,
        max_messages: config.queue.max_messages as usize,
        wait_time: config.queue.wait_time,
        visibility_timeout: config.queue.visibility_timeout,
        grace_period: config.worker.grace_period,
        max_hidden: config.queue.max_hidden,
        backoff: backoff(config),
        spans: spans(config),
    }
}

/// Creates the spans of messages.
fn spans(config: &Config) -> trace::Messages {
    let sender = if config.traces.parent { trace::SenderSpan::Parent } else { trace::SenderSpan::Linked };
    trace::Messages::new(config.queue.url.as_deref().unwrap_or_default(), sender)
}

fn backoff(config: &Config) -> Backoff {
    let crate::config::Queue { retry_delay: first, max_retry_delay: longest, max_age, max_refusals, .. } =
        config.queue;
    Backoff { first, longest, max_age, max_refusals }
}
