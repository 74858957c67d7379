//! Holds the rule that the SDK's types stay inside the adapters.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where AWS may be named: the adapters, the composition root, and the demo, which stands outside the service.
const ADAPTERS: &[&str] = &[
    "app.rs",
    "app/commands.rs",
    "app/outbound.rs",
    "app/profile.rs",
    "app/readiness.rs",
    "aws.rs",
    "copy/s3.rs",
    "credentials/assumed.rs",
    "credentials/customers.rs",
    "credentials/identity.rs",
    "demo.rs",
    "ledger/dynamodb.rs",
    "ledger/dynamodb/entries.rs",
    "object/bucket.rs",
    "object/s3.rs",
    "quarantine/s3.rs",
    "queue/sqs.rs",
    "queue/sqs/attributes.rs",
    "queue/sqs/dead_letters.rs",
    "queue/sqs/sending.rs",
    "sink/cloudwatch.rs",
    "tenant/table.rs",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is readable");
    let paths = entries.map(|entry| entry.expect("the entry is readable").path());
    paths
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn the_sdk_stays_in_the_adapters() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for path in sources(&root) {
        let name = path.strip_prefix(&root).expect("it is below src").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("the file is readable");
        if ["aws_sdk_", "aws_smithy_", "aws_config", "aws_credential_types", "aws_runtime"]
            .iter()
            .any(|word| text.contains(word))
        {
            found.push(name);
        }
    }
    // An adapter's own tests stand beside it.
    let of_an_adapter = |name: &str| {
        let parent = name.strip_suffix("/tests.rs").map(|parent| format!("{parent}.rs"));
        parent.is_some_and(|parent| ADAPTERS.contains(&parent.as_str()))
    };
    found.retain(|name| !name.starts_with("demo/") && !of_an_adapter(name));
    found.sort();
    let strangers: Vec<_> = found.iter().filter(|name| !ADAPTERS.contains(&name.as_str())).collect();
    assert!(strangers.is_empty(), "these name the AWS SDK and are no adapters: {strangers:?}");
    assert!(
        found.len() + 1 >= ADAPTERS.len(),
        "an adapter without the SDK does not belong in the list: {found:?}"
    );
}

#[test]
fn pure_modules_do_no_input_or_output() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in ["event", "route", "decode", "records", "batch", "name", "verdict"] {
        let mut files = vec![root.join(format!("{module}.rs"))];
        if root.join(module).is_dir() {
            files.extend(sources(&root.join(module)));
        }
        for path in files {
            let text = fs::read_to_string(&path).expect("the file is readable");
            for word in [
                "tokio",
                "async ",
                "std::fs",
                "std::net",
                "SystemTime::now",
                "Timestamp::now",
                "Instant::now",
                "fastrand",
            ] {
                assert!(!text.contains(word), "{} has {word:?}, and is a pure module", path.display());
            }
        }
    }
}
