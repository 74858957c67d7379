//! `logferry tenant`: shows and changes the tenant table. Rows are validated as the worker does it.
//!
//! Results go to standard output, as a table or as JSON. Messages about what was done, warnings and errors go to standard
//! error.

mod entry;
mod file;

#[cfg(feature = "tools")]
use std::collections::BTreeMap;
use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Subcommand};
use serde_json::{Value, json};

#[cfg(feature = "tools")]
pub(super) use self::file::given_rows;
use self::{
    entry::{CheckedRow, Reading, table},
    file::read_entries,
};
use super::{
    Refusal,
    show::{Show, columns, printable},
};
use crate::{
    app,
    config::Config,
    tell::tell,
    tenant::{
        Attribute, SETTINGS,
        table::{Put, TenantRows},
    },
};

/// The configuration's fields that the tenant table needs.
pub(super) const CONCERNS: [&str; 5] = [
    "aws.region",
    "delivery.attempts",
    "delivery.attempt_timeout",
    "tenants.table",
    "tenants.default_region",
];

const MORE: &str = "\
Rows are JSON: one object or an array of objects, with the table's attributes as plain values
  {\"tenant_id\": \"acme\", \"type\": \"cloudwatch\", \"enabled\": true, \"desired_logs\": [\"web-*\"], ...}
or in DynamoDB's form ({\"tenant_id\": {\"S\": \"acme\"}, ...}). Workers remember rows for tenants.cache_ttl, so they see a
change within that time.

Exit codes: 0 done; 1 AWS refused or did not answer; 2 wrong usage; 64 the configuration cannot be used; 65 rows
cannot be used, and nothing was written; 66 the tenant, row or file does not exist.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct TenantArgs {
    #[command(subcommand)]
    command: TenantCommand,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Show every row of the table, and what is wrong with it.
    #[command(after_help = MORE)]
    List,
    /// Show all attributes of a tenant's rows.
    #[command(after_help = MORE)]
    Get {
        /// The tenant's id.
        tenant: String,
        /// Only this row.
        #[arg(long = "type", value_name = "TYPE")]
        name: Option<String>,
    },
    /// Write rows, replacing rows with the same key. Writes nothing unless the worker could use all of them. An existing row
    /// keeps its ttl, and its attributes that mean nothing to logferry, unless the new row sets them.
    #[command(after_help = MORE)]
    Put {
        /// File with rows, or - for standard input.
        file: PathBuf,
        /// Check the rows and show what would be written.
        #[arg(long)]
        dry_run: bool,
    },
    /// Check rows as the worker does. Writes nothing.
    #[command(after_help = MORE, group = ArgGroup::new("rows").args(["file", "table"]).required(true))]
    Validate {
        /// File with rows, or - for standard input; needs no access to AWS.
        file: Option<PathBuf>,
        /// Check every row of the table.
        #[arg(long)]
        table: bool,
    },
    /// Enable a delivery, if the worker can use its row.
    #[command(after_help = MORE)]
    Enable(DeliveryKey),
    /// Disable a delivery: its objects are acknowledged and counted, but not delivered.
    #[command(after_help = MORE)]
    Disable(DeliveryKey),
    /// Pause all deliveries of a tenant: its messages go to the dead-letter queue and can be moved back later.
    #[command(after_help = MORE)]
    Pause {
        /// The tenant's id.
        tenant: String,
    },
    /// End a tenant's pause.
    #[command(after_help = MORE)]
    Resume {
        /// The tenant's id.
        tenant: String,
    },
    /// Delete a row.
    #[command(after_help = MORE)]
    Delete {
        /// The tenant's id.
        tenant: String,
        /// The row's type.
        #[arg(long = "type", value_name = "TYPE")]
        name: String,
        /// Confirm the deletion.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct DeliveryKey {
    /// The tenant's id.
    tenant: String,
    /// The row's type, for example cloudwatch or s3#archive.
    #[arg(long = "type", value_name = "TYPE", value_parser = delivery_type)]
    name: String,
}

fn delivery_type(name: &str) -> Result<String, String> {
    match name {
        SETTINGS => Err("the settings row is not a delivery; use pause and resume to change it".to_owned()),
        name => Ok(name.to_owned()),
    }
}

impl TenantArgs {
    /// Whether this command uses the configuration's field.
    pub(super) fn concerned_by(&self, field: &str) -> bool {
        let offline = matches!(self.command, TenantCommand::Validate { table: false, .. });
        !offline && CONCERNS.contains(&field)
    }
}

/// Runs the command and prints its result.
///
/// # Errors
/// [`Refusal`], a [`Problem`](crate::config::Problem), or a call fails.
pub(super) async fn execute(args: TenantArgs, config: &Config) -> anyhow::Result<()> {
    let TenantArgs { command, json } = args;
    let show = if json { Show::Json } else { Show::Text };
    if let TenantCommand::Validate { file: Some(file), .. } = &command {
        let entries = read_entries(file, config)?;
        warn_of_misfits(&entries, config);
        return validated(show, &entries, None);
    }
    let rows = app::tenant_rows(config).await?;
    let seen = Seen(config.tenants.cache_ttl);
    match command {
        TenantCommand::List => list(show, &rows).await,
        TenantCommand::Get { tenant, name } => get(show, &rows, &tenant, name.as_deref()).await,
        TenantCommand::Put { file, dry_run } => {
            let entries = read_entries(&file, config)?;
            warn_of_misfits(&entries, config);
            match dry_run {
                true => would_put(show, &rows, &entries).await,
                false => put(show, &rows, &entries, seen).await,
            }
        }
        TenantCommand::Validate { .. } => {
            let entries = all(&rows).await?;
            warn_of_misfits(&entries, config);
            validated(show, &entries, Some(&paused(&entries)))
        }
        TenantCommand::Enable(key) => enable(show, &rows, &key, config).await,
        TenantCommand::Disable(key) => disable(show, &rows, &key, seen).await,
        TenantCommand::Pause { tenant } => pause(show, &rows, &tenant, seen).await,
        TenantCommand::Resume { tenant } => resume(show, &rows, &tenant, seen).await,
        TenantCommand::Delete { tenant, name, yes } => {
            if !yes {
                let what = format!("this deletes row {name:?} of tenant {tenant:?}; give --yes to confirm");
                return Err(Refusal::Usage(what).into());
            }
            delete(show, &rows, &tenant, &name, seen).await
        }
    }
}

/// Longest time until running workers see a change.
#[derive(Clone, Copy, Debug)]
struct Seen(Duration);

impl Seen {
    fn tell(self, what: &str) {
        tell!("logferry: {what}; running workers see the change within {:?} (tenants.cache_ttl)", self.0);
    }
}

/// The rows of the named tenants, or of all, by tenant.
#[cfg(feature = "tools")]
pub(super) async fn rows_of(
    rows: &TenantRows,
    tenants: &[String],
) -> anyhow::Result<BTreeMap<String, Vec<(String, crate::tenant::Row)>>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for tenant_id in tenants {
        found.insert(tenant_id.clone(), rows.of(tenant_id).await?);
    }
    if tenants.is_empty() {
        for (tenant_id, name, row) in rows.all().await? {
            found.entry(tenant_id).or_default().push((name, row));
        }
    }
    Ok(found)
}

async fn all(rows: &TenantRows) -> anyhow::Result<Vec<CheckedRow>> {
    let (all, reading) = (rows.all().await?, Reading::new(rows.default_region()));
    Ok(all.into_iter().map(|(tenant_id, name, row)| CheckedRow::new(tenant_id, name, row, reading)).collect())
}

/// Reads a tenant's rows. Fails if there are none.
async fn of(rows: &TenantRows, tenant_id: &str) -> anyhow::Result<Vec<CheckedRow>> {
    let found = rows.of(tenant_id).await?;
    if found.is_empty() {
        return Err(Refusal::NotFound(format!("tenant {tenant_id:?} has no row")).into());
    }
    let reading = Reading::new(rows.default_region());
    Ok(found
        .into_iter()
        .map(|(name, row)| CheckedRow::new(tenant_id.to_owned(), name, row, reading))
        .collect())
}

fn no_such_row(tenant_id: &str, name: &str) -> anyhow::Error {
    Refusal::NotFound(format!("tenant {tenant_id:?} has no row {name:?}")).into()
}

/// The tenants that their settings rows pause.
fn paused(entries: &[CheckedRow]) -> BTreeSet<String> {
    entries.iter().filter(|entry| entry.pauses()).map(|entry| entry.tenant_id.clone()).collect()
}

fn reports<'a>(
    entries: impl IntoIterator<Item = &'a CheckedRow>,
    paused: Option<&BTreeSet<String>>,
) -> Vec<Value> {
    let paused = |entry: &CheckedRow| paused.map(|paused| paused.contains(&entry.tenant_id));
    entries.into_iter().map(|entry| entry.report(paused(entry))).collect()
}

