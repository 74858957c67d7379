//! `logferry lake`: prints the tables of a customer's lake, by [`crate::lake::ddl`].

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use super::{
    Refusal,
    show::Show,
    tenant::{CONCERNS, given_rows},
};
use crate::{
    app,
    config::Config,
    lake::ddl::{Tables, Wishes},
    tenant::{Bucket, Content, Contents, Delivery, Destination, Lake, Row, check_row},
};

const MORE: &str = "\
The database has two tables and a view: TABLE_files for the lake's files, TABLE_manifests for the compaction's manifests, and TABLE,
the view, which shows each record once. Queries are for the view. Athena calculates the partitions, so no crawler runs. The
statements change nothing that exists, except the view: to change a table, drop it and create it again; the files stay.

A query must name the values of a partition such as source={application}, with = or IN, unless --values lists them. A value that the
list lacks is not in the table. docs/lake.md has queries.

Exit codes: 0 done; 1 AWS refused or did not answer; 2 wrong usage; 64 the configuration cannot be used; 65 the row cannot be used, or
is no lake; 66 the tenant, row or file does not exist.";

#[derive(Debug, Args)]
pub(super) struct LakeArgs {
    #[command(subcommand)]
    command: LakeCommand,
}

#[derive(Debug, Subcommand)]
enum LakeCommand {
    /// Print the statements for Athena, or a template for CloudFormation, that create the tables of a lake.
    Ddl(DdlArgs),
}

#[derive(Debug, Args)]
#[command(after_help = MORE, group = ArgGroup::new("rows").args(["row", "tenant"]).required(true))]
struct DdlArgs {
    /// File with the row, or - for standard input; needs no access to AWS.
    #[arg(long, value_name = "FILE")]
    row: Option<PathBuf>,
    /// The tenant whose row of the tenant table is read.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// The row's type, if the tenant has several lakes: s3#lake
    #[arg(long = "type", value_name = "TYPE")]
    name: Option<String>,
    /// Name of the database.
    #[arg(long, value_name = "NAME", default_value = "logferry", value_parser = word)]
    database: String,
    /// Name of the view. The tables have this name with the endings _files and _manifests.
    #[arg(long, value_name = "NAME", default_value = "logs", value_parser = word)]
    table: String,
    /// Values of a partition: --values source=web,api. May be repeated for other partitions.
    #[arg(long, value_name = "PARTITION=VALUE,...", value_parser = values)]
    values: Vec<(String, Vec<String>)>,
    /// The first year that the tables have. Default: last year. A partition that is a year ends twenty years later.
    #[arg(long, value_name = "YEAR", value_parser = clap::value_parser!(i16).range(1970..=9000))]
    since: Option<i16>,
    /// What is printed.
    #[arg(long, value_name = "FORMAT", default_value = "sql")]
    format: DdlFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DdlFormat {
    /// Statements for Athena, which runs one at a time.
    Sql,
    /// The same statements as an array of strings.
    Json,
    /// A template.
    Cloudformation,
}

/// A name of a database or of a table. Athena's documentation allows lower-case letters, digits and underscores.
fn word(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match text.starts_with(|c: char| c.is_ascii_lowercase()) && text.len() <= 200 && text.chars().all(legal) {
        true => Ok(text.to_owned()),
        false => Err("must be lower-case letters, digits and underscores, a letter first".to_owned()),
    }
}

fn values(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, values) = text.split_once('=').ok_or("must be PARTITION=VALUE,...")?;
    let values: Vec<_> = values.split(',').map(str::to_owned).collect();
    if values.iter().any(String::is_empty) {
        return Err("has an empty value".to_owned());
    }
    Ok((name.to_owned(), values))
}

impl LakeArgs {
    /// Whether this command uses the configuration's field.
    pub(super) fn concerned_by(&self, field: &str) -> bool {
        let LakeCommand::Ddl(args) = &self.command;
        args.tenant.is_some() && CONCERNS.contains(&field)
    }
}

