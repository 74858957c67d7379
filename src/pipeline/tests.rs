//! Tests of whole pipelines, with the object store, the tables and the customers' accounts in memory.

mod ceilings;
mod content;
mod copies;
mod fates;
mod formats;
mod lakes;
mod ledger;
mod quarantine;
mod requests;
mod room;
mod shadow;
mod status;
mod tenants;

use std::{collections::HashMap, sync::Mutex, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::{
    batch::MAX_BATCH_EVENTS,
    decode::tests::gzip,
    lake::memory::MemoryBuckets,
    ledger::{claim::ClaimSettings, memory::MemoryLedger},
    object::memory::{MemoryObject, MemoryStore},
    quarantine::{QuarantinePrefix, memory::MemoryQuarantine},
    route::KeyLayout,
    shadow::{copier::ShadowCopier, memory::MemoryCounts, sinks::ShadowSinks},
    sink::{
        SinkError,
        memory::{MemorySinks, SinkCall, SinkOperation},
    },
    tenant::{Attribute, LookupError, Row, Tenant},
    verdict::{Cause, Tries},
};

const BUCKET: &str = "staging";
const QUARANTINE: &str = "aside";
const OWNER: &str = "999999999999";
const KEY: &str = "acme/prod-1/web/web-0/1.json.gz";
/// acme's account and Region, in the notation of the sink in memory.
const ACME: &str = "222222222222/us-east-1";
const GLOBEX: &str = "333333333333/us-east-1";
const GROUP: &str = "/rosa/logs";
const MODIFIED: &str = "2026-11-21T23:59:59.500Z";
const LEASE: Duration = Duration::from_secs(60);
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(10),
    longest: Duration::from_secs(60),
    max_age: Duration::from_secs(3600),
    max_refusals: 3,
};
const OUT_OF_REACH_AFTER: Duration = Duration::from_secs(120);

/// The tenant table in memory, behind a directory that may remember something else.
#[derive(Clone, Debug, Default)]
struct Rows {
    table: Arc<Mutex<HashMap<String, Found>>>,
    remembered: Arc<Mutex<HashMap<String, Found>>>,
}

type Found = Result<Option<Arc<Tenant>>, LookupError>;

impl Directory for Rows {
    async fn find(&self, tenant_id: &str) -> Found {
        let remembered =
            self.remembered.lock().expect("nothing panics while it is locked").get(tenant_id).cloned();
        match remembered {
            Some(found) => found,
            None => self.confirm(tenant_id, Instant::now()).await,
        }
    }

    async fn confirm(&self, tenant_id: &str, _: Instant) -> Found {
        self.table
            .lock()
            .expect("nothing panics while it is locked")
            .get(tenant_id)
            .cloned()
            .unwrap_or(Ok(None))
    }
}

type TestPipeline = Pipeline<
    MemoryStore,
    Rows,
    ShadowSinks<MemorySinks, MemoryCounts>,
    ShadowCopier<MemoryBuckets, MemoryCounts>,
    MemoryLedger,
>;

/// Metrics of a test's pipeline and its parts.
#[derive(Default)]
struct AllMetrics {
    pipeline: Metrics,
    ledger: crate::ledger::claim::Metrics,
    quarantine: crate::quarantine::Metrics,
}

impl AllMetrics {
    fn render(&self) -> String {
        crate::metrics::rendered(|registry| {
            self.pipeline.register(registry);
            self.ledger.register(registry);
            self.quarantine.register(registry);
        })
    }
}

struct World {
    store: MemoryStore,
    rows: Rows,
    sinks: MemorySinks,
    copier: MemoryBuckets,
    /// `None`: shadow mode is not possible.
    counts: Option<MemoryCounts>,
    /// `None`: the ledger is off.
    ledger: Option<MemoryLedger>,
    /// `None`: the quarantine is off.
    quarantine: Option<MemoryQuarantine>,
    settings: PipelineSettings,
    metrics: AllMetrics,
    status: Arc<Status>,
    stop: CancellationToken,
}

impl World {
    /// A bucket, and two tenants with one delivery each.
    fn new() -> Self {
        let settings = PipelineSettings {
            key_rules: KeyLayout::parse(KeyLayout::DEFAULT).expect("the default is right").into(),
            buckets: HashMap::from([(BUCKET.to_owned(), Some(OWNER.to_owned()))]),
            own_buckets: OwnBuckets { staging: [BUCKET.to_owned()].into(), quarantine: None },
            unknown_tenant: UnknownTenant::DeadLetter,
            max_record: 1 << 20,
            max_object: 4 << 20,
            zstd_windows: 32 << 20,
            max_stored: 4 << 20,
            backoff: BACKOFF,
            max_batch_events: MAX_BATCH_EVENTS,
            most_buffers: 4,
            shares: Limits {
                slots: 4,
                max_objects: None,
                max_bytes: None,
                longest_wait: Duration::from_secs(60),
            },
            threads: 1,
        };
        let world = Self {
            store: MemoryStore::default(),
            rows: Rows::default(),
            sinks: MemorySinks::new(),
            copier: MemoryBuckets::default(),
            counts: None,
            ledger: None,
            quarantine: None,
            settings,
            metrics: AllMetrics::default(),
            status: Arc::new(Status::new(50)),
            stop: CancellationToken::new(),
        };
        world.tenant("acme", [("cloudwatch", row(ACME))]);
        world.tenant("globex", [("cloudwatch", row(GLOBEX))]);
        world
    }

