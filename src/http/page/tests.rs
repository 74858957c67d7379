//! The content of the page, with texts from outside.

use super::*;
use crate::{
    health::{Check, CheckFailure, ReadinessCondition},
    status::{ObjectFailure, ObjectName},
};

const EVIL: &str = "<script>alert(1)</script>\"'&\r\n\u{1b}";

fn sources(stopped: Vec<Stopped>) -> Sources {
    Sources {
        status: Arc::new(Status::new(50)),
        health: Arc::new(Health::new(Duration::ZERO, &[Check::Lookup])),
        queue_url: "https://sqs.eu-central-1.amazonaws.com/111111111111/logs".to_owned(),
        slots: 16,
        busy: Gauge::default(),
        stopped: Box::new(move || stopped.clone()),
        since: Timestamp::now(),
    }
}

fn content(sources: &Sources) -> String {
    body::write(sources, MOST_TENANTS, Timestamp::now())
}

/// The text without tags, and every run of white space as one space.
fn read(html: &str) -> String {
    let text: String =
        html.split('<').filter_map(|part| Some(format!(" {}", part.split_once('>')?.1))).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn shows(html: &str, expected: &[&str]) {
    let text = read(html);
    for part in expected {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_page_of_a_worker_without_work_shows_no_trouble() {
    let sources = sources(Vec::new());
    shows(
        &content(&sources),
        &[
            "logferry starting",
            "queue logs",
            "Slots 0 of 16 busy",
            "no object waits",
            "Conditions receive lookup assume get put settle ledger quarantine Tenants",
            "No object of a tenant has arrived since the worker started.",
            "All closed",
            "None since the worker started.",
        ],
    );
    sources.health.succeeded(Check::Lookup);
    sources.health.switch_off(ReadinessCondition::Ledger);
    shows(&content(&sources), &["logferry ready", "settle quarantine"]);
    sources.health.expect(Check::Put.on("eu-central-1"));
    for _ in 0..3 {
        sources.health.failed(Check::Put.on("eu-central-1"), CheckFailure::Unanswered, &"no");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    shows(&content(&sources), &["logferry not ready", "put of eu-central-1 , since 0.0 s"]);
    sources.health.drain();
    shows(&content(&sources), &["logferry draining", "The worker drains"]);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_stands_still_is_shown_whatever_the_conditions_are() {
    let sources = sources(Vec::new());
    sources.health.succeeded(Check::Lookup);
    shows(&content(&sources), &["logferry ready"]);
    tokio::time::advance(Duration::from_secs(61)).await;
    shows(&content(&sources), &["logferry stalled", "receive loop The receive loop stands still."]);
    sources.health.loop_moved();
    shows(&content(&sources), &["logferry ready"]);
}

#[test]
fn each_tenant_has_its_state_with_reason_and_remedy() {
    let stopped = Stopped {
        tenant_id: "broken".to_owned(),
        subject: "arn:aws:iam::222222222222:role/gone".to_owned(),
        cause: "trust_policy",
        probe_in: Duration::from_secs(12),
    };
    let sources = sources(vec![stopped]);
    let status = &sources.status;
    let object = ObjectName { bucket: "b", key: "k", version: None };
    status.begin("well", object, Duration::ZERO).end();
    status.accepted("well", 600, 60 << 20);
    status.delivered("well", "cloudwatch", Some(Duration::from_secs(3)));
    let mut waiting = status.begin("broken", object, Duration::from_secs(400));
    waiting.failed_for("role_denied");
    status.failed(&ObjectFailure {
        tenant_id: Some("broken"),
        delivery: Some("cloudwatch"),
        key: Some("broken/c/a/p/f"),
        reason: "role_denied",
        text: "STS refuses it",
        again_in: Some(Duration::from_secs(15)),
    });
    waiting.comes_again(Duration::from_secs(15));
    let html = content(&sources);
    shows(
        &html,
        &[
            "1 refused 1 ok",
            "broken refused none yet 6 min 1",
            "role_denied of cloudwatch , now Run logferry doctor --tenant for the tenant",
            "well ok now – –",
            "broken trust_policy , next try in 12 s arn:aws:iam::222222222222:role/gone",
            "broken role_denied of cloudwatch , now broken/c/a/p/f STS refuses it",
            "3.0 s on average",
            "Oldest waiting 6 min 1 object waiting or in work",
        ],
    );
    assert_eq!(html.matches("doctor --tenant").count(), 1, "the remedy stands once");
    assert!(html.find("broken") < html.find("well"), "tenants in trouble come first");
    assert_eq!(body::write(&sources, 1, Timestamp::now()).matches("scope=\"row\"").count(), 1);
    shows(&body::write(&sources, 1, Timestamp::now()), &["and 1 more"]);
}

#[tokio::test(start_paused = true)]
async fn texts_from_outside_stay_texts() {
    let stopped = Stopped {
        tenant_id: EVIL.to_owned(),
        subject: EVIL.to_owned(),
        cause: "trust_policy",
        probe_in: Duration::ZERO,
    };
    let mut sources = sources(vec![stopped]);
    sources.queue_url = EVIL.to_owned();
    sources.health.expect(Check::Put.on(EVIL));
    for party in ["a", "b", "c"] {
        sources.health.failed(Check::Put.on(EVIL).by(party), CheckFailure::Unanswered, &"no");
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    sources.status.begin(EVIL, ObjectName { bucket: EVIL, key: EVIL, version: None }, Duration::ZERO).end();
    sources.status.failed(&ObjectFailure {
        tenant_id: Some(EVIL),
        delivery: Some(EVIL),
        key: Some(EVIL),
        reason: "role_denied",
        text: EVIL,
        again_in: None,
    });
    let html = content(&sources);
    assert!(html.matches("&lt;script&gt;").count() > 8, "{html}");
    assert!(!html.contains("<script") && !html.contains("alert(1)</script"), "{html}");
    assert!(!html.contains(|c: char| c.is_control()), "an event is one line: {html}");
    assert!(!html.contains("title=\"<"), "{html}");
}

#[tokio::test]
async fn the_answer_forbids_every_script_but_its_own() {
    let answer = whole("<p>content</p>");
    let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().expect("text").to_owned();
    let nonce = |text: &str| text.split("nonce-").nth(1).map(|rest| rest[..32].to_owned());
    let own = nonce(&policy).expect("a nonce");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a page");
    let html = String::from_utf8(body.to_vec()).expect("UTF-8");
    assert_eq!(html.matches(&format!("nonce=\"{own}\"")).count(), 2, "the style and the script");
    assert_eq!((html.matches("<script").count(), html.matches("<style").count()), (1, 1));
    assert!(html.contains("<main><p>content</p></main>"), "{html}");
    assert!(!html.contains("http://") && !html.contains("https://"), "nothing is loaded from elsewhere");
    let next = whole("").headers()[CONTENT_SECURITY_POLICY].to_str().map(str::to_owned).expect("text");
    assert_ne!(nonce(&next), Some(own));
}

#[test]
fn the_content_is_written_once_for_many() {
    let page = Page::new(sources(Vec::new()));
    assert!(Arc::ptr_eq(&page.content(), &page.content()));
}
