//! Checks the rules between modules: the SDK's types stay inside the adapters, pure modules do no I/O, modules depend on each
//! other in one direction, and only four know the configuration.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
};

/// Where AWS may be named: the adapters, the composition root, and the demo, which stands outside the service.
const ADAPTERS: &[&str] = &[
    "app.rs",
    "app/clients.rs",
    "app/commands.rs",
    "app/outbound.rs",
    "app/profile.rs",
    "app/readiness.rs",
    "aws.rs",
    "aws/base.rs",
    "aws/calls.rs",
    "aws/direct.rs",
    "aws/direct/json.rs",
    "aws/direct/signature.rs",
    "aws/direct/testing.rs",
    "aws/subject.rs",
    "copy/s3.rs",
    "credentials/assumed.rs",
    "credentials/customers.rs",
    "credentials/identity.rs",
    "demo.rs",
    "lake/s3/compact.rs",
    "ledger/dynamodb.rs",
    "lake/s3.rs",
    "ledger/dynamodb/entries.rs",
    "ledger/dynamodb/together.rs",
    "ledger/dynamodb/watch.rs",
    "object/bucket.rs",
    "object/listing/s3.rs",
    "object/s3.rs",
    "quarantine/s3.rs",
    "queue/sqs.rs",
    "queue/sqs/attributes.rs",
    "queue/sqs/dead_letters.rs",
    "queue/sqs/direct.rs",
    "queue/sqs/lambda.rs",
    "queue/sqs/sending.rs",
    "shadow/cloudwatch.rs",
    "shadow/dynamodb.rs",
    "sink/cloudwatch.rs",
    "tenant/table.rs",
    "wiring.rs",
    "wiring/s3.rs",
    "wiring/sns.rs",
    "wiring/tables.rs",
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
        let name = path.strip_prefix(&root).expect("the file is below src").to_string_lossy().into_owned();
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

/// A client that is built in another way would have no interceptor, and its calls would be missing in the metrics.
#[test]
fn every_client_is_built_on_the_common_base() {
    let files = product();
    let found = |word: &str| -> Vec<&str> {
        let with = files.iter().filter(|(_, text)| {
            // `S3Client::new(` or the like is another type.
            text.match_indices(word).any(|(at, _)| !text[..at].ends_with(char::is_alphanumeric))
        });
        with.map(|(name, _)| name.as_str())
            .filter(|name| *name != "demo.rs" && !name.starts_with("demo/"))
            .collect()
    };
    assert_eq!(found("Client::new("), [""; 0]);
    assert_eq!(found("config::Builder::from("), ["aws/base.rs"]);
    assert!(found("Client::from_conf(").len() > 4, "clients are found");
}

#[test]
fn pure_modules_do_no_input_or_output() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in ["event", "route", "decode", "records", "batch", "name", "verdict", "lake/ddl"] {
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

/// The non-test files of `src/`: name below `src/`, and text without comments and `#[cfg(test)]` parts.
fn product() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("the file is below src").to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).expect("the file is readable"))
    };
    without_tests(sources(&root).into_iter().map(read).collect())
}

/// Removes test files, `#[cfg(test)]` items and comments.
fn without_tests(files: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut tests = Vec::new();
    let mut product = BTreeMap::new();
    for (name, text) in files {
        let (text, test_modules) = without_test_items(&text);
        let folder = name.strip_suffix(".rs").expect("a Rust file").to_owned();
        tests.extend(test_modules.into_iter().map(|module| format!("{folder}/{module}")));
        product.insert(name, text);
    }
    let is_test = |name: &str| {
        tests.iter().any(|test| name.strip_prefix(test).is_some_and(|rest| rest.starts_with(['.', '/'])))
    };
    product.retain(|name, _| !is_test(name));
    product
}

