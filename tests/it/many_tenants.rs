//! Hundreds of customers in one process, some of them broken in every way that a customer can be.

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

/// Objects of each tenant.
const OBJECTS: usize = 2;
/// What a refused role or a denied group is left alone for, at least.
const INTERVAL: Duration = Duration::from_secs(3);

/// What is wrong at a customer's.
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
        // Last: ministack does not know it.
        Self::SourceIdentity,
    ];
}

/// A tenant, the role that its row names, and what it is to receive.
#[derive(Debug)]
struct Tenant {
    customer: Customer,
    fault: Option<Fault>,
    role_arn: String,
    objects: Vec<Object>,
}

impl Tenant {
    /// Sets a customer's side up, with its row and its objects.
    async fn create(setup: Arc<Setup>, number: usize, fault: Option<Fault>) -> Self {
        let tenant_id = format!("tenant-{number}");
        let mut provider = setup.provider.clone();
        if fault == Some(Fault::TrustPolicy) {
            // Somebody else's central role.
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

    /// Checks that its account has what it is to have, and nothing else.
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
    row[field].as_s().expect("it is a text").clone()
}

/// Runs a task for each item, a few at once; answers in the items' order.
async fn for_each<I, T, F>(items: impl IntoIterator<Item = I>, task: impl Fn(I) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (few, mut running) = (Arc::new(Semaphore::new(16)), JoinSet::new());
    for (index, item) in items.into_iter().enumerate() {
        let permit = Arc::clone(&few).acquire_owned().await.expect("it is never closed");
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
async fn every_healthy_tenant_is_served_and_a_broken_one_costs_a_probe_per_interval() {
    let setup = Arc::new(Setup::new("many-tenants").await);
    let (count, broken, ways) = match setup.sandbox() {
        Some(_) => (300, 20, Fault::ALL.len()),
        None => (12, 5, Fault::ALL.len() - 1),
    };
    // Broken ones in between, so that every slot meets one.
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
            // Every tenant's row is to be read once.
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
    eventually("the healthy ones are done, and the broken ones have been probed", async || {
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
                // A probe of its group begins with a new session: the old one may be what is denied.
                Some(Fault::GroupDenied) => 1..=1 + intervals,
                Some(_) => 2..=intervals,
            };
            let (name, fault) = (&tenant.customer.tenant_id, tenant.fault);
            assert!(
                allowed.contains(&asked),
                "{name} {fault:?}: {asked} AssumeRole calls, {allowed:?} allowed"
            );
            let events = if tenant.fault.is_none() { 3 * OBJECTS as u64 } else { 0 };
            assert_eq!(sandbox.totals(&tenant.customer.account).events, events, "{name}: in any group");
        }
        // A denied group's objects are read when nothing is known of it yet, and then by its probes alone.
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
    // A message that is sent anew is there twice until the old one is deleted.
    eventually("what waits for its customer is in the queue, once", async || {
        let (visible, in_flight) = setup.queue_depth().await;
        same(&((visible + in_flight) as usize), &(sick().count() * OBJECTS))
    })
    .await;
    setup.no_dead_letters().await;
}