async fn list(show: Show, rows: &TenantRows) -> anyhow::Result<()> {
    let entries = all(rows).await?;
    let paused = paused(&entries);
    show.result(|| table(&entries, &paused), || reports(&entries, Some(&paused)).into())?;
    let bad = entries.iter().filter(|entry| !entry.is_valid()).count();
    if show == Show::Text && bad > 0 {
        tell!("logferry: {bad} of {} rows cannot be used", entries.len());
    }
    Ok(())
}

async fn get(show: Show, rows: &TenantRows, tenant_id: &str, name: Option<&str>) -> anyhow::Result<()> {
    let mut entries = of(rows, tenant_id).await?;
    let paused = paused(&entries);
    if let Some(name) = name {
        entries.retain(|entry| entry.name == *name);
        if entries.is_empty() {
            return Err(no_such_row(tenant_id, name));
        }
    }
    let text = || entries.iter().map(|entry| entry.details(&paused)).collect::<Vec<_>>().join("\n");
    show.result(text, || reports(&entries, Some(&paused)).into())
}

fn validated(show: Show, entries: &[CheckedRow], paused: Option<&BTreeSet<String>>) -> anyhow::Result<()> {
    let remarkable: Vec<_> =
        entries.iter().filter(|entry| !entry.is_valid() || !entry.unknown().is_empty()).collect();
    let text = || match remarkable.is_empty() {
        true => String::new(),
        false => table(remarkable.iter().copied(), paused.unwrap_or(&BTreeSet::new())),
    };
    show.result(text, || reports(entries, paused).into())?;
    usable(entries)?;
    tell!("logferry: {} can be used", count(entries.len()));
    Ok(())
}

