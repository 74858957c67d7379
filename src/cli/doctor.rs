//! `logferry doctor`: shows the result of [`crate::doctor`]'s checks.

use std::{collections::BTreeSet, process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::show::{Show, columns, printable};
use crate::{
    app,
    config::Config,
    doctor::{Condition, Doctor, Finding, Patient, metrics::Metrics},
    http,
    metrics::ours,
    tell::tell,
};

/// The configuration's fields that only the checks of the provider's side need.
const WIRING: [&str; 11] = [
    "ledger.lease",
    "ledger.max_clock_skew",
    "ledger.retention",
    "ledger.table",
    "queue.dead_letter_url",
    "quarantine.prefix",
    "queue.max_age",
    "queue.max_retry_delay",
    "queue.retry_delay",
    "queue.url",
    "queue.visibility_timeout",
];
/// The configuration's fields that the checks of a tenant need.
const WAY: [&str; 13] = [
    "aws.region",
    "credentials.central_role_arn",
    "credentials.refresh_before",
    "credentials.session_duration",
    "delivery.attempts",
    "delivery.attempt_timeout",
    "quarantine.bucket",
    "queue.wait_time",
    "source.buckets",
    "source.key_layout",
    "source.rules",
    "tenants.default_region",
    "tenants.table",
];

const MORE: &str = "\
Run the doctor with the worker's configuration and as the worker's identity. It makes the worker's own calls, and so checks
what that identity may do.

Without --tenant or --all, the doctor checks the provider's side from end to end: the bucket's notifications and their filter,
the topic's policy and key, the subscription, the queue's policy and attributes, the dead-letter queue, the identity, the clock,
the central role, both tables, an object of the staging bucket, and a write to the ledger and to the quarantine. With --tenant, it
checks the way to that tenant: the tenant table, both roles with everything that is sent to STS, the log group, a log stream and a
put. For a delivery to S3 it copies a folder marker of 0 bytes, if it may write one into the staging bucket.

A check that needs a permission which this identity lacks is skipped, and names that permission.

The doctor receives no message and stores no event: the event that it puts is 15 days old, so CloudWatch Logs accepts the
request and discards the event (tooOldLogEventEndIndex). It creates what the worker creates at its first delivery: the log
group, if it is missing and may be created, and an empty stream `logferry-doctor` (`logferry-doctor/probe` if the tenant's
template has no slash). It writes an entry `logferry-doctor` to the ledger and an object of 0 bytes,
`logferry-doctor/probe`, to the quarantine, and deletes both where that is allowed.

Exit codes: 0 every checked condition holds, with or without warnings, or a signal ended --watch; 1 a condition failed; 2 wrong usage; 64 the configuration cannot be used.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct DoctorArgs {
    /// Check the way to this tenant.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Check only the delivery of this row, by its type, even if it is disabled.
    #[arg(long, value_name = "TYPE", requires = "tenant")]
    delivery: Option<String>,
    /// Cluster to send as a session tag, if the row has session tags [default: none is sent].
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    cluster: String,
    /// Check the provider's side, and every tenant with an enabled delivery.
    #[arg(long, conflicts_with = "tenant")]
    all: bool,
    /// Repeat the checks on this interval, from 10 s to 1 d, and serve the results as metrics at http.listen, until SIGTERM
    /// or SIGINT.
    #[arg(long, value_name = "INTERVAL", value_parser = interval)]
    watch: Option<Duration>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    /// Whether this command uses the configuration's field.
    pub(super) fn concerned_by(&self, field: &str) -> bool {
        (field == "http.listen" && self.watch.is_some())
            || WAY.contains(&field)
            || (self.tenant.is_none() && WIRING.contains(&field))
    }
}

/// Checks the selected conditions and prints their state. Fails if a condition fails.
pub(super) async fn execute(args: DoctorArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let DoctorArgs { tenant, delivery, cluster, all, watch, json } = args;
    let patient = match tenant {
        Some(tenant_id) => Patient::One { tenant_id, delivery },
        None if all => Patient::Everyone,
        None => Patient::Nobody,
    };
    let show = if json { Show::Json } else { Show::Text };
    let Some(interval) = watch else {
        let conditions = examine(config, &cluster, &patient).await?;
        return report_on(&conditions, &patient, show);
    };
    let stop = CancellationToken::new();
    app::stop_on_signals(stop.clone())?;
    let listener = app::bind("http.listen", config.http.listen).await?;
    tell!("logferry: metrics are at http://{}/metrics", listener.local_addr()?);
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(ours(&mut registry));
    let endpoint =
        tokio::spawn(http::serve_metrics(listener, Arc::new(registry), stop.clone().cancelled_owned()));
    let watching = async {
        loop {
            let conditions = examine(config, &cluster, &patient).await?;
            metrics.show(&conditions, Timestamp::now());
            report_on(&conditions, &patient, show)?;
            tokio::time::sleep(interval).await;
        }
    };
    tokio::select! {
        ended = watching => return ended,
        () = stop.cancelled() => {}
    }
    endpoint.await?;
    Ok(ExitCode::SUCCESS)
}

/// Makes the checks with new clients, so that a change of credentials or of a role shows at once.
async fn examine(config: &Config, cluster: &str, patient: &Patient) -> anyhow::Result<Vec<Condition>> {
    let instruments = app::commands::instruments(config).await?;
    Ok(Doctor::new(instruments, config, cluster.to_owned()).examine(patient).await)
}

/// Prints the results. Returns the exit code that they mean.
fn report_on(conditions: &[Condition], patient: &Patient, show: Show) -> anyhow::Result<ExitCode> {
    show.result(|| text(conditions, patient), || report(conditions))?;
    let count =
        |of: fn(&Finding) -> bool| conditions.iter().filter(|condition| of(&condition.finding)).count();
    let (failed, skipped) =
        (count(Finding::is_failure), count(|finding| matches!(finding, Finding::Skipped(_))));
    let warnings = match count(|finding| matches!(finding, Finding::Warning { .. })) {
        0 => String::new(),
        1 => ", 1 warning".to_owned(),
        warnings => format!(", {warnings} warnings"),
    };
    tell!("logferry: {} conditions: {failed} failed{warnings}, {skipped} skipped", conditions.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads an interval such as `5m`.
fn interval(text: &str) -> Result<Duration, String> {
    let interval: SignedDuration =
        text.parse().map_err(|_| "must be a time such as 60s, 5m or 1h".to_owned())?;
    let interval = Duration::try_from(interval).unwrap_or_default();
    if !(Duration::from_secs(10)..=Duration::from_secs(86_400)).contains(&interval) {
        return Err("must be from 10s to 24h".to_owned());
    }
    Ok(interval)
}

/// State, detail and fix.
fn parts(finding: &Finding) -> (&'static str, &str, Option<&str>) {
    match finding {
        Finding::Ok(found) => ("ok", found, None),
        Finding::Failed { problem, fix } => ("failed", problem, Some(fix)),
        Finding::Warning { problem, fix } => ("warning", problem, Some(fix)),
        Finding::Skipped(why) => ("skipped", why, None),
    }
}

fn report(conditions: &[Condition]) -> Value {
    let condition = |condition: &Condition| {
        let (state, detail, fix) = parts(&condition.finding);
        json!({
            "tenant_id": condition.tenant_id,
            "type": condition.delivery,
            "condition": condition.name,
            "state": state,
            "detail": detail,
            "fix": fix,
        })
    };
    json!({
        "healthy": !conditions.iter().any(|condition| condition.finding.is_failure()),
        "conditions": conditions.iter().map(condition).collect::<Vec<_>>(),
    })
}

/// One line for each condition, with the fix below. With `--all`, a tenant whose conditions all hold has a single line.
fn text(conditions: &[Condition], patient: &Patient) -> String {
    let well = |finding: &Finding| matches!(finding, Finding::Ok(_));
    let remarkable: BTreeSet<_> = conditions
        .iter()
        .filter(|condition| !well(&condition.finding) || *patient != Patient::Everyone)
        .filter_map(|condition| condition.tenant_id.as_deref())
        .collect();
    let (mut lines, mut fixes) = (Vec::new(), Vec::new());
    let mut said = None;
    for condition in conditions {
        let tenant = condition.tenant_id.as_deref().unwrap_or_default();
        let in_brief = !tenant.is_empty() && !remarkable.contains(tenant);
        if in_brief && said == Some(tenant) {
            continue;
        }
        said = Some(tenant);
        let (state, detail, fix) = parts(&condition.finding);
        let state = if state == "failed" { "FAILED" } else { state };
        let delivery = condition.delivery.as_deref().unwrap_or_default();
        let (name, detail) = if in_brief { ("", "every condition holds") } else { (condition.name, detail) };
        let delivery = if in_brief { "" } else { delivery };
        lines.push([state, tenant, delivery, name, detail].map(printable));
        fixes.push(fix);
    }
    if lines.iter().all(|line| line[1].is_empty()) {
        let lines = lines.into_iter().map(|[state, _, _, name, detail]| [state, name, detail]);
        return with_fixes(&columns(lines), &fixes);
    }
    with_fixes(&columns(lines), &fixes)
}

fn with_fixes(table: &str, fixes: &[Option<&str>]) -> String {
    let mut text = String::new();
    for (line, fix) in table.lines().zip(fixes) {
        text.push_str(&format!("{line}\n"));
        if let Some(fix) = fix {
            text.push_str(&format!("         fix: {}\n", printable(fix)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(tenant: &str, name: &'static str, finding: Finding) -> Condition {
        let tenant_id = Some(tenant.to_owned()).filter(|id| !id.is_empty());
        let delivery = tenant_id.is_some().then(|| "cloudwatch".to_owned());
        Condition { tenant_id, delivery, name, finding }
    }

    fn ok(tenant: &str, name: &'static str) -> Condition {
        condition(tenant, name, Finding::Ok("found".into()))
    }

    fn failed(tenant: &str, name: &'static str) -> Condition {
        condition(tenant, name, Finding::Failed { problem: "not found".into(), fix: "make it".into() })
    }

    fn check(conditions: &[Condition], patient: &Patient, expected: &str) {
        assert_eq!(text(conditions, patient), expected);
    }

    #[test]
    fn intervals_have_limits() {
        assert_eq!(interval("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(interval("24h"), Ok(Duration::from_secs(86_400)));
        for text in ["", "60", "9s", "25h", "-5m", "soon"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_fix_is_below_the_failed_condition() {
        let skipped = condition("", "put", Finding::Skipped("no group".into()));
        check(
            &[ok("", "identity"), failed("", "log group"), skipped],
            &Patient::Nobody,
            "ok       identity   found\n\
             FAILED   log group  not found\n\
             \x20        fix: make it\n\
             skipped  put        no group\n",
        );
    }

    #[test]
    fn with_all_a_healthy_tenant_has_a_single_line() {
        let conditions = [
            ok("", "identity"),
            ok("acme", "row"),
            ok("acme", "put"),
            ok("globex", "row"),
            failed("globex", "put"),
        ];
        check(
            &conditions,
            &Patient::Everyone,
            "ok                          identity  found\n\
             ok      acme                          every condition holds\n\
             ok      globex  cloudwatch  row       found\n\
             FAILED  globex  cloudwatch  put       not found\n\
             \x20        fix: make it\n",
        );
    }
}
