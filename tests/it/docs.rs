//! The pages of the repository: no link is broken, the tests that design pages name exist, and `docs/metrics.md` names every
//! metric of a worker.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::setup::Setup;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files with that extension, except build output and hidden files.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is readable");
    let paths = entries.map(|entry| entry.expect("the entry is readable").path());
    paths
        .filter(|path| {
            let name = path.file_name().expect("it is an entry").to_string_lossy();
            !name.starts_with('.') && name != "target"
        })
        .flat_map(|path| if path.is_dir() { files(&path, extension) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the file is readable")
}

/// The text between each `open` and the next `close`.
fn between<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let legal = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading
        .trim_matches(['#', ' '])
        .to_lowercase()
        .chars()
        .filter(legal)
        .collect::<String>()
        .replace(' ', "-")
}

#[test]
fn no_link_is_broken() {
    let mut broken = Vec::new();
    for page in files(root(), "md") {
        let text = read(&page);
        for target in between(&text, "](", ")").filter(|target| !target.contains("://")) {
            let (file, place) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let found = path.exists()
                && (place.is_empty()
                    || read(&path).lines().any(|line| line.starts_with('#') && anchor(line) == place));
            if !found {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_test_that_a_design_page_names_exists() {
    let code: String = ["src", "tests", "crates", "loadtest"]
        .iter()
        .flat_map(|folder| files(&root().join(folder), "rs"))
        .map(|path| read(&path))
        .collect();
    for page in files(&root().join("docs/design"), "md") {
        let text = read(&page) + "\n\n";
        for names in between(&text, "Held by:", "\n\n") {
            let quoted = names.split('`').skip(1).step_by(2);
            for name in quoted.filter(|name| !name.contains(['/', ' ', '.'])) {
                assert!(code.contains(&format!("fn {name}(")), "{}: no test is named {name}", page.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_a_worker_is_on_its_page() {
    let page = read(&root().join("docs/metrics.md"));
    let documented: BTreeSet<_> =
        between(&page, "| `logferry_", "`").map(|name| name.split('{').next().unwrap_or_default()).collect();
    let registry = read(&root().join("src/app/metrics.rs"));
    let (_, expected) = registry.split_once("let expected = [").expect("a test lists all metrics");
    let expected = expected.split(']').next().unwrap_or_default();
    let is_name = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let metrics: BTreeSet<_> = between(expected, "\"", " ").filter(is_name).collect();
    let on_page: BTreeSet<_> = documented.iter().map(|name| name.trim_end_matches("_total")).collect();
    assert_eq!(metrics, on_page, "docs/metrics.md names exactly the metrics that a worker registers");
    let code: String = files(&root().join("src"), "rs").iter().map(|path| read(path)).collect();
    for name in &documented {
        let registered = name.trim_end_matches("_total").trim_end_matches("_seconds");
        assert!(code.contains(&format!("\"{registered}\"")), "nothing in src registers {registered:?}");
    }
    let setup = Setup::new("docs").await;
    setup.customer("acme").await;
    let worker = setup.worker().await;
    setup.upload("acme/prod-1/web/web-0/1.json", r#"[{"message":"m"}]"#).await;
    setup.acknowledged(&worker, 1).await;
    let (_, samples) = worker.http_get("/metrics").await.expect("the endpoint answers");
    for sample in samples.lines().filter(|line| !line.starts_with('#')) {
        let name = sample.split(['{', ' ']).next().unwrap_or_default();
        let name =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        let name = name.strip_prefix("logferry_").expect("every metric has the prefix");
        assert!(documented.contains(name), "docs/metrics.md does not name {name}");
    }
}
