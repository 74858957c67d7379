//! `logferry cost`: shows what a month costs, by [`crate::cost`]. Needs no configuration and makes no call.

use std::{process::ExitCode, str::FromStr};

use clap::Args;
use indicatif::HumanCount;
use serde_json::json;

use super::{
    Refusal,
    show::{Show, columns},
};
use crate::cost::{Bill, Costs, Item, Prices, Workload, costs};

const MORE: &str = "\
The objects are what each pod writes in --batch-seconds, as Vector gathers them, unless --object-size sets their size. Calls and
CPU time per object are those that loadtest/RESULTS.md has measured. GB and TB of JSON are powers of ten; AWS's GB has 2^30 bytes.
In a running installation, `logferry_object_bytes_total{form=\"decompressed\"}` counts the JSON, and `logferry_event_bytes_total` what
CloudWatch Logs bills. docs/costs.md explains the items and what is left out.

Exit codes: 0 done; 2 wrong usage.";

#[derive(Debug, Args)]
#[command(after_help = MORE)]
pub(super) struct CostArgs {
    #[command(flatten)]
    workload: Workload,
    /// Use another price: --price logs-ingestion=0.25. May be repeated.
    #[arg(long, value_name = "NAME=USD", value_parser = price)]
    price: Vec<(String, f64)>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

fn price(text: &str) -> Result<(String, f64), String> {
    let (name, usd) = text.split_once('=').ok_or("must be NAME=USD")?;
    let usd = f64::from_str(usd).map_err(|error| error.to_string())?;
    if usd < 0.0 || !usd.is_finite() {
        return Err("must not be less than 0".to_owned());
    }
    Ok((name.to_owned(), usd))
}

/// Calculates and shows the costs.
///
/// # Errors
/// [`Refusal::Usage`]: the numbers do not fit together, or a price has no such name.
pub(super) fn execute(args: CostArgs) -> anyhow::Result<ExitCode> {
    let usage = |problem: String| anyhow::Error::from(Refusal::Usage(problem));
    let mut prices = Prices::default();
    for (name, usd) in &args.price {
        let Some(price) = prices.named(name) else {
            let names: Vec<_> = prices.all().iter().map(|price| price.name).collect();
            return Err(usage(format!(
                "--price: no price is called {name:?}; the names are {}",
                names.join(", ")
            )));
        };
        price.usd = *usd;
    }
    let Workload { record_bytes, object_bytes, message_share, .. } = args.workload;
    if record_bytes < 1.0 || object_bytes.is_some_and(|bytes| bytes < record_bytes) {
        return Err(usage("--object-size must not be less than --record-size, and neither 0".to_owned()));
    }
    if message_share > 1.0 {
        return Err(usage("--message-share must not be more than 1".to_owned()));
    }
    let costs = costs(args.workload, &prices);
    let show = if args.json { Show::Json } else { Show::Text };
    show.result(|| text(&costs), || json!(costs))?;
    Ok(ExitCode::SUCCESS)
}

fn text(costs: &Costs) -> String {
    let Costs { region, prices_of, workload, volume, ways } = costs;
    let tb = volume.json_gb / 1_000.0;
    let mut text = format!(
        "A month of 730 hours, in USD: list prices of {region} as of {prices_of}, without free tiers.\n\n\
         {} GB of JSON in {} objects of {}; {} events, {} GB as CloudWatch Logs bills them\n\
         {} PutLogEvents and {} writes to the ledger per object; {} hours of CPU in {} workers\n",
        whole(volume.json_gb),
        whole(volume.objects),
        size(volume.object_bytes),
        whole(volume.records),
        whole(volume.billed_gb),
        whole(volume.puts_per_object),
        whole(volume.ledger_writes_per_object),
        whole(volume.cpu_hours),
        whole(volume.workers),
    );
    for way in ways {
        text.push('\n');
        let mut lines = vec![[way.name.to_owned(), String::new(), String::new(), String::new()]];
        lines.extend(bill("provider", &way.provider));
        lines.push(row("  per TB of JSON", way.provider.usd / tb));
        lines.extend(bill("customers", &way.customers));
        lines.push(row("  per tenant", way.customers.usd / workload.tenants as f64));
        text.push_str(&columns(align(lines)));
    }
    text.push('\n');
    let header = ["Compared", "provider", "customers", "PutLogEvents/s", "AssumeRole/s"].map(str::to_owned);
    let lines = ways.iter().map(|way| {
        [
            way.name.to_owned(),
            grouped(way.provider.usd, 2),
            grouped(way.customers.usd, 2),
            grouped(way.puts_per_second, 1),
            grouped(way.assumes_per_second, 2),
        ]
    });
    text.push_str(&columns(align(std::iter::once(header).chain(lines).collect())));
    text
}

/// A bill's items, with the amount, the price with its name, and the sum.
fn bill(payer: &str, bill: &Bill) -> Vec<[String; 4]> {
    let item = |Item { name, amount, price, usd }: &Item| {
        let per = if price.per == 1.0 { String::new() } else { format!(" per {}", whole(price.per)) };
        [
            format!("  {name}"),
            format!("{} {}", few(*amount), price.unit),
            format!("{} {}{per}", price.name, price.usd),
            grouped(*usd, 2),
        ]
    };
    let total = row(&format!("  {payer}, total"), bill.usd);
    bill.items.iter().map(item).chain([total]).collect()
}

fn row(name: &str, usd: f64) -> [String; 4] {
    [name.to_owned(), String::new(), String::new(), grouped(usd, 2)]
}

/// Aligns all columns but the first to the right.
fn align<const N: usize>(mut lines: Vec<[String; N]>) -> Vec<[String; N]> {
    for column in 1..N {
        let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
        for line in &mut lines {
            line[column] = format!("{:>width$}", line[column]);
        }
    }
    lines
}

fn whole(number: f64) -> String {
    grouped(number, 0)
}

/// A number without decimals, unless it is small.
fn few(number: f64) -> String {
    grouped(number, if number < 10.0 && number.fract() != 0.0 { 2 } else { 0 })
}

/// A number with this many decimals, and commas between groups of three digits.
fn grouped(number: f64, decimals: usize) -> String {
    let text = format!("{number:.decimals$}");
    let (digits, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    HumanCount(digits.parse().unwrap_or(u64::MAX)).to_string() + rest
}

/// Bytes in kB or MB, with three digits or so.
fn size(bytes: f64) -> String {
    match bytes {
        ..1e4 => format!("{:.1} kB", bytes / 1e3),
        ..1e6 => format!("{:.0} kB", bytes / 1e3),
        ..1e7 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.0} MB", bytes / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, decimals, expected) in [
            (0.0, 2, "0.00"),
            (999.999, 2, "1,000.00"),
            (123.4, 0, "123"),
            (1_234.5, 1, "1,234.5"),
            (12_345_678.0, 0, "12,345,678"),
        ] {
            assert_eq!(grouped(number, decimals), expected);
        }
        assert_eq!([0.0, 0.125, 1.0, 9.5, 10.5].map(few), ["0", "0.12", "1", "9.50", "10"]);
        for (bytes, expected) in
            [(1_360.0, "1.4 kB"), (34_000.0, "34 kB"), (342_465.0, "342 kB"), (1e6, "1.0 MB"), (1e7, "10 MB")]
        {
            assert_eq!(size(bytes), expected);
        }
    }
}
