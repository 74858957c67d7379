//! `logferry demo --break`: breaks one customer's role and one object, shows where an operator sees it, and mends both.
//!
//! Metrics, pages, log lines and commands are checked before they are shown: the demo fails if something is not where it should
//! be. Alerts are not checked: no Prometheus runs, and the demo ends before an alert would fire. The demo shows what the
//! shipped rules say.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::HumanCount;
use logferry_testbed::{
    provision::{Customer, TrustAction},
    worker::{Samples, WorkerProcess},
};

use super::{
    samples::Upload,
    say,
    sights::{self, Sight, Sights},
    stage::Stage,
};

/// The tenant whose role is refused.
const REFUSED: &str = "acme-corp";
/// The tenant and the application of the corrupt object.
const CORRUPT: &str = "globex";
const CORRUPT_APPLICATION: &str = "etcd";
/// A tenant that is not affected.
const HEALTHY: &str = "initech";
/// Settings of the worker. With the defaults a mended role is tried again after 30 s at first, and after 15 min at most, which
/// is too long for a demo.
pub(super) const VARIABLES: [(&str, &str); 4] = [
    ("LOGFERRY_CREDENTIALS__PROBE_INTERVAL", "1s"),
    ("LOGFERRY_CREDENTIALS__MAX_PROBE_INTERVAL", "2s"),
    ("LOGFERRY_QUEUE__RETRY_DELAY", "1s"),
    ("LOGFERRY_QUEUE__MAX_RETRY_DELAY", "2s"),
];
/// Longest time until a change can be seen.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Age of the refused tenant's oldest object at which the demo looks around, in seconds.
const LONG_ENOUGH: f64 = 3.0;

const BREAKERS: &str = "logferry_role_breakers_open";
const LETTERS: &str = "logferry_dead_letters_total{reason=\"unsupported_format\"}";

/// Lets the trust policy of one customer's role refuse everyone.
pub(super) async fn break_role(stage: &Stage) -> anyhow::Result<()> {
    let customer = refused(stage)?;
    customer.allow(&stage.aws, &stage.provider, &[]).await?;
    say(format!(
        "Broken on purpose\n  {REFUSED:<9}  the trust policy of {} denies sts:AssumeRole\n  \
         {CORRUPT:<9}  a program treated one object's gzip as text before it stored the object",
        customer.role_arn
    ))
}

/// The bytes to upload first: those of the upload, or damaged bytes for the corrupt object.
pub(super) fn body(upload: &Upload) -> Vec<u8> {
    if is_corrupt(upload) { mangled(&upload.body) } else { upload.body.clone() }
}

/// Waits until both failures show and everything else is delivered. Shows what an operator sees, and mends both.
///
/// # Errors
/// Something is not seen where it should be, or cannot be mended.
pub(super) async fn show_and_mend(
    stage: &Stage,
    worker: &mut WorkerProcess,
    uploads: &[Upload],
) -> anyhow::Result<()> {
    let corrupt = uploads.iter().find(|upload| is_corrupt(upload)).context("one sample is corrupt")?;
    let healthy = uploads.iter().filter(|upload| upload.tenant() != REFUSED && !is_corrupt(upload));
    let records: usize = healthy.map(|upload| upload.records.len()).sum();
    let sights = Sights::new(stage, worker).await?;
    let before = until(worker, "both failures show, and the other objects are delivered", async || {
        let samples = sights.samples().await?;
        let shows = samples.get(BREAKERS) == 1.0
            && samples.get(LETTERS) == 1.0
            && samples.get(&waiting(REFUSED)) >= LONG_ENOUGH;
        Ok((shows && stage.events() == records as u64).then_some(samples))
    })
    .await?;
    say(format!(
        "The {} records of the other objects have arrived: no other tenant is affected.",
        HumanCount(records as u64)
    ))?;
    let title = format!("{REFUSED} gets no logs, because STS refuses its role");
    say(sights::text(&title, &refused_role(&sights, worker, &before).await?))?;
    let title = format!("One object of {CORRUPT} cannot be read, and its message is a dead letter");
    say(sights::text(&title, &corrupt_object(&sights, worker, corrupt.key).await?))?;

    refused(stage)?.allow(&stage.aws, &stage.provider, &[TrustAction::AssumeRole]).await?;
    stage.provider.upload(&stage.aws, corrupt.key, corrupt.body.clone()).await?;
    let letters = stage.delete_dead_letters().await?;
    ensure!(letters == 1, "{letters} dead letters were deleted instead of 1");
    say(format!(
        "Mended\n  {REFUSED:<9}  The trust policy is as before. The next probe finds that, and the messages come by themselves.\n  \
         {CORRUPT:<9}  The object is uploaded again, and S3 sends a new message about it. The dead letter is about the\n  \
         {0:<9}  corrupt object, which is overwritten, so `logferry redrive move` would not help: the letter is\n  \
         {0:<9}  deleted (sqs:DeleteMessage). Moving is for letters whose cause is mended, such as a missing row.",
        ""
    ))
}