/// Runs the command and prints its result.
///
/// # Errors
/// [`Refusal`]: there is no such row, or its lake cannot have tables. Others: AWS refused the read.
pub(super) async fn execute(args: LakeArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let LakeCommand::Ddl(args) = args.command;
    let default_region = config.tenants.default_region.as_deref();
    let (rows, default_region) = match (&args.row, &args.tenant) {
        (Some(file), _) => {
            let rows = given_rows(file, config)?;
            (rows, default_region.map(str::to_owned))
        }
        (None, Some(tenant)) => {
            let table = app::tenant_rows(config).await?;
            let rows = table.of(tenant).await?.into_iter();
            let rows = rows.map(|(name, row)| (tenant.clone(), name, row)).collect();
            (rows, table.default_region().map(str::to_owned))
        }
        (None, None) => unreachable!("the command line has a row or a tenant"),
    };
    let delivery = lake_row(rows, &args, default_region.as_deref())?;
    let (destination, lake) = lake_of(&delivery).expect("a lake was chosen");
    let mut given = BTreeMap::<_, Vec<_>>::new();
    for (name, values) in &args.values {
        given.entry(name.clone()).or_default().extend(values.iter().cloned());
    }
    let wishes = Wishes {
        database: args.database,
        table: args.table,
        since: args.since.unwrap_or_else(|| Timestamp::now().to_zoned(TimeZone::UTC).year() - 1),
        values: given,
    };
    let tables = Tables::new(&delivery.tenant_id, destination, lake, &wishes)
        .map_err(|error| Refusal::Invalid(error.to_string()))?;
    let statements = tables.statements();
    let text = || statements.iter().map(|statement| format!("{statement};\n")).collect::<Vec<_>>().join("\n");
    match args.format {
        DdlFormat::Sql => Show::Text.result(text, Default::default)?,
        DdlFormat::Json => Show::Json.result(String::new, || json!(statements))?,
        DdlFormat::Cloudformation => Show::Json.result(String::new, || tables.template())?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn lake_of(delivery: &Delivery) -> Option<(&Bucket, &Lake)> {
    let Destination::S3(bucket) = &delivery.destination else { return None };
    let Contents::Lake(lake) = &bucket.contents else { return None };
    Some((bucket, lake))
}

/// Chooses the row of the lake.
///
/// # Errors
/// [`Refusal`]: no row, or more than one, is a lake; or the row cannot be used.
fn lake_row(
    rows: Vec<(String, String, Row)>,
    args: &DdlArgs,
    default_region: Option<&str>,
) -> Result<std::sync::Arc<Delivery>, Refusal> {
    let wanted = |name: &str| args.name.as_deref().is_none_or(|wanted| wanted == name);
    let rows: Vec<_> = rows.into_iter().filter(|(_, name, _)| wanted(name)).collect();
    if rows.is_empty() {
        let of_type = args.name.as_ref().map_or_else(String::new, |name| format!(" of type {name:?}"));
        let place = args.tenant.as_ref().map_or("the file has".to_owned(), |id| format!("tenant {id:?} has"));
        return Err(Refusal::NotFound(format!("{place} no row{of_type}")));
    }
    let (mut lakes, mut bad) = (Vec::new(), Vec::new());
    for (tenant_id, name, row) in &rows {
        match check_row(tenant_id, name, row, default_region) {
            Ok(Content::Delivery(delivery)) if lake_of(&delivery).is_some() => lakes.push(delivery),
            Ok(_) => {}
            Err(problem) => bad.push(problem.to_string()),
        }
    }
    match lakes.len() {
        1 => Ok(lakes.remove(0)),
        0 if !bad.is_empty() => Err(Refusal::Invalid(bad.join("; "))),
        0 => Err(Refusal::Invalid(
            "no row is a lake: a row of type s3 with format = \"ndjson\" or \"parquet\"".to_owned(),
        )),
        _ => {
            let names: Vec<_> =
                lakes.iter().map(|lake| format!("{} of {}", lake.name, lake.tenant_id)).collect();
            Err(Refusal::Usage(format!(
                "several rows are lakes: {}; choose one with --type",
                names.join(", ")
            )))
        }
    }
}