/// The text without comments and `#[cfg(test)]` items, and the names of the test modules that have their own files. Relies on
/// rustfmt's indentation: an item ends on its first line, or on the next line with the same indentation and a closing brace.
fn without_test_items(text: &str) -> (String, Vec<String>) {
    let (mut kept, mut modules) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        if code.trim() != "#[cfg(test)]" {
            kept.push_str(code);
            kept.push('\n');
            continue;
        }
        let is_attribute = |line: &&str| line.trim_start().starts_with("#[");
        let Some(first) = lines.find(|line| !is_attribute(line)) else { break };
        let item = first.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        if let Some(module) = item.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            modules.push(module.to_owned());
        }
        if !first.ends_with([';', ',', '}']) {
            let indentation = &first[..first.len() - first.trim_start().len()];
            let closing = format!("{indentation}}}");
            lines.find(|line| line.starts_with(&closing));
        }
    }
    (kept, modules)
}

/// The paths that a file names by `crate::` and `super::`, as paths from the root of the crate. A group gives several paths:
/// `crate::a::{b, c::D}` is `a::b` and `a::c::D`.
fn named_paths(name: &str, text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let starts = text.match_indices("crate::").chain(text.match_indices("super::"));
    for (at, start) in starts {
        // Skips `$crate::` of a macro, the end of a longer name, and the second `super::` of two.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | ':')) {
            continue;
        }
        let (mut base, mut path) = (Vec::new(), &text[at + start.len()..]);
        if start == "super::" {
            base = module_path(name);
            base.pop();
            while let Some(rest) = path.strip_prefix(start) {
                (path, _) = (rest, base.pop());
            }
        }
        expand(base, path, &mut found);
    }
    found
}

fn expand(mut base: Vec<String>, mut path: &str, found: &mut Vec<Vec<String>>) {
    if let Some(group) = path.strip_prefix('{') {
        return items(group).into_iter().for_each(|item| expand(base.clone(), item.trim_start(), found));
    }
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    path = &path[name.len()..];
    base.push(name);
    match path.strip_prefix("::") {
        Some(rest) => expand(base, rest, found),
        None => found.push(base),
    }
}

/// `a/b.rs` is the module `a::b`.
fn module_path(name: &str) -> Vec<String> {
    name.trim_end_matches(".rs").split('/').map(str::to_owned).collect()
}

/// The items of a `use` group, up to its closing brace.
fn items(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    items
}

/// For each module, the other modules that it names, each with a file that names it.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

/// The graph of the modules directly below `parent`; an empty `parent` is the crate's root. A submodule counts as its module.
fn graph(files: &BTreeMap<String, String>, parent: &[String]) -> Graph {
    let child = |path: &[String]| path.strip_prefix(parent)?.first().cloned();
    let mut graph: Graph =
        files.keys().filter_map(|name| Some((child(&module_path(name))?, BTreeMap::new()))).collect();
    for (name, text) in files {
        let Some(from) = child(&module_path(name)) else { continue };
        for to in named_paths(name, text).iter().filter_map(|path| child(path)) {
            if to != from && graph.contains_key(&to) {
                graph.entry(from.clone()).or_default().entry(to).or_insert_with(|| name.clone());
            }
        }
    }
    graph
}

/// A shortest cycle, as "a -> b (a/file.rs), b -> a (b.rs)".
fn cycle(graph: &Graph) -> Option<String> {
    let found = graph.keys().filter_map(|start| {
        let mut before: BTreeMap<&str, &str> = BTreeMap::new();
        let mut next = VecDeque::from([start.as_str()]);
        while let Some(from) = next.pop_front() {
            for to in graph.get(from).into_iter().flat_map(BTreeMap::keys) {
                if !before.contains_key(to.as_str()) {
                    before.insert(to, from);
                    next.push_back(to);
                }
            }
        }
        let mut path = VecDeque::from([start.as_str()]);
        loop {
            path.push_front(before.get(path[0])?);
            if path[0] == start {
                return Some(path);
            }
        }
    });
    let shortest = found.min_by_key(VecDeque::len)?;
    let arrow = |(from, to): (&&str, &&str)| format!("{from} -> {to} ({})", graph[*from][*to]);
    Some(shortest.iter().zip(shortest.iter().skip(1)).map(arrow).collect::<Vec<_>>().join(", "))
}

