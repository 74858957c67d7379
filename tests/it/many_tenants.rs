//! Hundreds of customers in one worker, some of them with one of six misconfigurations.

use std::{
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_testbed::provision::{Customer, CustomerSpec};
use tokio::{sync::Semaphore, task::JoinSet};

use crate::{
    eventually::{eventually, same},
    samples::{Event, Object, assert_same_events, expected, generated, received_events},
    setup::{Setup, text},
    target::unique_account,
};

/// Objects per tenant.
const OBJECTS: usize = 2;
/// Shortest interval between two probes of a refused role or a denied group.
const INTERVAL: Duration = Duration::from_secs(3);

/// A customer's misconfiguration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    RoleGone,
    TrustPolicy,
    ExternalId,
    TagSession,
    SourceIdentity,
    GroupDenied,
}

impl Fault {
    const ALL: [Self; 6] = [
        Self::RoleGone,
        Self::TrustPolicy,
        Self::ExternalId,
        Self::TagSession,
        Self::GroupDenied,
        // Last, because ministack does not support it.
        Self::SourceIdentity,
    ];
}

/// A tenant, the role in its row, and the events that it should receive.
#[derive(Debug)]
struct Tenant {
    customer: Customer,
    fault: Option<Fault>,
    role_arn: String,
    objects: Vec<Object>,
}

impl Tenant {
    /// Creates a customer's side with row and objects.
    async fn create(setup: Arc<Setup>, number: usize, fault: Option<Fault>) -> Self {
        let tenant_id = format!("tenant-{number}");
        let mut provider = setup.provider.clone();
        if fault == Some(Fault::TrustPolicy) {
            // The central role of another provider.
            provider.central_role_arn = provider.worker_role_arn.clone();
        }
        let spec = CustomerSpec::new(&tenant_id);
        let customer = Customer::create(&setup.aws, &unique_account(), &provider, spec).await;
        let customer = customer.expect("the customer's side can be set up");
        let mut row = customer.row();
        let wrong: Option<(&str, AttributeValue)> = fault.and_then(|fault| match fault {
            Fault::RoleGone => {
                let gone = format!("arn:aws:iam::{}:role/gone", customer.account);
                Some(("log_distribution_role_arn", text(&gone)))
            }
            Fault::TrustPolicy => None,
            Fault::ExternalId => Some(("external_id", text("somebody-elses"))),
            Fault::TagSession => Some(("session_tags", AttributeValue::Bool(true))),
            Fault::SourceIdentity => Some(("source_identity", AttributeValue::Bool(true))),
            Fault::GroupDenied => Some(("log_group_name", text("/not/for/logferry"))),
        });
        row.extend(wrong.map(|(field, value)| (field.to_owned(), value)));
        let role_arn = text_of(&row, "log_distribution_role_arn");
        setup.put_row(row).await;
        let objects = (0..OBJECTS).map(|n| generated(&format!("{tenant_id}/c/app/pod/{n}.json.gz"), 3, 60));
        Self { customer, fault, role_arn, objects: objects.collect() }
    }

    /// Checks that the account has the expected events, and nothing else.
    async fn check(&self, setup: &Setup) {
        let mut found = received_events(&setup.aws, &self.customer).await;
        let mut all: Vec<Event> = match self.fault {
            None => self.objects.iter().flat_map(|object| expected(&object.text)).collect(),
            Some(_) => Vec::new(),
        };
        found.sort();
        all.sort();
        assert_same_events(&format!("{} {:?}", self.customer.tenant_id, self.fault), &found, &all);
    }
}

fn text_of(row: &HashMap<String, AttributeValue>, field: &str) -> String {
    row[field].as_s().expect("the field is a string").clone()
}