/// Waits until nothing of the failures shows any more, and shows that.
///
/// # Errors
/// A failure still shows somewhere.
pub(super) async fn show_clear(stage: &Stage, worker: &mut WorkerProcess) -> anyhow::Result<()> {
    let sights = Sights::new(stage, worker).await?;
    until(worker, "nothing of the failures shows any more", async || {
        let samples = sights.samples().await?;
        Ok((samples.get(BREAKERS) == 0.0 && samples.get(&waiting(REFUSED)) == 0.0).then_some(()))
    })
    .await?;
    let closed = [("breaker.change", "closed"), ("tenant.id", REFUSED)];
    say(sights::text(
        "All is clear again",
        &[
            sights.page(&[&format!("{REFUSED} ok ")]).await?,
            sights.page(&[&format!("{CORRUPT} ok ")]).await?,
            sights.metric(BREAKERS, 0.0).await?,
            sights.metric(&waiting(REFUSED), 0.0).await?,
            sights::log(worker, &closed, &["message", "breaker.cause"])?,
            sights.command(&["doctor", "--tenant", REFUSED], 0, &["customer role", "put"]).await?,
            sights.command(&["redrive", "list"], 0, &["logferry: 0 dead letters"]).await?,
        ],
    ))
}

/// What an operator sees of the refused role. `before` are earlier samples.
async fn refused_role(
    sights: &Sights<'_>,
    worker: &mut WorkerProcess,
    before: &Samples,
) -> anyhow::Result<Vec<Sight>> {
    let age = waiting(REFUSED);
    let rising = until(worker, "the age of the oldest waiting object rises", async || {
        Ok(sights.metric_above(&age, before.get(&age)).await.ok())
    });
    let opened = [("breaker.change", "opened"), ("tenant.id", REFUSED)];
    Ok(vec![
        rising.await?,
        sights.metric(&waiting(HEALTHY), 0.0).await?,
        sights.metric(BREAKERS, 1.0).await?,
        sights.alert("LogferryTenantStoppedReceiving")?,
        sights.alert("LogferryRoleRefused")?,
        sights.page(&[&format!("{REFUSED} refused "), "role_denied"]).await?,
        sights::log(worker, &opened, &["message", "breaker.cause", "breaker.remedy"])?,
        sights.command(&["doctor", "--tenant", REFUSED], 1, &["FAILED", "fix:"]).await?,
    ])
}

/// What an operator sees of the corrupt object.
async fn corrupt_object(
    sights: &Sights<'_>,
    worker: &WorkerProcess,
    key: &str,
) -> anyhow::Result<Vec<Sight>> {
    let failed = [("reason", "unsupported_format"), ("object.key", key)];
    let list = ["redrive", "list", "--reason", "unsupported_format"];
    Ok(vec![
        sights.metric(LETTERS, 1.0).await?,
        sights.alert("LogferryDeadLetters")?,
        sights.page(&["unsupported_format", key]).await?,
        sights::log(worker, &failed, &["message", "object.key", "error"])?,
        sights.command(&list, 0, &["unsupported_format", CORRUPT, key]).await?,
    ])
}

/// Asks `probe` until it finds something.
async fn until<T>(
    worker: &mut WorkerProcess,
    what: &str,
    mut probe: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        worker.check_runs()?;
        if started.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn refused(stage: &Stage) -> anyhow::Result<&Customer> {
    stage.customers.iter().find(|customer| customer.tenant_id == REFUSED).context("the customer exists")
}

fn is_corrupt(upload: &Upload) -> bool {
    upload.tenant() == CORRUPT && upload.key.contains(&format!("/{CORRUPT_APPLICATION}/"))
}

/// The age of the oldest object that a tenant waits for.
fn waiting(tenant: &str) -> String {
    format!("logferry_tenant_oldest_waiting_seconds{{tenant=\"{tenant}\"}}")
}

/// The bytes after a program treated them as UTF-8 text: bytes that are not UTF-8 became U+FFFD.
fn mangled(bytes: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(bytes).into_owned().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::samples::uploads;

    #[test]
    fn one_object_is_corrupt_and_no_longer_gzip() {
        let uploads = uploads(jiff::Timestamp::now()).expect("the samples can be used");
        let corrupt: Vec<_> = uploads.iter().filter(|upload| body(upload) != upload.body).collect();
        assert_eq!(corrupt.len(), 1);
        assert_eq!(corrupt[0].tenant(), CORRUPT);
        assert!(!body(corrupt[0]).starts_with(&[0x1f, 0x8b]));
    }
}
