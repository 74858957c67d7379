//! The parts of commands that only the feature `tools` has. Building them makes no call to AWS yet.

use super::{
    addressing, central_role, commands::required, dynamodb_client, load_sdk, rows, session_settings,
};
use crate::{
    config::{Config, Problem},
    copy::s3::S3Copier,
    credentials::customers::{self, Customers},
    ledger::dynamodb::entries::LedgerEntries,
    shadow::{cloudwatch::LogReader, dynamodb::DynamoDbCounts},
    tenant::table::TenantRows,
};

/// The ledger's entries.
///
/// # Errors
/// There is no Region, or the configuration has no ledger: a [`Problem`].
pub async fn ledger_entries(config: &Config) -> anyhow::Result<LedgerEntries> {
    let table = of_ledger(config.ledger.table.clone())?;
    let base = load_sdk(config, "ledger", &["ledger.table"]).await?;
    Ok(LedgerEntries::new(dynamodb_client(&base), table))
}

/// A value of the ledger, unless the configuration has none.
pub(super) fn of_ledger<T>(value: Option<T>) -> Result<T, Problem> {
    required("ledger.table", "LOGFERRY_LEDGER__TABLE", value)
}

/// What `logferry shadow compare` reads.
#[derive(Debug)]
pub struct ShadowSources {
    /// The tenant table.
    pub rows: TenantRows,
    /// What shadow mode counted.
    pub counts: DynamoDbCounts,
    /// The customers' log groups.
    pub groups: LogReader,
}

/// What `logferry shadow compare` reads, with at most `rate` calls of FilterLogEvents per second.
///
/// # Errors
/// There is no Region, or the configuration has no table, no ledger or no central role: a [`Problem`] if the ledger is
/// missing.
pub async fn shadow_sources(config: &Config, rate: u16) -> anyhow::Result<ShadowSources> {
    let ledger = of_ledger(config.ledger.table.clone())?;
    let base = load_sdk(config, "shadow", &["tenants.table", "ledger.table"]).await?;
    let central = central_role(config, &base)?;
    let customers = Customers::new(&base, &central, session_settings(config), customers::Metrics::default());
    Ok(ShadowSources {
        rows: rows(config, &base)?,
        counts: DynamoDbCounts::new(dynamodb_client(&base), ledger, config.shadow.retention),
        groups: LogReader::new(&base, customers, rate),
    })
}

/// The tenant table and the customers' buckets, for `logferry compact`.
///
/// # Errors
/// There is no Region, or the configuration has no table or no central role.
pub async fn compaction(config: &Config) -> anyhow::Result<(TenantRows, S3Copier)> {
    let base = load_sdk(config, "compact", &["tenants.table"]).await?;
    let central = central_role(config, &base)?;
    let customers = Customers::new(&base, &central, session_settings(config), customers::Metrics::default());
    Ok((rows(config, &base)?, S3Copier::new(&base, addressing(config), customers, central)))
}
