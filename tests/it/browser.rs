//! The status page in headless Chromium. On a machine without Chromium the test skips itself and prints that, or fails if
//! LOGFERRY_REQUIRE_CHROMIUM is 1. `observability/screenshot` installs Chromium and keeps the pictures.

mod chromium;

use std::path::Path;

use aws_sdk_dynamodb::types::AttributeValue;
use logferry_testbed::provision::CustomerSpec;
use serde_json::json;

use self::chromium::OpenPage;
use crate::{
    eventually::{eventually, same},
    setup::{Setup, text},
};

/// Folder for pictures of the page.
const PICTURES: &str = "LOGFERRY_PICTURES";
/// JavaScript whose value is `yes` while the page receives updates.
const LIVE: &str = "document.documentElement?.dataset.live";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_the_page_and_keeps_it_up_to_date() {
    if !chromium::is_installed() {
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
            setup.upload_generated(&format!("{tenant}/prod-1/web/web-{number}/1.json.gz"), events, 120).await;
        }
    }
    for tenant in ["umbrella", "soylent"] {
        setup.upload(&format!("{tenant}/prod-1/api/api-0/1.json.gz"), "[]").await;
    }
    setup.upload(&format!("globex/prod-1/api/{evil}/2.json.gz"), "[{\"message\": \"cut short").await;
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
            ("status-page.png", "900,1500", "1"),
            ("status-page-dark.png", "900,1500", "0"),
            ("status-page-phone.png", "390,1800", "1"),
        ] {
            let picture = [
                format!("--screenshot={}", Path::new(&folder).join(name).display()),
                format!("--window-size={size}"),
                format!("--blink-settings=preferredColorScheme={scheme}"),
                "--timeout=4000".to_owned(),
                page.clone(),
            ];
            chromium::run(&picture).await;
        }
    }

    let mut open = OpenPage::new(&page).await;
    eventually("the page is live", async || same(&open.value(LIVE).await, &json!("yes"))).await;
    let text = open.value("document.body.innerText").await;
    let text = text.as_str().expect("a text");
    assert!(text.contains("<script>document.title='broken out'"), "the key is shown as text: {text}");
    assert_eq!(open.value("document.scripts.length").await, 1, "no text has become a script");
    assert!(!text.contains("newcomer"), "{text}");
    // A page that is loaded again has no such variable.
    open.value("window.stays = true").await;
    setup.customer("newcomer").await;
    setup.upload_generated("newcomer/prod-1/web/web-0/1.json.gz", 10, 120).await;
    eventually("the page shows the new tenant", async || {
        let row = open
            .value("[...document.querySelectorAll('tbody tr')].map(row => row.innerText).join('\\n')")
            .await;
        let row = row.as_str().unwrap_or_default();
        if row.lines().any(|row| row.starts_with("newcomer\tok")) { Ok(()) } else { Err(row.to_owned()) }
    })
    .await;
    assert_eq!(open.value("window.stays").await, true, "the page was not loaded again");
    let told = open.end().await;
    assert!(
        !told.contains("Content Security Policy"),
        "the policy forbids nothing that the page needs: {told}"
    );
}
