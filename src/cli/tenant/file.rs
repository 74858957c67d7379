//! Reads files with rows.

use std::{io, path::Path};

use super::entry::{self, CheckedRow, Reading};
use crate::{cli::Refusal, config::Config};

/// Tenant, `type` and attributes of each row of a file. Rows that a worker cannot use are among them.
///
/// # Errors
/// The file cannot be read, or does not hold rows.
#[cfg(feature = "tools")]
pub(in crate::cli) fn given_rows(
    file: &Path,
    config: &Config,
) -> Result<Vec<(String, String, crate::tenant::Row)>, Refusal> {
    let entries = read_entries(file, config)?;
    let of = |entry: CheckedRow| (entry.tenant_id, entry.name, entry.row);
    Ok(entries.into_iter().map(of).collect())
}

/// Reads the rows of a file, or of standard input if its name is -.
///
/// # Errors
/// The file cannot be read, or does not hold rows.
pub(super) fn read_entries(file: &Path, config: &Config) -> Result<Vec<CheckedRow>, Refusal> {
    let (name, read) = match file.to_str() {
        Some("-") => ("standard input".to_owned(), io::read_to_string(io::stdin())),
        _ => (file.display().to_string(), std::fs::read_to_string(file)),
    };
    let text = read.map_err(|error| Refusal::NotFound(format!("{name} cannot be read: {error}")))?;
    let reading = Reading::new(config.tenants.default_region.as_deref());
    entry::parse(&text, reading).map_err(|problem| Refusal::Invalid(format!("{name}: {problem}")))
}