#[test]
fn modules_have_no_import_cycle() {
    let files = product();
    assert!(graph(&files, &[]).len() > 30, "the modules are found: {:?}", graph(&files, &[]).keys());
    // Checks the modules at the top of `src/`, and the submodules of each module.
    let parents = std::iter::once(Vec::new()).chain(files.keys().map(|name| module_path(name)));
    for parent in parents {
        if let Some(cycle) = cycle(&graph(&files, &parent)) {
            panic!("an import cycle in {:?}: {cycle}", parent.join("::"));
        }
    }
}

#[test]
fn only_app_cli_doctor_and_telemetry_know_the_configuration() {
    let allowed = ["app", "cli", "doctor", "telemetry"];
    let graph = graph(&product(), &[]);
    let found = graph.iter().filter_map(|(module, named)| Some((module.as_str(), named.get("config")?)));
    let strangers: Vec<_> = found.filter(|(module, _)| !allowed.contains(module)).collect();
    assert!(strangers.is_empty(), "these know the configuration: {strangers:?}");
}

#[test]
fn the_lowest_modules_know_only_each_other() {
    let graph = graph(&product(), &[]);
    let leaves: [(&str, &[&str]); 5] = [
        ("metrics", &[]),
        ("breaker", &[]),
        ("trace", &[]),
        ("recent", &["breaker"]),
        ("status", &["breaker"]),
    ];
    for (leaf, allowed) in leaves {
        let named: Vec<_> = graph[leaf].keys().collect();
        assert!(named.iter().all(|name| allowed.contains(&name.as_str())), "{leaf} knows {named:?}");
    }
}

fn files(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    without_tests(files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
}

#[test]
fn a_planted_cycle_is_spelled_out() {
    let check = |planted: &[(&str, &str)], expected: Option<&str>| {
        assert_eq!(cycle(&graph(&files(planted), &[])).as_deref(), expected, "{planted:?}");
    };
    let b = ("b.rs", "use crate::{\n    c::{x, a},\n    d,\n};\n");
    check(&[("a.rs", "use crate::b::x;\n"), b, ("c.rs", ""), ("d.rs", "")], None);
    let d = "fn f() {\n    crate::a::g()\n}\n";
    check(
        &[
            ("a.rs", "use crate::b::x;\n"),
            b,
            ("c.rs", "use super::d;\n"),
            ("d/e.rs", d),
            ("d.rs", "mod e;\n"),
        ],
        Some("a -> b (a.rs), b -> d (b.rs), d -> a (d/e.rs)"),
    );
    let c = "use super::super::a;\n";
    check(&[("a.rs", "use crate::b;\n"), ("b/c.rs", c)], Some("a -> b (a.rs), b -> a (b/c.rs)"));
    let siblings = files(&[
        ("a.rs", ""),
        ("a/b.rs", "use super::{c::{d, e}, X};\n"),
        ("a/c.rs", "use crate::a::b::Y;\n"),
    ]);
    let found = cycle(&graph(&siblings, &module_path("a.rs")));
    assert_eq!(found.as_deref(), Some("b -> c (a/b.rs), c -> b (a/c.rs)"));
    // Comments and tests may name modules above their own.
    for harmless in [
        "/// See [`crate::b`].\n",
        "#[cfg(test)]\nuse crate::{\n    b,\n};\n",
        "#[cfg(test)]\nmod tests {\n    use crate::b;\n\n    fn x() {}\n}\n",
        "impl X {\n    #[cfg(test)]\n    pub fn x() {\n        crate::b::y()\n    }\n}\n",
    ] {
        check(&[("a.rs", harmless), ("b.rs", "use crate::a;\n")], None);
    }
    check(
        &[("a.rs", "#[cfg(test)]\nmod x;\n"), ("a/x.rs", "use crate::b;\n"), ("b.rs", "use crate::a;\n")],
        None,
    );
    let after = "#[cfg(test)]\nmod x {\n}\nuse crate::b;\n";
    check(&[("a.rs", after), ("b.rs", "use crate::a;\n")], Some("a -> b (a.rs), b -> a (b.rs)"));
}
