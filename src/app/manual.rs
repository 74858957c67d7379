//! The pipelines of `logferry manual` and `logferry replay`. Building them makes no call to AWS yet.

use std::{collections::HashMap, sync::Arc};

use super::{
    clients::{load_sdk, s3_store},
    parts::{Parts, claim_settings},
    pipeline_settings, rows,
};
use crate::{
    aws::Base,
    config::Config,
    ledger::{
        Ledger,
        claim::{self, Claims},
        memory::MemoryLedger,
    },
    manual::{
        AnyPipeline, Item, Origin, Pipelines,
        dry_run::{GivenTenants, Lines},
        files::WithoutCopies,
    },
    object::{ObjectStore, file::FileStore},
    pipeline::{self, Buckets, Pipeline, PipelineSettings, Ports},
    quarantine::Quarantine,
    sink::LogSinks,
    status::Status,
    tenant::Directory,
};

/// The fields that name resources with a Region; see [`Config::elsewhere`].
const TABLES: [&str; 2] = ["tenants.table", "ledger.table"];

/// What a run does with its objects.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Delivers what the ledger does not have yet.
    Deliver,
    /// Delivers everything, without the ledger.
    DeliverAgain,
    /// Shows what would be delivered.
    Show {
        /// Takes what would be put.
        lines: Lines,
        /// Tenants of local files, and, if it has rows, of stored objects too.
        tenants: GivenTenants,
    },
}

/// Builds the pipelines that the items need. To show local files, nothing of AWS is needed.
///
/// # Errors
/// There is no Region, a table or role is missing, or a value cannot be used.
pub async fn pipelines(config: &Config, mode: &Mode, items: &[Item]) -> anyhow::Result<Pipelines> {
    let mut pipelines = Pipelines { stored: None, files: None };
    let mut files = HashMap::new();
    for item in items {
        if let Origin::File(path) = &item.origin {
            files.insert(item.object.key.clone(), path.clone());
        }
    }
    if files.len() < items.len() {
        let base = load_sdk(config, "manual", &TABLES).await?;
        pipelines.stored = Some(stored(config, &base, mode, |settings| settings)?);
    }
    if !files.is_empty() {
        pipelines.files = Some(local(config, mode, FileStore::new(files)).await?);
    }
    Ok(pipelines)
}

fn without_ledger<L: Ledger>(config: &Config) -> Claims<L> {
    Claims::new(None, claim_settings(config), claim::Metrics::default())
}

/// The pipeline for objects in S3, with settings that `change` modifies.
///
/// # Errors
/// A table or role is missing, or a value cannot be used.
pub(super) fn stored(
    config: &Config,
    base: &Base,
    mode: &Mode,
    change: impl FnOnce(PipelineSettings) -> PipelineSettings,
) -> anyhow::Result<Box<dyn AnyPipeline>> {
    let (lines, tenants) = match mode {
        Mode::Show { lines, tenants } => (lines, tenants),
        Mode::Deliver => {
            let Parts { ports, settings, .. } = Parts::build(config, base)?;
            return Ok(boxed(ports, change(settings)));
        }
        Mode::DeliverAgain => {
            let Parts { ports, settings, .. } = Parts::build(config, base)?;
            return Ok(boxed(Ports { claims: without_ledger(config), ..ports }, change(settings)));
        }
    };
    let store = s3_store(config, base);
    let settings = change(pipeline_settings(config)?);
    if tenants.rows.is_empty() {
        shown(store, rows(config, base)?, lines, settings, config)
    } else {
        shown(store, tenants.clone(), lines, settings, config)
    }
}

async fn local(config: &Config, mode: &Mode, store: FileStore) -> anyhow::Result<Box<dyn AnyPipeline>> {
    // A local file is in no bucket.
    let anywhere = |settings| PipelineSettings { buckets: HashMap::new(), ..settings };
    match mode {
        Mode::Show { lines, tenants } => {
            let settings = anywhere(pipeline_settings(config)?);
            shown(store, WithoutCopies(tenants.clone()), lines, settings, config)
        }
        Mode::Deliver | Mode::DeliverAgain => {
            let Parts { ports, settings, tenants, .. } =
                Parts::build(config, &load_sdk(config, "manual", &TABLES).await?)?;
            let Ports { sinks, copier, claims, quarantine, .. } = ports;
            let directory = WithoutCopies(tenants);
            Ok(boxed(Ports { store, directory, sinks, copier, claims, quarantine }, anywhere(settings)))
        }
    }
}

/// A pipeline that shows what it would deliver.
fn shown(
    store: impl ObjectStore,
    directory: impl Directory,
    lines: &Lines,
    settings: PipelineSettings,
    config: &Config,
) -> anyhow::Result<Box<dyn AnyPipeline>> {
    let quarantine = config.quarantine.bucket.as_ref().map(|_| Quarantine::without_files());
    let (sinks, copier, claims) = (lines.clone(), lines.clone(), without_ledger::<MemoryLedger>(config));
    Ok(boxed(Ports { store, directory, sinks, copier, claims, quarantine }, settings))
}

fn boxed<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger>(
    ports: Ports<O, D, S, C, L>,
    settings: PipelineSettings,
) -> Box<dyn AnyPipeline> {
    // A run shows neither metrics nor a status page: its outcome says everything.
    Box::new(Pipeline::new(ports, settings, pipeline::Metrics::default(), Arc::new(Status::new(0))))
}
