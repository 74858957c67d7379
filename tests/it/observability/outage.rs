//! A customer's broken role, as an operator sees it: metrics, alerts, log, status page; and after it was mended.

use std::time::{Duration, Instant};

use logferry_testbed::provision::TrustAction;
use serde_json::json;

use super::promtool::{Firing, Recording};
use crate::{
    eventually::{eventually, same},
    samples::generated,
    setup::Setup,
    status::text_of,
    worker::Worker,
};

/// Time in which an operator must see that a tenant has stopped receiving.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
/// Age of the waiting object, in seconds, when the checks begin. For the rules these are 8 minutes: see `promtool::DILATION`.
const LONG_ENOUGH: f64 = 8.0;

/// Seconds for which an alert still fires after its cause has ended (`keep_firing_for`: 15 minutes for the rules), and a few
/// more.
const KEPT: u64 = 18;

const BREAKERS: &str = "logferry_role_breakers_open";

fn waiting(tenant: &str) -> String {
    format!("logferry_tenant_oldest_waiting_seconds{{tenant=\"{tenant}\"}}")
}

/// Scrapes a worker once per second.
struct Scraper<'a> {
    worker: &'a Worker,
    began: Instant,
    began_at: f64,
    recording: Recording,
}

impl<'a> Scraper<'a> {
    fn new(worker: &'a Worker) -> Self {
        let began_at = jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
        Self { worker, began: Instant::now(), began_at, recording: Recording::default() }
    }

    /// Waits for the next second, and scrapes.
    async fn scrape(&mut self) {
        let second = if self.recording.is_empty() { 0 } else { self.began.elapsed().as_secs() + 1 };
        tokio::time::sleep_until((self.began + Duration::from_secs(second)).into()).await;
        let (status, text) = self.worker.http_get("/metrics").await.expect("the endpoint answers");
        assert_eq!(status, 200, "{text}");
        self.recording.add(second, self.began_at, &text);
    }
}

/// Waits until the status page has these words in the text about one tenant.
async fn page_says(worker: &Worker, words: &[&str]) {
    eventually("the status page says it", async || {
        let (_, page) = worker.http_get("/").await.map_err(|error| error.to_string())?;
        let tenants =
            page.split("<tbody").skip(1).map(|rest| rest.split("</tbody>").next().unwrap_or_default());
        let tenants: Vec<_> = tenants.map(|html| text_of(&format!("<{html}"))).collect();
        let found = tenants.iter().any(|tenant| words.iter().all(|word| tenant.contains(word)));
        if found { Ok(()) } else { Err(format!("no {words:?} in {tenants:#?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_a_broken_role_and_that_it_is_mended() {
    let setup = Setup::new("outage").await;
    let broken = setup.customer("acme").await;
    let healthy = setup.customer("globex").await;
    broken.allow(&setup.aws, &setup.provider, &[]).await.expect("the trust policy can be replaced");
    let worker = setup
        .worker_with(&[
            ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s"),
            ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "2s"),
            ("LOGFERRY_QUEUE__WAIT_TIME", "1s"),
        ])
        .await;
    worker.ready().await;
    let object =
        |tenant: &str, number: usize| generated(&format!("{tenant}/c/app/pod/{number}.json.gz"), 5, 40);
    let waits = object("acme", 0);
    setup.upload(&waits.key, waits.bytes.clone()).await;
    let mut delivered = Vec::new();

    // Until the object has waited for long, one object of the other tenant comes every second.
    let mut scraper = Scraper::new(&worker);
    loop {
        let next = object("globex", delivered.len());
        setup.upload(&next.key, next.bytes.clone()).await;
        delivered.push(next);
        scraper.scrape().await;
        let ages = scraper.recording.values(&waiting("acme"));
        if ages.last().is_some_and(|age| *age >= LONG_ENOUGH * 60.0) {
            assert!(ages.is_sorted(), "the age rises: {ages:?}");
            break;
        }
        assert!(scraper.began.elapsed() < SEEN_WITHIN, "the age does not rise: {ages:?}");
    }
    let broken_until = scraper.recording.last_second();

    let highest = scraper.recording.values(&waiting("globex")).into_iter().fold(0.0, f64::max);
    assert!(
        highest < LONG_ENOUGH * 60.0 / 2.0,
        "an object of the other tenant waits for {highest} s at most"
    );
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get(BREAKERS), 1.0);
    eventually("the other tenant waits for nothing", async || {
        same(&worker.metrics().await.get(&waiting("globex")), &0.0)
    })
    .await;
    let opened = worker.log_lines().into_iter().find(|line| line["breaker.change"] == "opened");
    let opened = opened.expect("the refusal is logged");
    let found = (&opened["tenant.id"], &opened["breaker.cause"]);
    assert_eq!(found, (&json!("acme"), &json!("trust_policy")), "{opened}");
    let remedy = opened["breaker.remedy"].as_str().unwrap_or_default();
    assert!(remedy.contains("trust policy"), "{opened}");
    page_says(&worker, &["acme refused", "role_denied", "logferry doctor --tenant"]).await;
    page_says(&worker, &["globex ok"]).await;
    let took = scraper.began.elapsed();
    assert!(took < SEEN_WITHIN, "all is seen, but only after {took:?}");

    let mended = broken.allow(&setup.aws, &setup.provider, &[TrustAction::AssumeRole]).await;
    mended.expect("the trust policy can be replaced");
    setup.acknowledged(&worker, delivered.len() + 1).await;
    // The alerts end this scrape at the earliest: until then, the rules have only samples of the broken role.
    scraper.scrape().await;
    let mended_at = scraper.recording.last_second();
    while scraper.recording.last_second() < mended_at + KEPT {
        scraper.scrape().await;
    }
    let metrics = worker.metrics().await;
    let left = [BREAKERS, &waiting("acme"), &waiting("globex")].map(|name| metrics.get(name));
    assert_eq!(left, [0.0; 3]);
    let closed = worker.log_lines().into_iter().find(|line| line["breaker.change"] == "closed");
    assert_eq!(closed.expect("the end of the refusal is logged")["tenant.id"], "acme");
    page_says(&worker, &["acme ok"]).await;
    setup.arrived_once(&broken, [&waits]).await;
    setup.arrived_once(&healthy, &delivered).await;

    scraper.recording.check_alerts(&[
        Firing { at_second: 3, alerts: &[] },
        Firing {
            at_second: broken_until,
            alerts: &[("LogferryRoleRefused", ""), ("LogferryTenantStoppedReceiving", "acme")],
        },
        Firing { at_second: scraper.recording.last_second(), alerts: &[] },
    ]);
}