/// Runs a task for each item, a few at the same time. The results are in the items' order.
async fn for_each<I, T, F>(items: impl IntoIterator<Item = I>, task: impl Fn(I) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (few, mut running) = (Arc::new(Semaphore::new(16)), JoinSet::new());
    for (index, item) in items.into_iter().enumerate() {
        let permit = Arc::clone(&few).acquire_owned().await.expect("the semaphore is never closed");
        let work = task(item);
        running.spawn(async move {
            let done = work.await;
            drop(permit);
            (index, done)
        });
    }
    let mut done = running.join_all().await;
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, done)| done).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn healthy_tenants_are_served_and_broken_ones_take_one_probe_per_interval() {
    let setup = Arc::new(Setup::new("many-tenants").await);
    let (count, broken, ways) = match setup.sandbox() {
        Some(_) => (300, 20, Fault::ALL.len()),
        None => (12, 5, Fault::ALL.len() - 1),
    };
    // Broken tenants are spread, so that every slot gets some.
    let fault = |n: usize| n.is_multiple_of(count / broken).then(|| Fault::ALL[n * broken / count % ways]);
    let tenants = for_each(0..count, |n| Tenant::create(Arc::clone(&setup), n, fault(n))).await;
    let tenants: Vec<_> = tenants.into_iter().map(Arc::new).collect();
    let sick = || tenants.iter().filter_map(|tenant| Some((tenant, tenant.fault?)));
    let roles_refused = sick().filter(|(_, fault)| *fault != Fault::GroupDenied).count();
    let groups_denied = sick().count() - roles_refused;
    assert!(sick().count() >= broken && groups_denied > 0, "{roles_refused} {groups_denied}");
    let objects: Vec<_> =
        (0..OBJECTS).flat_map(|n| tenants.iter().map(move |t| t.objects[n].clone())).collect();
    for_each(objects, |object| {
        let setup = Arc::clone(&setup);
        async move { setup.upload(&object.key, object.bytes).await }
    })
    .await;

    let interval = format!("{}s", INTERVAL.as_secs());
    let started = Instant::now();
    let worker = setup
        .worker_with(&[
            ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", &interval),
            ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", &interval),
            // Long enough that every tenant's row is read only once.
            ("LOGFERRY_TENANTS__CACHE_TTL", "10m"),
        ])
        .await;
    let healthy = count - sick().count();
    let probed = |kind: &str, causes: &[&str]| {
        let names: Vec<_> = causes
            .iter()
            .map(|cause| {
                format!("logferry_{kind}_breaker_changes_total{{change=\"probe_refused\",cause=\"{cause}\"}}")
            })
            .collect();
        move |metrics: &crate::worker::Samples| names.iter().map(|name| metrics.get(name)).sum::<f64>()
    };
    let role_probes = probed("role", &["trust_policy", "tag_session", "source_identity"]);
    let group_probes = probed("group", &["put_log_events"]);
    eventually("healthy tenants are served, and broken ones have been probed", async || {
        let metrics = worker.metrics().await;
        same(&metrics.get("logferry_messages_total{verdict=\"ack\"}"), &((healthy * OBJECTS) as f64))?;
        same(&metrics.get("logferry_role_breakers_open"), &(roles_refused as f64))?;
        same(&metrics.get("logferry_group_breakers_open"), &(groups_denied as f64))?;
        let done = role_probes(&metrics) >= (2 * roles_refused) as f64
            && group_probes(&metrics) >= (2 * groups_denied) as f64;
        if done { Ok(()) } else { Err(format!("{metrics:?}")) }
    })
    .await;

    if let Some(sandbox) = setup.sandbox() {
        for tenant in &tenants {
            let asked = sandbox.times_asked(&tenant.role_arn);
            let intervals = 1 + started.elapsed().as_secs() / INTERVAL.as_secs();
            let allowed = match tenant.fault {
                None => 1..=1,
                // A probe of a group starts with a new session, because the old session may be the reason for the denial.
                Some(Fault::GroupDenied) => 1..=1 + intervals,
                Some(_) => 2..=intervals,
            };
            let (name, fault) = (&tenant.customer.tenant_id, tenant.fault);
            assert!(
                allowed.contains(&asked),
                "{name} {fault:?}: {asked} AssumeRole calls, {allowed:?} allowed"
            );
            let events = if tenant.fault.is_none() { 3 * OBJECTS as u64 } else { 0 };
            assert_eq!(
                sandbox.totals(&tenant.customer.account).events,
                events,
                "{name}: events in all groups"
            );
        }
        // Objects of a denied group are read until the breaker opens, and then only by its probes.
        let read = sandbox.calls("s3", "GetObject");
        let intervals = 1 + started.elapsed().as_secs() / INTERVAL.as_secs();
        let allowed = (healthy * OBJECTS + groups_denied * OBJECTS) as u64 + groups_denied as u64 * intervals;
        assert!(read <= allowed, "{read} objects read, {allowed} allowed");
    }
    for_each(tenants.clone(), |tenant| {
        let setup = Arc::clone(&setup);
        async move { tenant.check(&setup).await }
    })
    .await;
    // A message that is sent anew exists twice until the old one is deleted.
    eventually("each message of a broken tenant is in the queue once", async || {
        let (visible, in_flight) = setup.queue_depth().await;
        same(&((visible + in_flight) as usize), &(sick().count() * OBJECTS))
    })
    .await;
    setup.no_dead_letters().await;
}
