//! The status page in headless Chromium. Where there is none, the test skips itself and prints that.
//! `observability/screenshot` installs it and keeps the pictures.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_testbed::provision::CustomerSpec;

use crate::{
    eventually::eventually,
    samples::generated,
    setup::{Setup, text},
};

/// Folder for pictures of the page.
const PICTURES: &str = "LOGFERRY_PICTURES";

/// Runs Chromium with these arguments. Returns what it writes to both outputs.
fn chromium(arguments: &[&str]) -> Option<String> {
    let profile = tempfile();
    let output = Command::new("chromium")
        // A container has no namespaces for the browser's own sandbox.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={profile}"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    // The folder may be in use for a moment longer.
    let _ = std::fs::remove_dir_all(profile);
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn tempfile() -> String {
    format!("{}/chromium-{}", env!("CARGO_TARGET_TMPDIR"), crate::target::unique())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_the_page_and_keeps_it_up_to_date() {
    if chromium(&["--version"]).is_none() {
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
    let (pictures, page_of) = (std::env::var(PICTURES), page.clone());
    let seen = tokio::task::spawn_blocking(move || {
        if let Ok(folder) = pictures {
            std::fs::write(format!("{folder}/dom.html"), chromium(&["--dump-dom", "--timeout=4000", &page_of]).unwrap_or_default()).ok();
            let picture = |name: &str, size: &str, scheme: &str| {
                let path = Path::new(&folder).join(name);
                chromium(&[
                    &format!("--screenshot={}", path.display()),
                    &format!("--window-size={size}"),
                    &format!("--blink-settings=preferredColorScheme={scheme}"),
                    "--timeout=4000",
                    &page_of,
                ]);
            };
            picture("status-page.png", "1100,1500", "1");
            picture("status-page-dark.png", "1100,1500", "0");
            picture("status-page-phone.png", "390,2400", "1");
        }
        chromium(&["--dump-dom", "--timeout=4000", &page]).expect("it has started before")
    });
    let seen = seen.await.expect("no panic");
    assert!(seen.contains("<html lang=\"en\" data-live=\"yes\">"), "the script has had an update: {seen}");
    assert!(seen.contains("<title>logferry</title>"), "no text has become a script: {seen}");
    assert!(seen.contains("&lt;script&gt;document.title='broken out'"), "{seen}");
    assert!(
        !seen.contains("Content Security Policy"),
        "the policy forbids nothing that the page needs: {seen}"
    );
}
