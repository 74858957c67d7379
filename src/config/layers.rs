//! Builds a [`Config`] from its layers, defaults < file < environment < flags, and remembers the layer of each value.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::Config;

/// Environment variables with names of their own, and the fields that they set. The name of any other variable is `LOGFERRY_`
/// and the field's path.
const ALIASES: [(&str, &str); 7] = [
    ("AWS_REGION", "aws.region"),
    ("AWS_S3_USE_PATH_STYLE", "aws.s3_use_path_style"),
    ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", "credentials.central_role_arn"),
    ("MAX_BATCH_SIZE", "queue.max_messages"),
    ("RETRY_ATTEMPTS", "delivery.attempts"),
    ("SQS_QUEUE_URL", "queue.url"),
    ("TENANT_CONFIG_TABLE", "tenants.table"),
];
const PREFIX: &str = "LOGFERRY_";
/// Variables with the prefix that are not fields. `LOGFERRY_CONFIG` is the file's path.
const NOT_FIELDS: [&str; 1] = ["LOGFERRY_CONFIG"];

/// Layer of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The default.
    Default,
    /// The file.
    File(PathBuf),
    /// The environment variable of this name.
    Environment(String),
    /// A command-line flag.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A configuration, and the layer of each field that is set.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Layers by dotted path; a field that is absent has its default.
    pub origins: BTreeMap<String, Origin>,
}

impl Loaded {
    /// The layer of a field's value.
    pub fn origin(&self, field: &str) -> Origin {
        self.origins.get(field).cloned().unwrap_or(Origin::Default)
    }

    /// All fields that have a value: dotted path, and value in TOML.
    pub fn fields(&self) -> Vec<(String, String)> {
        let table = Table::try_from(&self.config).expect("a configuration is a table");
        leaves(&table).into_iter().map(|(path, value)| (path, value.to_string())).collect()
    }
}

/// All problems of all layers.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct LayerError(pub Vec<String>);

/// Reads all layers. `environment` is the complete environment, so that tests can pass their own; `flags` are pairs of field and
/// value, with values as in the environment.
///
/// # Errors
/// The file cannot be read or parsed, or a layer has an unknown field or a value of the wrong type. The error names each
/// problem with its layer. [`Config::validate`] checks the rules.
pub fn load(
    file: Option<PathBuf>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Loaded, LayerError> {
    let mut layers = Layers::default();
    if let Some(path) = file {
        layers.file(path);
    }
    let mut environment: Vec<_> = environment.into_iter().collect();
    environment.sort();
    // Aliases first: the field's own name is more explicit, so it overrides its alias. An empty alias counts as unset, as in
    // other programs that read such variables: deployment templates often leave them empty.
    for (name, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
        if let Some((_, field)) = ALIASES.iter().find(|(alias, _)| alias == name) {
            layers.set(field, value, Origin::Environment(name.clone()));
        }
    }
    for (name, value) in &environment {
        if let Some(path) = name.strip_prefix(PREFIX).filter(|_| !NOT_FIELDS.contains(&name.as_str())) {
            layers.set(&path.to_lowercase().replace("__", "."), value, Origin::Environment(name.clone()));
        }
    }
    for (field, value) in flags {
        layers.set(field, value, Origin::Flag);
    }
    layers.finish()
}

#[derive(Default)]
struct Layers {
    values: Table,
    origins: BTreeMap<String, Origin>,
    problems: Vec<String>,
}

impl Layers {
    fn file(&mut self, path: PathBuf) {
        let parsed = std::fs::read_to_string(&path)
            .map_err(|error| error.to_string())
            // Parsed twice: as a `Config` for errors that name the line, as a table for the merge.
            .and_then(|text| toml::from_str::<Config>(&text).map(|_| text).map_err(|error| error.to_string()))
            .and_then(|text| text.parse::<Table>().map_err(|error| error.to_string()));
        match parsed {
            Ok(table) => {
                let fields = leaves(&table).into_iter();
                self.origins.extend(fields.map(|(field, _)| (field, Origin::File(path.clone()))));
                self.values = table;
            }
            Err(error) => self.problems.push(format!("{}: {}", path.display(), error.trim_end())),
        }
    }

    /// Sets a field from text. The field's type decides whether `8` is a number or a string.
    fn set(&mut self, field: &str, text: &str, origin: Origin) {
        let literal =
            format!("value = {text}").parse::<Table>().ok().and_then(|mut table| table.remove("value"));
        let list = Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect());
        let string = Value::String(text.to_owned());
        // A string first: the name of a table may consist of digits, and must not become a number.
        let mut problem = String::new();
        for candidate in [Some(string), literal, Some(list)].into_iter().flatten() {
            let mut alone = Table::new();
            insert(&mut alone, field, candidate.clone());
            match Config::deserialize(alone) {
                Ok(_) => {
                    insert(&mut self.values, field, candidate);
                    self.origins.insert(field.to_owned(), origin);
                    return;
                }
                Err(error) if problem.is_empty() => problem = error.to_string(),
                Err(_) => {}
            }
        }
        self.problems
            .push(format!("{origin} = {text:?} (field {field}): {}", problem.trim_end().replace('\n', " ")));
    }

    fn finish(mut self) -> Result<Loaded, LayerError> {
        if self.problems.is_empty() {
            match Config::deserialize(self.values) {
                Ok(config) => return Ok(Loaded { config, origins: self.origins }),
                Err(error) => self.problems.push(error.to_string()),
            }
        }
        Err(LayerError(self.problems))
    }
}