fn count(rows: usize) -> String {
    if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") }
}

/// # Errors
/// A row cannot be used. The error says how many.
fn usable(entries: &[CheckedRow]) -> Result<(), Refusal> {
    let bad = entries.iter().filter(|entry| !entry.is_valid()).count();
    let problem = || Refusal::Invalid(format!("{bad} of {} cannot be used", count(entries.len())));
    if bad == 0 { Ok(()) } else { Err(problem()) }
}

/// Prints the rows that cannot be used, before rows are written.
///
/// # Errors
/// A row cannot be used.
fn refuse_unusable(show: Show, entries: &[CheckedRow]) -> anyhow::Result<()> {
    let Err(refusal) = usable(entries) else { return Ok(()) };
    let bad = entries.iter().filter(|entry| !entry.is_valid());
    show.result(|| table(bad, &BTreeSet::new()), || reports(entries, None).into())?;
    Err(Refusal::Invalid(format!("{refusal}; nothing was written")).into())
}

async fn put(show: Show, rows: &TenantRows, entries: &[CheckedRow], seen: Seen) -> anyhow::Result<()> {
    refuse_unusable(show, entries)?;
    warn_of_ignored(entries);
    let (mut done, mut failed) = (Vec::new(), None);
    for entry in entries {
        match rows.put(&entry.row).await {
            Ok(Put::Created) => done.push((entry, "created")),
            Ok(Put::Replaced) => done.push((entry, "replaced")),
            Err(error) => {
                let CheckedRow { tenant_id, name, .. } = entry;
                let place = format!("row {name:?} of tenant {tenant_id:?}, after {}", count(done.len()));
                failed = Some(anyhow::Error::new(error).context(place));
                break;
            }
        }
    }
    outcomes(show, &done)?;
    if !done.is_empty() {
        seen.tell(&format!("{} written", count(done.len())));
    }
    failed.map_or(Ok(()), Err)
}

async fn would_put(show: Show, rows: &TenantRows, entries: &[CheckedRow]) -> anyhow::Result<()> {
    refuse_unusable(show, entries)?;
    warn_of_ignored(entries);
    let mut would = Vec::new();
    for entry in entries {
        let present = rows.of(&entry.tenant_id).await?;
        let present = present.iter().find(|(name, _)| *name == entry.name);
        let outcome = match present {
            None => "would be created",
            Some((_, row)) if entry.is_there(row) => "is there already",
            Some(_) => "would be replaced",
        };
        would.push((entry, outcome));
    }
    outcomes(show, &would)
}

fn outcomes(show: Show, outcomes: &[(&CheckedRow, &str)]) -> anyhow::Result<()> {
    let text = || {
        let lines = outcomes
            .iter()
            .map(|(entry, outcome)| [printable(&entry.tenant_id), printable(&entry.name), (*outcome).into()]);
        columns(lines)
    };
    let json = || {
        let with_outcome = |(entry, outcome): &(&CheckedRow, &str)| {
            let mut report = entry.report(None);
            report["outcome"] = (*outcome).into();
            report
        };
        outcomes.iter().map(with_outcome).collect()
    };
    show.result(text, json)
}

