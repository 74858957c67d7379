//! One tenant's backlog behind a throttled account delays no other tenant, and nothing of it is lost.

use logferry_sandbox::faults::{Effect, ErrorAnswer, Fault};

use crate::{
    eventually::{eventually, same},
    samples::{Object, generated, received_events},
    setup::Setup,
};

const DEFERRALS: &str = "logferry_fairness_deferrals_total";
const THROTTLED: &str = "logferry_failures_total{reason=\"throttled\"}";
const ACKNOWLEDGED: &str = "logferry_messages_total{verdict=\"ack\"}";

fn objects(tenant_id: &str, numbers: std::ops::Range<usize>) -> Vec<Object> {
    numbers.map(|number| generated(&format!("{tenant_id}/c/app/pod-{number}/1.json.gz"), 5, 40)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_tenants_backlog_delays_no_other_tenant() {
    // The messages come again every second while the account is throttled.
    let setup = Setup::with("noisy", |spec| spec.max_receive_count = 1000).await;
    let Some(sandbox) = setup.sandbox() else { return };
    let noisy = setup.customer("noisy").await;
    let others = [setup.customer("one").await, setup.customer("two").await, setup.customer("three").await];
    let worker = setup.worker_with(&[("LOGFERRY_WORKER__CONCURRENCY", "4")]).await;
    let mut sent: Vec<_> = others.iter().map(|other| objects(&other.tenant_id, 0..1)).collect();
    for object in sent.iter().flatten() {
        setup.upload(&object.key, object.bytes.clone()).await;
    }
    setup.acknowledged(&worker, 3).await;

    let error = Effect::Error(ErrorAnswer::new(400, "ThrottlingException"));
    let throttle =
        Fault { account: Some(noisy.account.clone()), ..Fault::new("logs", "PutLogEvents", error) };
    let throttle = sandbox.faults().add(throttle);
    let backlog = objects("noisy", 0..100);
    for object in &backlog {
        setup.upload(&object.key, object.bytes.clone()).await;
    }
    for (other, sent) in others.iter().zip(&mut sent) {
        for object in objects(&other.tenant_id, 1..11) {
            setup.upload(&object.key, object.bytes.clone()).await;
            sent.push(object);
        }
    }
    eventually("the other tenants' objects are delivered", async || {
        let metrics = worker.metrics().await;
        same(&metrics.get(ACKNOWLEDGED), &33.0).map_err(|counts| format!("{counts}: {metrics:?}"))
    })
    .await;
    for (other, sent) in others.iter().zip(&sent) {
        setup.arrived_once(other, sent).await;
    }
    // A message that is sent anew exists twice until the old one is deleted.
    eventually("the backlog is still there, each message once", async || {
        let (visible, hidden) = setup.queue_depth().await;
        same(&(visible + hidden), &100)
    })
    .await;
    assert_eq!(received_events(&setup.aws, &noisy).await, []);
    // The SDK retries for seconds before it gives up.
    eventually("the account is left alone", async || {
        let metrics = worker.metrics().await;
        same(&metrics.get("logferry_throttled_accounts"), &1.0)?;
        if metrics.get(THROTTLED) > 0.0 { Ok(()) } else { Err(format!("{metrics:?}")) }
    })
    .await;
    let told = worker.metrics().await;
    assert!(told.get(DEFERRALS) > 0.0, "{told:?}");
    assert_eq!(
        told.get("logferry_failures_total{reason=\"over_share\"}"),
        0.0,
        "a deferral is not a failure"
    );
    let sends = sandbox.calls("logs", "PutLogEvents");
    assert!(sends < 33 + 200, "{sends} puts: the backlog's messages are not all tried in vain");

    sandbox.faults().remove(throttle);
    setup.acknowledged(&worker, 133).await;
    setup.arrived_once(&noisy, &backlog).await;
    assert_eq!(worker.metrics().await.get("logferry_throttled_accounts"), 0.0);
    setup.no_dead_letters().await;
}
