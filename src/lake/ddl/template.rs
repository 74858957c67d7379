//! Prints the tables as a template for CloudFormation, in JSON.

use serde_json::{Map, Value, json};

use super::{JSON, Kind, Stored, Table, Tables, partitions::Partition};

impl Tables {
    /// A template with the database, the tables and the view.
    pub fn template(&self) -> Value {
        json!({
            "AWSTemplateFormatVersion": "2010-09-09",
            "Description": format!("The tables of the lake {} for Athena", self.files.location),
            "Resources": {
                "LakeDatabase": {
                    "Type": "AWS::Glue::Database",
                    "Properties": {
                        "CatalogId": { "Ref": "AWS::AccountId" },
                        "DatabaseInput": { "Name": self.database },
                    },
                },
                "LakeFiles": resource(table(&self.files)),
                "LakeManifests": resource(table(&self.manifests)),
                "LakeView": resource(self.view()),
            },
        })
    }

    /// The view as Athena keeps it: its query, and the types of its columns.
    fn view(&self) -> Value {
        let columns: Vec<_> = self
            .shown
            .iter()
            .map(|column| json!({ "name": column.name, "type": presto(column.kind) }))
            .collect();
        let view = json!({
            "originalSql": self.select(),
            "catalog": "awsdatacatalog",
            "schema": self.database,
            "columns": columns,
        });
        let columns = self.shown.iter().map(|column| (column.name.as_str(), column.kind));
        json!({
            "Name": self.view,
            "TableType": "VIRTUAL_VIEW",
            "Parameters": { "presto_view": "true", "comment": "Presto View" },
            "PartitionKeys": [],
            "StorageDescriptor": { "Columns": glue(columns), "SerdeInfo": {} },
            "ViewOriginalText": {
                "Fn::Join": ["", ["/* Presto View: ", { "Fn::Base64": view.to_string() }, " */"]]
            },
            "ViewExpandedText": "/* Presto View */",
        })
    }
}

fn resource(table: Value) -> Value {
    json!({
        "Type": "AWS::Glue::Table",
        "Properties": {
            "CatalogId": { "Ref": "AWS::AccountId" },
            "DatabaseName": { "Ref": "LakeDatabase" },
            "TableInput": table,
        },
    })
}

fn table(table: &Table) -> Value {
    let (input, output, serde) = match table.stored {
        Stored::Parquet => (
            "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
            "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
            "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
        ),
        Stored::Json => (
            "org.apache.hadoop.mapred.TextInputFormat",
            "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
            JSON,
        ),
    };
    let text = |(name, value): (String, String)| (name, json!(value));
    let mut parameters: Map<_, _> = table.properties().into_iter().map(text).collect();
    parameters.insert("EXTERNAL".to_owned(), json!("TRUE"));
    let mappings: Map<_, _> = table.mappings().into_iter().map(text).collect();
    let partitions = table.partitions.iter();
    let partitions = partitions.map(|partition: &Partition| (partition.name.as_str(), partition.kind()));
    json!({
        "Name": table.name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": parameters,
        "PartitionKeys": glue(partitions),
        "StorageDescriptor": {
            "Columns": glue(table.columns.iter().map(|column| (column.name.as_str(), column.kind))),
            "Location": table.location,
            "InputFormat": input,
            "OutputFormat": output,
            "SerdeInfo": { "SerializationLibrary": serde, "Parameters": mappings },
        },
    })
}

/// Columns as Glue's API has them.
fn glue<'a>(columns: impl Iterator<Item = (&'a str, Kind)>) -> Vec<Value> {
    columns.map(|(name, kind)| json!({ "Name": name, "Type": kind.hive() })).collect()
}

/// The type's name in Trino.
fn presto(kind: Kind) -> &'static str {
    match kind {
        Kind::Timestamp => "timestamp(3)",
        Kind::Integer => "integer",
        Kind::Text => "varchar",
        Kind::Kubernetes => {
            "row(pod_name varchar, pod_namespace varchar, namespace_name varchar, container_name varchar, \
             pod_node_name varchar, host varchar, pod_labels map(varchar, varchar))"
        }
    }
}
