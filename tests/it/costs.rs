//! `logferry cost`, and the numbers of docs/costs.md.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use crate::{operator, worker::logferry};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn page() -> String {
    read("docs/costs.md")
}

/// Runs `logferry cost` without any variable.
#[track_caller]
fn cost(arguments: &[&str]) -> String {
    let ended = logferry(&[&["cost"], arguments].concat(), &[]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).expect("UTF-8")
}

/// Costs of 1 TB of JSON a day from 100 tenants, in objects of this size.
fn of_size(size: &str) -> Value {
    let size = size.replace(' ', "");
    let arguments =
        ["--gb-per-day", "1000", "--pods", "5000", "--tenants", "100", "--object-size", &size, "--json"];
    serde_json::from_str(&cost(&arguments)).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"))
}

/// The rows of a Markdown table below this heading, header included, without the line of dashes.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = page.split_once(&format!("\n{heading}\n")).expect("the page has the heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let lines = section.lines().filter(|line| line.starts_with("| "));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.filter(|line| !line.starts_with("| ---")).map(cells).collect()
}

#[test]
fn the_page_shows_what_the_command_prints() {
    let page = page();
    let mut shown = 0;
    for part in page.split("\n    $ logferry cost ").skip(1) {
        let mut lines = part.lines();
        let arguments: Vec<_> = lines.next().expect("a command").split_whitespace().collect();
        let block = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
        let block: Vec<_> = block.map(|line| line.trim_start_matches("    ")).collect();
        let printed = cost(&arguments);
        let printed: Vec<_> = printed.lines().map(str::trim_start).collect();
        let block: Vec<_> = block.iter().map(|line| line.trim_start()).collect();
        assert_eq!(block.join("\n").trim(), printed.join("\n").trim(), "{arguments:?}");
        shown += 1;
    }
    assert!(shown > 0, "the page has no command");
}

