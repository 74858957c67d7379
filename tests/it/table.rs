//! During an outage of the tenant table, deliveries to known tenants go on, and messages of other tenants wait.

use logferry_sandbox::faults::{Effect, Fault};
use logferry_testbed::provision::CustomerSpec;

use crate::{
    eventually::{eventually, same},
    samples::{assert_same_events, expected, received_events},
    setup::Setup,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_tenants_are_served_during_an_outage_of_the_table() {
    let setup = Setup::new("table-away").await;
    let Some(sandbox) = setup.sandbox() else { return };
    let known = setup.customer("known").await;
    let newcomer = setup.customer_without_row(CustomerSpec::new("newcomer")).await;
    setup.put_row(newcomer.row()).await;
    let worker = setup.worker_with(&[("RETRY_ATTEMPTS", "1")]).await;
    let mut objects = Vec::new();
    let mut deliver = async |number: usize| {
        let object = setup.upload_generated(&format!("known/c/app/pod-{number}/1.json.gz"), 5, 40).await;
        objects.push(object);
        eventually("the known tenant's object is delivered", async || {
            same(&received_events(&setup.aws, &known).await.len(), &(5 * objects.len()))
        })
        .await;
    };
    deliver(0).await;
    worker.ready().await;

    let away = sandbox.faults().add(Fault::new("dynamodb", "Query", Effect::Reset));
    let late = setup.upload_generated("newcomer/c/app/pod/1.json.gz", 5, 40).await;
    // Cache entries are fresh for a second; after that a stale one is used.
    let stale = "logferry_tenant_lookups_total{result=\"stale\"}";
    let mut number = 1;
    while worker.metrics().await.get(stale) < 3.0 {
        deliver(number).await;
        number += 1;
    }
    worker
        .until("the newcomer's message is tried again", |metrics| {
            let failed = metrics.get("logferry_tenant_lookups_total{result=\"failed\"}");
            let retried = metrics.get("logferry_failures_total{reason=\"tenant_lookup\"}");
            failed >= 2.0 && retried >= 2.0
        })
        .await;
    assert_eq!(received_events(&setup.aws, &newcomer).await, []);
    setup.no_dead_letters().await;
    eventually("readiness says why", async || {
        let (status, body) = worker.readiness().await?;
        same(&(status, body.degraded()), &(503, vec!["lookup"])).map_err(|seen| format!("{seen}: {body:?}"))
    })
    .await;

    sandbox.faults().remove(away);
    setup.queue_is_empty().await;
    assert_same_events("newcomer", &received_events(&setup.aws, &newcomer).await, &expected(&late.text));
    worker.ready().await;
    setup.no_dead_letters().await;
    setup.arrived_once(&known, &objects).await;
    let told = |message: &str| {
        let lines = worker.log_lines();
        let told = lines.iter().filter(|line| line.to_string().contains(message)).cloned();
        told.collect::<Vec<_>>()
    };
    let (began, ended) = (told("the tenant table does not answer"), told("the tenant table answers again"));
    assert_eq!(
        (began.len(), ended.len()),
        (1, 1),
        "one line for the beginning and one for the end: {began:?} {ended:?}"
    );
}
