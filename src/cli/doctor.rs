//! `logferry doctor`: what does not work, and what mends it. Checking is [`crate::doctor`]'s.

use std::{collections::BTreeSet, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};

use super::{
    EXIT_CONFIG, run_async,
    show::{Show, columns, printable},
};
use crate::{
    app,
    config::{Config, Problem},
    doctor::{Condition, Doctor, Finding, Patient},
};

/// The fields of the configuration that the provider's side needs beside those of the way to a tenant.
const WIRING: [&str; 10] = [
    "ledger.lease",
    "ledger.table",
    "queue.dead_letter_url",
    "quarantine.bucket",
    "queue.max_age",
    "queue.max_retry_delay",
    "queue.retry_delay",
    "queue.url",
    "queue.visibility_timeout",
    "source.buckets",
];
/// The fields that the way to a tenant needs.
const WAY: [&str; 9] = [
    "aws.region",
    "credentials.central_role_arn",
    "credentials.refresh_before",
    "credentials.session_duration",
    "delivery.attempts",
    "delivery.attempt_timeout",
    "queue.wait_time",
    "tenants.default_region",
    "tenants.table",
];

const MORE: &str = "\
Run it with the worker's configuration and as the worker's identity: it checks what that identity may do, with the worker's own
calls. Without --tenant or --all it checks the provider's side: the queue, its redrive policy and dead-letter queue, our
identity, the tenant table, the central role, the ledger, the buckets. With --tenant, the way to that tenant: the table, both roles with
everything that is sent along, the log group, a log stream, and a put. Of a delivery to S3, the role alone: a copy would leave an
object behind.

It takes no message out of a queue and stores no event: the one that it puts is 15 days old, which CloudWatch Logs accepts
and throws away (tooOldLogEventEndIndex). It leaves behind what the worker makes at its first delivery: the log group, if it was
missing and may be created, and an empty stream `logferry-doctor` (`logferry-doctor/probe` where the tenant's template has no
slash).

Exit codes: 0 every condition that was checked holds; 1 one does not; 2 wrong usage; 64 the configuration cannot be used.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct DoctorArgs {
    /// Check the way to this tenant.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// This delivery alone, by its row's type, even if it is disabled.
    #[arg(long, value_name = "TYPE", requires = "tenant")]
    delivery: Option<String>,
    /// The cluster to send as a session tag, where the row asks for those [default: none is sent].
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    cluster: String,
    /// Check the provider's side and every tenant that has an enabled delivery.
    #[arg(long, conflicts_with = "tenant")]
    all: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl DoctorArgs {
    /// Whether a problem of that field of the configuration is one of this command's.
    pub(super) fn concerned_by(&self, field: &str) -> bool {
        WAY.contains(&field) || (self.tenant.is_none() && WIRING.contains(&field))
    }
}

/// Checks what the arguments ask for and says what was found.
pub(super) fn run(args: DoctorArgs, config: &Config) -> ExitCode {
    match run_async(execute(args, config)) {
        Ok(healthy) if healthy => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("logferry: {error:#}");
            if error.is::<Problem>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// True if nothing failed.
async fn execute(args: DoctorArgs, config: &Config) -> anyhow::Result<bool> {
    let DoctorArgs { tenant, delivery, cluster, all, json } = args;
    let patient = match tenant {
        Some(tenant_id) => Patient::One { tenant_id, delivery },
        None if all => Patient::Everyone,
        None => Patient::Nobody,
    };
    let instruments = app::commands::instruments(config).await?;
    let conditions = Doctor::new(instruments, config, cluster).examine(&patient).await;
    let show = if json { Show::Json } else { Show::Text };
    show.result(|| text(&conditions, &patient), || report(&conditions))?;
    let count =
        |of: fn(&Finding) -> bool| conditions.iter().filter(|condition| of(&condition.finding)).count();
    let (failed, skipped) =
        (count(Finding::is_failure), count(|finding| matches!(finding, Finding::Skipped(_))));
    eprintln!("logferry: {} conditions: {failed} failed, {skipped} skipped", conditions.len());
    Ok(failed == 0)
}

fn report(conditions: &[Condition]) -> Value {
    let condition = |condition: &Condition| {
        let (state, detail, fix) = match &condition.finding {
            Finding::Ok(found) => ("ok", found, None),
            Finding::Failed { problem, fix } => ("failed", problem, Some(fix)),
            Finding::Skipped(why) => ("skipped", why, None),
        };
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

/// A line for each condition, and its fix below; of everyone, a line for each tenant with whom all is well.
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
        let (state, detail, fix) = match &condition.finding {
            Finding::Ok(found) => ("ok", found.as_str(), None),
            Finding::Failed { problem, fix } => ("FAILED", problem.as_str(), Some(fix)),
            Finding::Skipped(why) => ("skipped", why.as_str(), None),
        };
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

fn with_fixes(table: &str, fixes: &[Option<&String>]) -> String {
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
    fn a_fix_stands_below_what_failed() {
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
    fn of_everyone_the_healthy_have_a_line_each() {
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