    fn tenant<const N: usize>(&self, tenant_id: &str, rows: [(&str, Row); N]) {
        let rows = rows.map(|(name, row)| (name.to_owned(), row)).into();
        self.found(tenant_id, Ok(Tenant::from_rows(tenant_id, rows, None, Timestamp::now()).map(Arc::new)));
    }

    fn found(&self, tenant_id: &str, found: Found) {
        self.rows
            .table
            .lock()
            .expect("nothing panics while it is locked")
            .insert(tenant_id.to_owned(), found);
    }

    /// Sets the answer that the directory remembers and gives instead of the table's.
    fn remembered(&self, tenant_id: &str, found: Found) {
        self.rows
            .remembered
            .lock()
            .expect("nothing panics while it is locked")
            .insert(tenant_id.to_owned(), found);
    }

    fn pipeline(&self) -> TestPipeline {
        let Self { store, rows, sinks, copier, counts, ledger, settings, metrics, .. } = self;
        let claims = ClaimSettings { lease: LEASE, out_of_reach_after: OUT_OF_REACH_AFTER };
        let claims = Claims::new(ledger.clone(), claims, metrics.ledger.clone());
        let quarantine = self.quarantine.clone().map(|store| {
            let prefix = QuarantinePrefix::parse(QuarantinePrefix::DEFAULT).expect("the default is right");
            Quarantine::new(Arc::new(store), prefix, metrics.quarantine.clone())
        });
        let ports = Ports {
            store: store.clone(),
            directory: rows.clone(),
            sinks: ShadowSinks::new(sinks.clone(), counts.clone()),
            copier: ShadowCopier::new(copier.clone(), counts.clone()),
            claims,
            quarantine,
        };
        let mut settings = settings.clone();
        settings.own_buckets.quarantine = self.quarantine.as_ref().map(|_| QUARANTINE.to_owned());
        Pipeline::new(ports, settings, metrics.pipeline.clone(), Arc::clone(&self.status))
    }

    fn put(&self, key: &str, object: MemoryObject) {
        self.store.put(BUCKET, key, object);
    }

    async fn handle(&self, body: &str) -> Verdict {
        self.pipeline().handle(&message(body), &Place::whole(), &self.stop).await
    }

    /// Handles a message. Returns the report on it, and its verdict.
    async fn process(&self, body: &str) -> (MessageReport, Verdict) {
        let report = self.pipeline().process(body, &self.stop).await;
        let verdict = verdict::decide(
            &report.failures,
            Tries { attempts: 1, refusals: 1, age: Duration::ZERO },
            &BACKOFF,
            0.0,
        );
        (report, verdict)
    }
}

fn message(body: &str) -> Message {
    Message { body: body.into(), ..Message::sample("m") }
}

/// A row that delivers everything to `place`.
fn row(place: &str) -> Row {
    let (account, region) = place.split_once('/').expect("ACCOUNT/REGION");
    Row::from([
        ("enabled".to_owned(), Attribute::Bool(true)),
        ("target_region".to_owned(), text(region)),
        ("log_distribution_role_arn".to_owned(), text(&role(account))),
        ("log_group_name".to_owned(), text(GROUP)),
    ])
}

fn role(account: &str) -> String {
    format!("arn:aws:iam::{account}:role/customer-logs")
}

fn with(mut row: Row, name: &str, value: Attribute) -> Row {
    row.insert(name.to_owned(), value);
    row
}

fn text(value: &str) -> Attribute {
    Attribute::Text(value.to_owned())
}

fn event_record(bucket: &str, key: &str) -> Value {
    json!({
        "eventVersion": "2.1", "eventName": "ObjectCreated:Put", "eventTime": "2026-11-22T00:00:00Z",
        "s3": {"bucket": {"name": bucket}, "object": {"key": key, "versionId": "v7"}}
    })
}

/// A message about objects of the staging bucket.
fn event(keys: &[&str]) -> String {
    let records: Vec<_> = keys.iter().map(|key| event_record(BUCKET, key)).collect();
    json!({ "Records": records }).to_string()
}

/// Records as Vector writes them, an array on one line.
fn array(messages: &[&str]) -> Vec<u8> {
    let records: Vec<_> = messages
        .iter()
        .map(|message| json!({"message": message, "timestamp": "2026-11-21T08:00:00Z", "stream": "stdout"}))
        .collect();
    Value::Array(records).to_string().into_bytes()
}

fn object(bytes: Vec<u8>) -> MemoryObject {
    MemoryObject::new(bytes, MODIFIED.parse().expect("a timestamp"))
}

fn good_object(messages: &[&str]) -> MemoryObject {
    object(gzip(&array(messages)))
}

fn throttled() -> SinkError {
    SinkError::Throttled("slow down".into())
}

/// Checks that the metrics have this line.
fn shows(world: &World, line: &str) {
    let text = world.metrics.render();
    assert!(text.lines().any(|found| found == line), "{line} in {text}");
}

fn is_retry(verdict: &Verdict) -> bool {
    verdict.retry_after().is_some()
}

fn poison(verdict: Verdict) -> Cause {
    match verdict {
        Verdict::Poison(poison) => poison,
        other => panic!("poison, not {other:?}"),
    }
}

fn attribute<'a>(poison: &'a Cause, name: &str) -> Option<&'a str> {
    poison.attributes.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
}