/// Each item per TB, in each size, as the page's table has it. No item is missing.
#[test]
fn the_page_has_each_item_per_tb() {
    let table = table(&page(), "## A TB of JSON by the size of the objects");
    let (header, rows) = table.split_first().expect("the table has a header");
    assert_eq!(header.join("|"), "Item|10 kB|100 kB|1 MB|10 MB");
    let mut expected: Vec<Vec<String>> = Vec::new();
    for (column, size) in header[1..].iter().enumerate() {
        let costs = of_size(size);
        let tb = number(&costs["volume"]["json_gb"]) / 1_000.0;
        let mut row = 0;
        let mut add = |name: String, usd: &Value| {
            if column == 0 {
                expected.push(vec![name]);
            }
            expected[row].push(format!("{:.2}", number(usd) / tb));
            row += 1;
        };
        let ways = costs["ways"].as_array().expect("an array");
        for item in ways[0]["provider"]["items"].as_array().expect("an array") {
            add(item["name"].as_str().expect("a name").to_owned(), &item["usd"]);
        }
        add("**Provider, total**".to_owned(), &ways[0]["provider"]["usd"]);
        for item in ways[0]["customers"]["items"].as_array().expect("an array") {
            add(item["name"].as_str().expect("a name").to_owned(), &item["usd"]);
        }
        add("**Customers, total**".to_owned(), &ways[0]["customers"]["usd"]);
        for way in &ways[1..] {
            for (payer, field) in [("provider", "provider"), ("customers", "customers")] {
                add(format!("{}: {payer}", way["name"].as_str().expect("a name")), &way[field]["usd"]);
            }
        }
    }
    let show = |rows: &[Vec<String>]| {
        rows.iter().map(|row| format!("| {} |", row.join(" | "))).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(show(rows), show(&expected), "the table should be:\n{}", show(&expected));
}

/// The measured numbers behind the calculation are those of loadtest/RESULTS.md, up to what machines differ by.
#[test]
fn calls_and_cpu_are_those_of_the_measurements() {
    let table = table(&read("loadtest/RESULTS.md"), "## Sizes of objects");
    let (header, rows) = table.split_first().expect("the table has a header");
    let rows: BTreeMap<_, _> = rows.iter().map(|row| (row[0].as_str(), row)).collect();
    for size in ["10 kB", "100 kB", "1 MB", "10 MB"] {
        let cell = |name: &str| -> f64 {
            let column = header.iter().position(|found| found == name).expect("the table has the column");
            rows[size][column].parse().expect("a number")
        };
        let volume = &of_size(size)["volume"];
        let calculated = |field: &str| number(&volume[field]);
        assert_eq!(calculated("puts_per_object"), cell("PutLogEvents per object"), "{size}");
        let measured = cell("MB of JSON") / cell("objects") / cell("MB per CPU s") * 1_000.0;
        let ratio = calculated("cpu_ms_per_object") / measured;
        assert!((0.75..1.25).contains(&ratio), "{size}: {measured} ms were measured; {ratio}");
    }
    let mix = self::table(&read("loadtest/RESULTS.md"), "## The mix: objects of 1 kB to 20 MB, 500 tenants");
    let of_sqs = mix.iter().filter(|row| row[0].starts_with("sqs:"));
    let measured: f64 = of_sqs.map(|row| row[1].parse::<f64>().expect("a number")).sum();
    let costs = of_size("100 kB");
    let items = costs["ways"][0]["provider"]["items"].as_array().expect("an array");
    let requests = items.iter().find(|item| item["name"] == "SQS requests").expect("the item");
    let requests = number(&requests["amount"]) / number(&costs["volume"]["objects"]);
    assert!((requests - measured).abs() < 0.05, "{measured} requests to SQS were measured; {requests}");
}

/// The page of lakes has the prices and the volume of the example in docs/costs.md.
#[test]
fn the_page_of_lakes_calculates_with_the_same_prices() {
    let table = table(&read("docs/lake.md"), "## When it pays");
    let (header, rows) = table.split_first().expect("the table has a header");
    let month = |size: &[&str]| -> Value {
        let example = ["--gb-per-day", "500", "--pods", "5000", "--tenants", "100", "--json"];
        serde_json::from_str(&cost(&[&example, size].concat())).expect("JSON")
    };
    let example = month(&[]);
    let item = |way: usize, payer: &str, name: &str| -> Value {
        let items = example["ways"][way][payer]["items"].as_array().expect("an array");
        items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("no item {name}")).clone()
    };
    let usd = |item: Value| number(&item["usd"]);
    let price = |name: &str| {
        let price = item(0, "provider", name)["price"].clone();
        number(&price["usd"]) / number(&price["per"])
    };
    let ingested = usd(item(0, "customers", "CloudWatch Logs ingestion"));
    let kept = usd(item(0, "customers", "CloudWatch Logs storage"));
    let mut columns = vec![[ingested, 0.0, kept, ingested + kept]];
    for size in [&[][..], &["--object-size", "1MB"], &["--object-size", "10MB"]] {
        let files = number(&month(size)["volume"]["objects"]) * 1.1;
        let (puts, gets) = (files * price("S3 PutObject"), files * price("S3 GetObject"));
        let storage = usd(item(2, "customers", "S3 storage"));
        columns.push([puts, gets, storage, puts + gets + storage]);
    }
    for (column, costs) in columns.iter().enumerate() {
        for (row, usd) in costs.iter().enumerate() {
            let expected = match usd {
                0.0 => "-".to_owned(),
                1_000.0.. => format!("{},{:06.2}", *usd as u64 / 1_000, usd % 1_000.0),
                usd => format!("{usd:.2}"),
            };
            let found = rows[row][column + 1].trim_matches('*');
            assert_eq!(found, expected, "{}: {}", header[column + 1], rows[row][0]);
        }
        let share = format!("{:.0} %", costs[3] / columns[0][3] * 100.0);
        assert_eq!(rows[4][column + 1], if column == 0 { "" } else { &share }, "{}", header[column + 1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_do_not_fit_are_refused() {
    let refused = async |further: &[&str], words: &str| {
        let arguments = [&["cost", "--gb-per-day", "1", "--pods", "1", "--tenants", "1"], further].concat();
        operator::run(&arguments, &BTreeMap::new()).await.with(2).saying(words);
    };
    refused(&["--price", "gold=1"], "no price is called \"gold\"; the names are s3-put, s3-get").await;
    refused(&["--price", "s3-put"], "must be NAME=USD").await;
    refused(&["--price", "s3-put=-1"], "must not be less than 0").await;
    refused(&["--object-size", "1kB"], "--object-size must not be less than --record-size").await;
    refused(&["--message-share", "1.5"], "--message-share must not be more than 1").await;
    refused(&["--batch-seconds", "0"], "must be more than 0").await;
    refused(&["--staging-days", "inf"], "must be more than 0").await;
    let ended =
        operator::run(&["cost", "--gb-per-day", "1", "--pods", "0", "--tenants", "1"], &BTreeMap::new())
            .await;
    ended.with(2).saying("--pods");
}

#[test]
fn a_price_can_be_replaced() {
    let arguments = ["--gb-per-day", "100", "--pods", "10", "--tenants", "1", "--json"];
    let with = |further: &[&str]| -> Value {
        serde_json::from_str(&cost(&[&arguments, further].concat())).expect("JSON")
    };
    let customers = |costs: &Value| number(&costs["ways"][0]["customers"]["items"][0]["usd"]);
    let (list, half) = (with(&[]), with(&["--price", "logs-ingestion=0.25"]));
    assert!((customers(&list) - 2.0 * customers(&half)).abs() < 1e-9, "{list} {half}");
    assert_eq!(list["ways"][0]["provider"], half["ways"][0]["provider"]);
}
