//! What an operator sees of each tenant: the status page and the metrics of tenants.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    eventually::{eventually, same},
    setup::{Setup, text},
    worker::{Worker, http_get, logferry},
};

/// More streams than the endpoint accepts at once.
const MANY_STREAMS: usize = 20;
const MOST_STREAMS: usize = 8;

/// The text of a page without its tags, and every run of white space as one space.
pub(crate) fn text_of(html: &str) -> String {
    let parts = html.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
    parts.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Waits until the page shows all these texts.
async fn shows(address: SocketAddr, expected: &[&str]) -> String {
    eventually("the page shows it", async || {
        let (status, html) = http_get(address, "/").await.map_err(|error| error.to_string())?;
        same(&status, &200)?;
        let text = text_of(&html);
        match expected.iter().find(|part| !text.contains(**part)) {
            None => Ok(html),
            Some(missing) => Err(format!("no {missing:?} in {text}")),
        }
    })
    .await
}

/// A stream of updates.
pub(crate) struct Stream(TcpStream, String);

impl Stream {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.expect("the endpoint listens");
        stream.write_all(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n").await.expect("the request can be sent");
        Self(stream, String::new())
    }

    /// Reads until the stream has sent this text or ends. Returns everything that the stream has sent.
    pub(crate) async fn until(&mut self, text: &str) -> &str {
        let read = async {
            let mut buffer = [0; 16_384];
            while !self.1.contains(text) {
                match self.0.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => self.1.push_str(&String::from_utf8_lossy(&buffer[..read])),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("the stream sends or ends");
        &self.1
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_a_refused_tenant_beside_one_that_is_well() {
    let setup = Setup::new("page").await;
    setup.customer("well").await;
    let broken = setup.customer_without_role("broken", &[]).await;
    let worker = setup
        .worker_with(&[
            ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s"),
            ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "1s"),
        ])
        .await;
    for tenant in ["well", "broken"] {
        setup.upload_generated(&format!("{tenant}/c/app/pod/1.json.gz"), 50, 40).await;
    }
    let (broken_row, role) =
        ("broken refused none yet", format!("arn:aws:iam::{}:role/missing", broken.account));
    let expected = [
        "1 refused 1 ok",
        broken_row,
        "role_denied of cloudwatch",
        "Run logferry doctor --tenant for the tenant",
        "broken trust_policy , next try",
        &role,
        "broken/c/app/pod/1.json.gz",
    ];
    shows(worker.address(), &expected).await;
    let html = shows(worker.address(), &["logferry ready"]).await;
    assert!(text_of(&html).contains(" well ok "), "{}", text_of(&html));
    for loads in ["<link", " src=", " href=", "url(", "@import"] {
        assert!(!html.contains(loads), "nothing is loaded, and {loads} is there: {html}");
    }

    eventually("the metrics show it", async || {
        let metrics = worker.metrics().await;
        let of =
            |name: &str, tenant: &str| metrics.get(&format!("logferry_tenant_{name}{{tenant=\"{tenant}\"}}"));
        let failed = "logferry_tenant_failures_total{tenant=\"broken\",reason=\"role_denied\"}";
        let seen =
            (of("waiting_objects", "broken"), of("waiting_objects", "well"), of("events_total", "well"));
        same(&seen, &(1.0, 0.0, 50.0))?;
        let grows = of("oldest_waiting_seconds", "broken") > 3.0 && metrics.get(failed) >= 2.0;
        let since = of("last_success_timestamp_seconds", "well");
        let now = jiff::Timestamp::now().as_second() as f64;
        if grows && (now - 60.0..=now + 1.0).contains(&since) { Ok(()) } else { Err(format!("{metrics:?}")) }
    })
    .await;

    setup.create_missing_role(&broken, vec![logferry_testbed::provision::TrustAction::AssumeRole]).await;
    shows(worker.address(), &["0 refused", "2 ok", "broken ok", "All closed"][1..]).await;
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_tenant_oldest_waiting_seconds{tenant=\"broken\"}"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_from_outside_are_only_text() {
    let setup = Setup::new("page-names").await;
    let evil = "<script>alert(\"t\")&";
    // The customer has an ordinary name; only the row's key is unusual.
    let spec = logferry_testbed::provision::CustomerSpec::new("ordinary");
    setup.customer_with(spec, &[("tenant_id", text(evil))]).await;
    setup.upload(&format!("{evil}/c/app/<script>alert('pod')/1.json.gz"), "[{\"message\": \"cut short").await;
    let worker = setup.worker().await;
    let html = shows(worker.address(), &["corrupt_object"]).await;
    assert_eq!(html.matches("<script").count(), 1, "the page's own script: {html}");
    assert!(html.contains("&lt;script&gt;alert(&quot;t&quot;)&amp;"), "{html}");
    assert!(html.contains("&lt;script&gt;alert('pod')"), "{html}");
    let metrics = worker.metrics().await;
    let label = "tenant=\"<script>alert(\\\"t\\\")&\",reason=\"corrupt_object\"";
    assert_eq!(metrics.get(&format!("logferry_tenant_failures_total{{{label}}}")), 1.0, "{metrics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_page_is_updated_and_displaces_no_probe() {
    let setup = Setup::new("page-events").await;
    setup.customer("acme").await;
    let mut worker = setup.worker_with(&[("LOGFERRY_QUEUE__WAIT_TIME", "1s")]).await;
    worker.ready().await;
    let address = worker.address();
    let mut stream = Stream::open(address).await;
    let sent = stream.until("No object of a tenant").await;
    assert!(sent.contains("content-type: text/event-stream") && sent.contains("\ndata: "), "{sent}");
    setup.upload_generated("acme/c/app/pod/1.json.gz", 50, 40).await;
    setup.acknowledged(&worker, 1).await;
    assert!(stream.until(">acme<").await.contains(">acme<"), "the update shows the tenant");

    let mut many = Vec::new();
    for _ in 0..MANY_STREAMS {
        many.push(Stream::open(address).await);
    }
    let mut served = 0;
    for stream in &mut many {
        let answer = stream.until("\r\n\r\n").await;
        match answer.starts_with("HTTP/1.1 200 ") {
            true => served += 1,
            false => {
                assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 10"), "{answer}")
            }
        }
    }
    assert_eq!(served, MOST_STREAMS - 1, "one is open already");
    for path in ["/healthz", "/readyz", "/"] {
        assert_eq!(worker.http_get(path).await.expect("the endpoint answers").0, 200, "{path}");
    }
    // New connections replace older ones, but not the streams.
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(address).await.expect("the endpoint listens"));
    }
    let before = stream.1.matches("\ndata: ").count();
    stream.1.clear();
    assert!(before > 0 && stream.until("\ndata: ").await.contains("\ndata: "), "the stream goes on");
    drop((idle, many));
    worker.sigterm();
    stream.1.clear();
    stream.until("never sent").await;
    assert!(worker.wait().await.success(), "an open page does not hold the worker up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_and_the_metrics_can_have_their_own_address() {
    let setup = Setup::new("page-address").await;
    let worker = setup.worker_with(&[("LOGFERRY_HTTP__ADMIN_LISTEN", "127.0.0.1:0")]).await;
    let line = worker.log_lines().into_iter().find(|line| line.get("http.listen").is_some());
    let line = line.expect("the worker logs its addresses");
    let admin = line["http.admin_listen"].as_str().and_then(|text| text.parse::<SocketAddr>().ok());
    let (main, admin) = (worker.address(), admin.expect("an address"));
    assert_ne!(main, admin);
    worker.ready().await;
    let status = async |address, path| http_get(address, path).await.expect("the endpoint answers").0;
    for (path, on_main) in
        [("/healthz", 200), ("/readyz", 200), ("/metrics", 404), ("/", 404), ("/events", 404)]
    {
        assert_eq!(status(main, path).await, on_main, "{path}");
        if path != "/events" {
            assert_eq!(status(admin, path).await, 200, "{path}");
        }
    }
    let taken = admin.to_string();
    let mut environment = setup.environment().await;
    environment.insert("LOGFERRY_HTTP__ADMIN_LISTEN".to_owned(), taken.clone());
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let failed = logferry(&["worker"], &environment);
    let told = String::from_utf8(failed.stderr).expect("UTF-8");
    assert!(!failed.status.success(), "{told}");
    assert!(told.contains(&format!("http.admin_listen: {taken} cannot be bound")), "{told}");
    let _running: &Worker = &worker;
}

/// A record with this timestamp goes the whole way, and its age is shown; an object that is not accepted makes it no younger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_the_heartbeat_is_that_of_its_last_record() {
    let setup = Setup::new("heartbeat").await;
    setup.customer("heart").await;
    setup.customer("acme").await;
    let worker = setup.worker_with(&[("LOGFERRY_METRICS__HEARTBEAT_TENANT", "heart")]).await;
    let upload = async |key: &str, ago: i64| {
        let timestamp = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(ago);
        let records = serde_json::json!([{ "message": "beat", "timestamp": timestamp.to_string() }]);
        setup.upload(key, records.to_string()).await;
    };
    const AGE: &str = "logferry_heartbeat_age_seconds";
    upload("acme/c/app/pod/1.json", 0).await;
    setup.acknowledged(&worker, 1).await;
    let metrics = worker.metrics().await;
    assert!(metrics.get("logferry_heartbeat_expected") == 1.0 && !metrics.contains(AGE), "{metrics:?}");
    upload("heart/c/app/pod/1.json", 3_600).await;
    setup.acknowledged(&worker, 2).await;
    let age = worker.metrics().await.get(AGE);
    assert!((3_600.0..3_700.0).contains(&age), "{age}");
    upload("heart/c/app/pod/2.json", 60).await;
    setup.acknowledged(&worker, 3).await;
    let younger = worker.metrics().await.get(AGE);
    assert!((60.0..160.0).contains(&younger), "{younger}");
    worker.reaches(AGE, younger + 2.0).await;
}