fn insert(table: &mut Table, field: &str, value: Value) {
    match field.split_once('.') {
        None => {
            table.insert(field.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = table.entry(head).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// All values in the table that are not tables, with their dotted paths.
fn leaves(table: &Table) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                all.extend(leaves(inner).into_iter().map(|(path, value)| (format!("{key}.{path}"), value)));
            }
            _ => all.push((key.clone(), value)),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn load_from(pairs: &[(&str, &str)]) -> Result<Loaded, LayerError> {
        load(None, environment(pairs), &[])
    }

    #[test]
    fn the_shipped_file_shows_the_defaults() {
        let text = include_str!("../../config/logferry.toml");
        let shipped: Config = toml::from_str(text).expect("the shipped file parses");
        assert_eq!(shipped, Config::default());
        // The file has every field that has a default.
        let defaults = Table::try_from(Config::default()).expect("the default serialises");
        for (field, _) in leaves(&defaults) {
            let name = field.rsplit('.').next().expect("a path has a last part");
            assert!(
                text.lines().any(|line| line.starts_with(&format!("{name} = "))),
                "{field} is not in the file"
            );
        }
    }

    #[test]
    fn every_alias_reaches_its_field() {
        let loaded = load_from(&[
            ("AWS_REGION", "eu-central-1"),
            ("AWS_S3_USE_PATH_STYLE", "true"),
            ("CENTRAL_LOG_DISTRIBUTION_ROLE_ARN", "arn:aws:iam::111111111111:role/central"),
            ("MAX_BATCH_SIZE", "5"),
            ("RETRY_ATTEMPTS", "7"),
            ("SQS_QUEUE_URL", "http://127.0.0.1/q"),
            ("TENANT_CONFIG_TABLE", "12345"),
        ])
        .expect("all aliases are fields");
        let config = loaded.config;
        assert_eq!(config.aws.region.as_deref(), Some("eu-central-1"));
        assert!(config.aws.s3_use_path_style);
        assert_eq!(config.queue.max_messages, 5);
        assert_eq!(config.delivery.attempts, 7);
        assert_eq!(config.queue.url.as_deref(), Some("http://127.0.0.1/q"));
        assert_eq!(config.tenants.table.as_deref(), Some("12345"));
        assert_eq!(loaded.origins["tenants.table"], Origin::Environment("TENANT_CONFIG_TABLE".into()));
    }

    #[test]
    fn an_empty_alias_counts_as_unset() {
        let loaded = load_from(&[("AWS_REGION", ""), ("MAX_BATCH_SIZE", "")]).expect("both count as unset");
        assert_eq!(loaded.config, Config::default());
        load_from(&[("LOGFERRY_QUEUE__MAX_MESSAGES", "")]).expect_err("a field's own name was meant");
    }

    #[test]
    fn later_layers_win() {
        let file = std::env::temp_dir().join(format!("logferry-layers-{}.toml", std::process::id()));
        std::fs::write(
            &file,
            "[worker]\nconcurrency = 2\ngrace_period = \"5s\"\n[queue]\nmax_messages = 3\n",
        )
        .expect("the temporary directory is writable");
        let flags = [("worker.concurrency".to_owned(), "4".to_owned())];
        let pairs =
            environment(&[("LOGFERRY_WORKER__CONCURRENCY", "3"), ("LOGFERRY_QUEUE__MAX_MESSAGES", "4")]);
        let loaded = load(Some(file.clone()), pairs, &flags).expect("all layers are right");
        std::fs::remove_file(&file).expect("the file is there");
        assert_eq!(loaded.config.worker.concurrency, 4);
        assert_eq!(loaded.config.worker.grace_period, Duration::from_secs(5));
        assert_eq!(loaded.config.queue.max_messages, 4);
        assert_eq!(loaded.origin("worker.concurrency"), Origin::Flag);
        assert_eq!(loaded.origin("worker.grace_period"), Origin::File(file));
        assert_eq!(
            loaded.origin("queue.max_messages"),
            Origin::Environment("LOGFERRY_QUEUE__MAX_MESSAGES".into())
        );
        assert_eq!(loaded.origin("http.listen"), Origin::Default);
    }

    #[test]
    fn a_field_s_own_name_beats_its_alias() {
        let loaded = load_from(&[("LOGFERRY_QUEUE__MAX_MESSAGES", "2"), ("MAX_BATCH_SIZE", "9")])
            .expect("both are numbers");
        assert_eq!(loaded.config.queue.max_messages, 2);
    }

    #[test]
    fn lists_and_literals_are_read() {
        let loaded =
            load_from(&[("LOGFERRY_SOURCE__BUCKETS", "a-bucket, b-bucket=111111111111")]).expect("a list");
        assert_eq!(loaded.config.source.buckets, ["a-bucket", "b-bucket=111111111111"]);
        let loaded = load_from(&[("LOGFERRY_SOURCE__BUCKETS", "[\"c-bucket\"]")]).expect("a literal");
        assert_eq!(loaded.config.source.buckets, ["c-bucket"]);
    }

    #[test]
    fn errors_name_the_variable_and_are_reported_together() {
        let error = load_from(&[("LOGFERRY_QUEUE__MAX_MESAGES", "2"), ("RETRY_ATTEMPTS", "many")])
            .expect_err("neither variable is right")
            .to_string();
        assert!(error.contains("LOGFERRY_QUEUE__MAX_MESAGES"), "{error}");
        assert!(error.contains("RETRY_ATTEMPTS") && error.contains("delivery.attempts"), "{error}");
    }
}
