//! Delivers the objects that an operator names, one after another, and reports what became of each.
//!
//! This is the worker's own pipeline without a queue: `app` builds it, with the ports of AWS, with local files instead of
//! the staging bucket ([`files`]), or with ports that only show what would be delivered ([`dry_run`]). No verdict follows, and
//! nothing is retried: whoever runs the command decides.

pub mod dry_run;
pub mod files;
mod outcome;

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

pub use self::outcome::{FailureOutcome, ObjectOutcome, Outcome, State};
use crate::{
    event::ObjectRef,
    ledger::Ledger,
    object::ObjectStore,
    pipeline::{Buckets, MessageReport, Pipeline},
    sink::LogSinks,
    tenant::Directory,
    verdict::{Failed, Failure},
};

/// An object that an operator names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The object.
    pub object: ObjectRef,
    /// How the operator named it.
    pub origin: Origin,
}

/// How an operator named an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By an event of S3, which names the exact object.
    Event,
    /// By bucket and key, and perhaps a version.
    Url,
    /// By the path of a local file. The object's bucket is empty, and its key was given or taken from the path.
    File(PathBuf),
}

/// A pipeline with any ports.
#[async_trait::async_trait]
pub trait AnyPipeline: Send + Sync {
    /// See [`Pipeline::process_object`].
    async fn process_object(&self, object: &ObjectRef, stop: &CancellationToken) -> MessageReport;

    /// See [`Pipeline::current`].
    async fn current(&self, object: &ObjectRef) -> Result<ObjectRef, Failed>;

    /// Handles the object that a bucket and a key name now.
    async fn process_current(&self, object: &ObjectRef, stop: &CancellationToken) -> MessageReport {
        let found = tokio::select! {
            found = self.current(object) => found,
            () = stop.cancelled() => Err(Failed::of(object, None, None, Failure::Stopping)),
        };
        match found {
            Ok(object) => self.process_object(&object, stop).await,
            Err(failed) => MessageReport::from(failed),
        }
    }
}

#[async_trait::async_trait]
impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> AnyPipeline
    for Pipeline<O, D, S, C, L>
{
    async fn process_object(&self, object: &ObjectRef, stop: &CancellationToken) -> MessageReport {
        Pipeline::process_object(self, object, stop).await
    }

    async fn current(&self, object: &ObjectRef) -> Result<ObjectRef, Failed> {
        Pipeline::current(self, object).await
    }
}

/// The pipelines of one run. A run without an object of a kind does not use that kind's pipeline.
pub struct Pipelines {
    /// For objects in S3.
    pub stored: Option<Box<dyn AnyPipeline>>,
    /// For local files.
    pub files: Option<Box<dyn AnyPipeline>>,
}

/// Handles one object. Once `stop` is cancelled, the object in work ends early with a checkpoint in the ledger, and the
/// following ones fail at once.
pub async fn deliver(item: &Item, pipelines: &Pipelines, stop: &CancellationToken) -> MessageReport {
    let pipeline = match item.origin {
        Origin::Event | Origin::Url => &pipelines.stored,
        Origin::File(_) => &pipelines.files,
    };
    let pipeline = pipeline.as_deref().expect("the run has a pipeline for each kind of object that it has");
    match item.origin {
        Origin::Event => pipeline.process_object(&item.object, stop).await,
        Origin::Url | Origin::File(_) => pipeline.process_current(&item.object, stop).await,
    }
}
