//! The tables of a lake in Athena: the files, the manifests of the compaction, and a view that shows each record once. Pure.
//!
//! All three have projected partitions: Athena calculates a partition's folder from the table's properties, so nothing has to
//! register folders. [`Tables`] says what the tables are; `sql` prints them as statements for Athena, and `template` as resources
//! for CloudFormation.
//!
//! The view applies the reader's rule of [`manifest`](super::manifest). The view joins files and
//! manifests by all partitions of time, so a query for one hour reads the manifests of that hour alone.

mod columns;
mod partitions;
mod sql;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use self::{
    columns::{Column, Shown},
    partitions::Partition,
};
use crate::{
    name::MANIFESTS,
    tenant::{Bucket, Format, Lake},
};

/// The SerDe of JSON.
const JSON: &str = "org.openx.data.jsonserde.JsonSerDe";

/// Settings of the tables that a tenant's row does not have.
#[derive(Clone, Debug)]
pub struct Wishes {
    /// The database.
    pub database: String,
    /// Name of the view. Each table has this name and an ending.
    pub table: String,
    /// The first year of the partitions.
    pub since: i16,
    /// Values of partitions, by the partition's name.
    pub values: BTreeMap<String, Vec<String>>,
}

/// Why a lake cannot have such tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DdlError {
    /// A partition has the name of a column, and other values than the column.
    #[error(
        "the layout's partition {0:?} has the name of a column that has other values, and a table cannot have both; \
         give the partition another name"
    )]
    Hidden(String),
    /// Values for a partition that does not exist, or has its values already.
    #[error("--values {0}: the layout has no such partition whose values are unknown; it has {1}")]
    NoSuchPartition(String, String),
    /// The prefix cannot be part of a location template.
    #[error("bucket_prefix {0:?} has \"${{\", which Athena takes as the beginning of a partition's name")]
    Prefix(String),
}

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Milliseconds, UTC.
    Timestamp,
    Text,
    Integer,
    /// Vector's object `kubernetes`.
    Kubernetes,
}

impl Kind {
    /// The type's name in Hive, for tables.
    fn hive(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::Text => "string",
            Self::Integer => "int",
            Self::Kubernetes => {
                "struct<pod_name:string,pod_namespace:string,namespace_name:string,container_name:string,\
                 pod_node_name:string,host:string,pod_labels:map<string,string>>"
            }
        }
    }
}

/// The tables of one lake.
#[derive(Clone, Debug)]
pub struct Tables {
    database: String,
    /// The lake's files.
    files: Table,
    /// The manifests of the compaction.
    manifests: Table,
    /// Name of the view.
    view: String,
    shown: Vec<Shown>,
}

/// An external table.
#[derive(Clone, Debug)]
struct Table {
    name: String,
    stored: Stored,
    columns: Vec<Column>,
    partitions: Vec<Partition>,
    location: String,
    /// A partition's folder, with `${partition}` for values.
    folder: String,
}

/// Format of a table's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    Parquet,
    Json,
}

impl Tables {
    /// Describes the tables of the lake of a tenant's row.
    ///
    /// # Errors
    /// The layout, the prefix or the settings do not allow such tables.
    pub fn new(
        tenant_id: &str,
        destination: &Bucket,
        lake: &Lake,
        wishes: &Wishes,
    ) -> Result<Self, DdlError> {
        if destination.bucket_prefix.contains("${") {
            return Err(DdlError::Prefix(destination.bucket_prefix.clone()));
        }
        let base = format!("s3://{}/{}", destination.bucket_name, destination.bucket_prefix);
        let partitions = partitions::of(&lake.layout, tenant_id, wishes)?;
        let columns = columns::of(&lake.format, &partitions)?;
        let shown = columns::shown(&lake.format, &columns, &partitions);
        let times: Vec<_> = partitions.iter().filter(|partition| partition.is_time).cloned().collect();
        let of_manifests = ["file", "state", "by"];
        if let Some(hidden) = times.iter().find(|partition| of_manifests.contains(&partition.name.as_str())) {
            return Err(DdlError::Hidden(hidden.name.clone()));
        }
        let time_folders: String = times.iter().map(Partition::folder).collect();
        let files = Table {
            name: format!("{}_files", wishes.table),
            stored: match lake.format {
                Format::Ndjson(_) => Stored::Json,
                Format::Parquet(_) => Stored::Parquet,
            },
            columns,
            partitions,
            location: base.clone(),
            folder: base.clone() + &partitions::folders(&lake.layout),
        };
        let manifests = Table {
            name: format!("{}_manifests", wishes.table),
            stored: Stored::Json,
            columns: of_manifests.map(Column::text).into(),
            partitions: times,
            location: format!("{base}{MANIFESTS}/"),
            folder: format!("{base}{MANIFESTS}/{time_folders}"),
        };
        Ok(Self { database: wishes.database.clone(), files, manifests, view: wishes.table.clone(), shown })
    }
}

impl Table {
    /// The properties that turn partition projection on.
    fn properties(&self) -> Vec<(String, String)> {
        let mut properties = vec![("projection.enabled".to_owned(), "true".to_owned())];
        for partition in &self.partitions {
            for (name, value) in partition.projection.properties() {
                properties.push((format!("projection.{}.{name}", partition.name), value));
            }
        }
        properties.push(("storage.location.template".to_owned(), self.folder.clone()));
        properties
    }

    /// Names of JSON members that differ from their columns' names.
    fn mappings(&self) -> Vec<(String, String)> {
        let mapped = self.columns.iter().filter_map(|column| Some((column, column.member.clone()?)));
        mapped.map(|(column, member)| (format!("mapping.{}", column.name), member)).collect()
    }
}
