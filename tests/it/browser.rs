//! The status page in headless Chromium. Where there is none, the test skips itself and prints that.
//! `observability/screenshot` installs it and keeps the pictures.

use std::{path::Path, process::Stdio, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_testbed::provision::CustomerSpec;
use tokio::process::{Child, Command};

use crate::{
    eventually::{eventually, same},
    samples::generated,
    setup::{Setup, text},
    status::{MOST_STREAMS, Stream},
    target::unique,
};

/// Folder for pictures of the page.
const PICTURES: &str = "LOGFERRY_PICTURES";

/// Starts Chromium with these arguments; `None` if there is none.
fn start(arguments: impl IntoIterator<Item = String>) -> Option<Child> {
    let profile = format!("{}/chromium-{}", env!("CARGO_TARGET_TMPDIR"), unique());
    Command::new("chromium")
        // A container has no namespaces for the browser's own sandbox.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={profile}"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .ok()
}

/// Runs Chromium to its end. Returns what it writes to both outputs.
async fn chromium(arguments: impl IntoIterator<Item = String>) -> Option<String> {
    let output = start(arguments)?.wait_with_output().await.ok()?;
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// Ends Chromium. Returns what it wrote to its log.
async fn end(mut open: Child) -> String {
    open.start_kill().expect("it runs");
    let output = open.wait_with_output().await.expect("its outputs can be read");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_the_page_and_keeps_it_up_to_date() {
    if chromium(["--version".to_owned()]).await.is_none() {
        eprintln!("skipped: there is no chromium; observability/screenshot installs it");
        return;
    }
    let setup = Setup::new("browser").await;
    for tenant in ["acme-corp", "globex", "initech", "umbrella"] {
        setup.customer(tenant).await;
    }
    setup.customer_without_role("hooli", &[]).await;
    let evil = "<script>document.title='broken out'</script>".replace('/', "|");
    setup.customer_with(CustomerSpec::new("soylent"), &[("log_group_name", text("not a group!"))]).await;
    let paused = [("tenant_id", text("umbrella")), ("type", text("settings"))];
    let mut settings = paused.map(|(name, value)| (name.to_owned(), value)).to_vec();
    settings.push(("paused".to_owned(), AttributeValue::Bool(true)));
    setup.put_row(settings.into_iter().collect()).await;
    let worker = setup.worker_with(&[("LOGFERRY_LOG__FILTER", "info")]).await;
    for (tenant, objects, events) in
        [("acme-corp", 4, 2_000), ("globex", 2, 900), ("initech", 1, 300), ("hooli", 3, 50)]
    {
        for number in 0..objects {
            let object = generated(&format!("{tenant}/prod-1/web/web-{number}/1.json.gz"), events, 120);
            setup.upload(&object.key, object.bytes).await;
        }
    }
    for tenant in ["umbrella", "soylent"] {
        setup.upload(&format!("{tenant}/prod-1/api/api-0/1.json.gz"), "[]").await;
    }
    setup.upload(&format!("globex/prod-1/api/{evil}/2.json.gz"), "neither gzip nor JSON").await;
    setup.upload("stranger/prod-1/api/api-0/1.json.gz", "[]").await;
    let page = format!("http://{}/", worker.address());
    eventually("the page shows every state", async || {
        let (_, html) = worker.http_get("/").await.map_err(|error| error.to_string())?;
        let expected =
            ["1 paused", "unknown_tenant", "corrupt_object", "bad_tenant_row", ">initech<", ">hooli<"];
        match expected.iter().find(|part| !html.contains(**part)) {
            None => Ok(()),
            Some(missing) => Err(format!("no {missing:?} in {html}")),
        }
    })
    .await;
    if let Ok(folder) = std::env::var(PICTURES) {
        for (name, size, scheme) in [
            ("status-page.png", "900,1180", "1"),
            ("status-page-dark.png", "900,1180", "0"),
            ("status-page-phone.png", "390,1800", "1"),
        ] {
            let picture = [
                format!("--screenshot={}", Path::new(&folder).join(name).display()),
                format!("--window-size={size}"),
                format!("--blink-settings=preferredColorScheme={scheme}"),
                "--timeout=4000".to_owned(),
                page.clone(),
            ];
            chromium(picture).await.expect("it has started before");
        }
    }
    let seen = chromium(["--dump-dom".to_owned(), page.clone()]).await.expect("it has started before");
    assert!(seen.contains("<title>logferry</title>"), "no text has become a script: {seen}");
    assert!(seen.contains("&lt;script&gt;document.title='broken out'"), "{seen}");

    // A page that stays open takes one of the streams, so its script runs.
    let open = start(["--remote-debugging-port=0".to_owned(), page]).expect("it has started before");
    eventually("the browser has a stream", async || {
        let (mut streams, mut served) = (Vec::new(), 0);
        for _ in 0..MOST_STREAMS {
            streams.push(Stream::open(worker.address()).await);
        }
        for stream in &mut streams {
            served += usize::from(stream.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 "));
        }
        drop(streams);
        // The worker notices with the next update that these streams are closed.
        tokio::time::sleep(Duration::from_secs(3)).await;
        same(&served, &(MOST_STREAMS - 1))
    })
    .await;
    let told = end(open).await;
    assert!(
        !told.contains("Content Security Policy"),
        "the policy forbids nothing that the page needs: {told}"
    );
}