fn warn_of_ignored(entries: &[CheckedRow]) {
    for entry in entries {
        let CheckedRow { tenant_id, name, .. } = entry;
        for field in entry.unknown() {
            tell!(
                "logferry: row {name:?} of tenant {tenant_id:?} has the attribute {field:?}, which means nothing to logferry"
            );
        }
        if entry.is_expired() {
            tell!(
                "logferry: row {name:?} of tenant {tenant_id:?} has a ttl that has passed: the worker ignores the row"
            );
        }
    }
}

/// Warns of rows that a worker with this configuration would refuse. Not an error, because the workers may have another
/// configuration.
fn warn_of_misfits(entries: &[CheckedRow], config: &Config) {
    let own_buckets = config.own_buckets();
    for bad in entries.iter().filter_map(|entry| entry.misfit(&own_buckets)) {
        tell!(
            "logferry: warning: {bad}: a worker with this configuration sends the tenant's messages to the dead-letter queue"
        );
    }
}

async fn enable(show: Show, rows: &TenantRows, key: &DeliveryKey, config: &Config) -> anyhow::Result<()> {
    let DeliveryKey { tenant, name } = key;
    let entries = of(rows, tenant).await?;
    let entry = entries.iter().find(|entry| entry.name == *name).ok_or_else(|| no_such_row(tenant, name))?;
    // An enabled row that cannot be used sends every message of its tenant to the dead-letter queue.
    let reading = Reading::new(rows.default_region());
    let enabled = entry.with("enabled", Attribute::Bool(true), reading);
    refuse_unusable(show, std::slice::from_ref(&enabled))?;
    warn_of_ignored(std::slice::from_ref(&enabled));
    warn_of_misfits(std::slice::from_ref(&enabled), config);
    if !rows.set_enabled(tenant, name, true).await? {
        return Err(no_such_row(tenant, name));
    }
    show.result(String::new, || json!({ "tenant_id": tenant, "type": name, "enabled": true }))?;
    Seen(config.tenants.cache_ttl).tell(&format!("row {name:?} of tenant {tenant:?} is enabled"));
    if paused(&entries).contains(tenant) {
        tell!("logferry: tenant {tenant:?} is still paused; `logferry tenant resume` ends the pause");
    }
    Ok(())
}

async fn disable(show: Show, rows: &TenantRows, key: &DeliveryKey, seen: Seen) -> anyhow::Result<()> {
    let DeliveryKey { tenant, name } = key;
    if !rows.set_enabled(tenant, name, false).await? {
        return Err(no_such_row(tenant, name));
    }
    show.result(String::new, || json!({ "tenant_id": tenant, "type": name, "enabled": false }))?;
    seen.tell(&format!("row {name:?} of tenant {tenant:?} is disabled"));
    Ok(())
}

async fn pause(show: Show, rows: &TenantRows, tenant: &str, seen: Seen) -> anyhow::Result<()> {
    // A pause writes a row, so a misspelt id would create a tenant.
    of(rows, tenant).await?;
    rows.pause(tenant).await?;
    show.result(String::new, || json!({ "tenant_id": tenant, "paused": true }))?;
    seen.tell(&format!("tenant {tenant:?} is paused"));
    Ok(())
}

async fn resume(show: Show, rows: &TenantRows, tenant: &str, seen: Seen) -> anyhow::Result<()> {
    of(rows, tenant).await?;
    let was_paused = rows.resume(tenant).await?;
    show.result(String::new, || json!({ "tenant_id": tenant, "paused": false }))?;
    if was_paused {
        seen.tell(&format!("tenant {tenant:?} is no longer paused"));
    } else {
        tell!("logferry: tenant {tenant:?} was not paused");
    }
    Ok(())
}

async fn delete(show: Show, rows: &TenantRows, tenant: &str, name: &str, seen: Seen) -> anyhow::Result<()> {
    if !rows.delete(tenant, name).await? {
        return Err(no_such_row(tenant, name));
    }
    show.result(String::new, || json!({ "tenant_id": tenant, "type": name, "deleted": true }))?;
    seen.tell(&format!("row {name:?} of tenant {tenant:?} is deleted"));
    let left = rows.of(tenant).await?;
    if left.iter().all(|(name, _)| name == SETTINGS) && !left.is_empty() {
        tell!(
            "logferry: only the settings row of tenant {tenant:?} is left: unless the tenant is paused, its messages are \
             acknowledged, as with a disabled delivery; if you delete that row too, the tenant is unknown"
        );
    }
    Ok(())
}
