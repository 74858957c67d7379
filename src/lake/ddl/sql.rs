//! Prints the tables as statements for Athena. Tables are Hive's statements, with names in back-quotes; the view is Trino's, with
//! names in double quotes.

use super::{JSON, Stored, Table, Tables, partitions::Partition};

impl Tables {
    /// The statements that create the database, the tables and the view, in this order. Athena runs one statement at a time.
    pub fn statements(&self) -> Vec<String> {
        vec![
            format!("CREATE DATABASE IF NOT EXISTS `{}`", self.database),
            table(&self.database, &self.files),
            table(&self.database, &self.manifests),
            format!("CREATE OR REPLACE VIEW \"{}\".\"{}\" AS\n{}", self.database, self.view, self.select()),
        ]
    }

    /// The query of the view.
    pub(super) fn select(&self) -> String {
        let Self { database, files, manifests, .. } = self;
        let shown = self.shown.iter().map(|column| match column.value == format!("f.\"{}\"", column.name) {
            true => format!("  {}", column.value),
            false => format!("  {} AS \"{}\"", column.value, column.name),
        });
        let times: Vec<_> = manifests.partitions.iter().map(|Partition { name, .. }| name).collect();
        let time_columns: String = times.iter().map(|name| format!(", l.\"{name}\"")).collect();
        let same_times = |one: &str, other: &str, indent: &str| -> String {
            let same =
                times.iter().map(|name| format!("\n{indent}AND {one}.\"{name}\" = {other}.\"{name}\""));
            same.collect()
        };
        format!(
            "SELECT\n{}\n\
             FROM \"{database}\".\"{}\" f\n\
             LEFT JOIN (\n  \
               SELECT l.\"file\"{time_columns}, bool_or(b.\"file\" IS NULL) AS counts\n  \
               FROM \"{database}\".\"{manifests}\" l\n  \
               LEFT JOIN \"{database}\".\"{manifests}\" b\n    \
                 ON b.\"file\" = l.\"by\" AND b.\"state\" = 'merged'{}\n  \
               WHERE l.\"state\" IN ('replaced', 'merged')\n  \
               GROUP BY l.\"file\"{time_columns}\n\
             ) m\n  \
               ON m.\"file\" = f.\"$path\"{}\n\
             WHERE coalesce(m.counts, NOT regexp_like(f.\"$path\", '/{}[^/]*$'))",
            shown.collect::<Vec<_>>().join(",\n"),
            files.name,
            same_times("b", "l", "    "),
            same_times("m", "f", "  "),
            crate::lake::COMPACTED,
            manifests = manifests.name,
        )
    }
}

fn table(database: &str, table: &Table) -> String {
    let columns = table.columns.iter().map(|column| format!("  `{}` {}", column.name, column.kind.hive()));
    let partitions = table.partitions.iter();
    let partitions =
        partitions.map(|partition| format!("  `{}` {}", partition.name, partition.kind().hive()));
    let pairs = |pairs: Vec<(String, String)>| {
        let pairs = pairs.iter().map(|(name, value)| format!("  {} = {}", string(name), string(value)));
        pairs.collect::<Vec<_>>().join(",\n")
    };
    let stored = match table.stored {
        Stored::Parquet => "STORED AS PARQUET".to_owned(),
        Stored::Json => {
            let mappings = table.mappings();
            let mappings = match mappings.is_empty() {
                true => String::new(),
                false => format!("\nWITH SERDEPROPERTIES (\n{}\n)", pairs(mappings)),
            };
            format!("ROW FORMAT SERDE '{JSON}'{mappings}\nSTORED AS TEXTFILE")
        }
    };
    format!(
        "CREATE EXTERNAL TABLE IF NOT EXISTS `{database}`.`{}` (\n{}\n)\n\
         PARTITIONED BY (\n{}\n)\n\
         {stored}\n\
         LOCATION {}\n\
         TBLPROPERTIES (\n{}\n)",
        table.name,
        columns.collect::<Vec<_>>().join(",\n"),
        partitions.collect::<Vec<_>>().join(",\n"),
        string(&table.location),
        pairs(table.properties()),
    )
}

/// A text as Hive's string.
fn string(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
