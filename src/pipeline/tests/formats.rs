//! Objects of every format: through the whole path, and again after a part of them was put.

use proptest::prelude::*;

use super::*;
use crate::{
    records::RecordFormat,
    route::{Rule, RuleValues, Rules},
};

/// An object's text, and its events in order, as a reader of the whole text finds them.
struct Sample {
    name: &'static str,
    text: String,
    events: Vec<(i64, String)>,
    /// Records that make no event.
    skipped: u64,
}

fn modified() -> i64 {
    MODIFIED.parse::<Timestamp>().expect("a timestamp").as_millisecond()
}

/// `count` events of each format; `message` makes an event's text.
fn samples(count: usize, message: impl Fn(usize) -> String) -> Vec<Sample> {
    // Two seconds back and forth, so that batches must be put in order of time.
    let second = |index: usize| 1_795_248_000 + i64::try_from(index % 3).expect("it is small");
    let at = |index| Timestamp::from_second(second(index)).expect("a time");
    let numbers = || 0..count;
    let with_times = |texts: &[String]| {
        texts.iter().enumerate().map(|(index, text)| (1000 * second(index), text.clone())).collect::<Vec<_>>()
    };
    let trail: Vec<_> = numbers()
        .map(|index| json!({ "eventVersion": "1.11", "eventTime": at(index).to_string(), "requestParameters": message(index) }).to_string())
        .collect();
    let events: Vec<_> = numbers()
        .map(|index| {
            json!({ "version": "0", "id": "7", "detail-type": "Config Rules Compliance Change", "source": "aws.config",
                "account": "111111111111", "time": at(index).to_string(), "region": "eu-central-1", "resources": [],
                "detail": message(index) })
            .to_string()
        })
        .collect();
    let messages: Vec<_> = numbers().map(&message).collect();
    let documents = messages.chunks(3).enumerate().map(|(document, messages)| {
        let events = messages.iter().enumerate().map(|(at, message)| {
            json!({ "id": "1", "timestamp": 1000 * second(3 * document + at), "message": message })
        });
        let events = Value::Array(events.collect()).to_string();
        let stream = format!("i-{}", document % 2);
        format!(r#"{{"messageType":"DATA_MESSAGE","owner":"111111111111","logGroup":"g","logStream":"{stream}","subscriptionFilters":["f"],"logEvents":{events}}}"#)
    });
    let control = r#"{"messageType":"CONTROL_MESSAGE","owner":"CloudwatchLogs","logGroup":"","logStream":"","subscriptionFilters":[],"logEvents":[{"id":"","timestamp":1795248000000,"message":"CWL CONTROL MESSAGE: Checking health of destination Firehose."}]}"#;
    let flows: Vec<_> = numbers()
        .map(|index| {
            format!(
                "2 111111111111 eni-{index} 192.0.2.1 192.0.2.2 49152 443 6 10 840 1795247000 {} ACCEPT OK",
                second(index)
            )
        })
        .collect();
    let head = "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status";
    let lines: Vec<_> =
        numbers().map(|index| format!("{index} {}", message(index).replace(['\n', '\r'], " "))).collect();
    let object = |texts: &[String]| texts.iter().map(|text| (modified(), text.clone())).collect::<Vec<_>>();
    let directives = "#Version: 1.0\n#Fields: date time x-edge-location";
    vec![
        Sample {
            name: "trail",
            text: format!(r#"{{"Records":[{}]}}"#, trail.join(",")),
            events: with_times(&trail),
            skipped: 0,
        },
        Sample {
            name: "subscription",
            text: control.to_owned() + &documents.collect::<String>(),
            events: with_times(&messages),
            skipped: 1,
        },
        Sample { name: "eventbridge", text: events.concat(), events: with_times(&events), skipped: 0 },
        Sample {
            name: "flow logs",
            text: format!("{head}\n{}\n", flows.join("\n")),
            events: with_times(&flows),
            skipped: 1,
        },
        Sample { name: "lines", text: lines.join("\r\n"), events: object(&lines), skipped: 0 },
        Sample {
            name: "cloudfront",
            text: format!("{directives}\n{}\n", lines.join("\n")),
            events: object(&lines),
            skipped: 2,
        },
    ]
}

/// The events of a delivery in the order of the object. Batches are put in that order, and events within a batch in the order of
/// time.
fn sorted(mut events: Vec<(i64, String)>) -> Vec<(i64, String)> {
    events.sort();
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Compares the events in the account with the events of a whole-file reader. Control characters are rare in the messages:
    /// in a line that consists mostly of them they are replaced.
    #[test]
    fn every_format_gives_what_a_whole_file_reader_gives(
        count in 1_usize..20, message in "[ -~é😀]{3,40}[\t\u{1b}]?[ -~é😀]{3,20}", long in 1_usize..1500, compressed in any::<bool>(),
        chunk in prop_oneof![1_usize..20, 1000_usize..100_000],
    ) {
        for sample in samples(count, |index| format!("{}{index}", message.repeat(if index % 7 == 3 { long } else { 1 }))) {
            let text = sample.text.as_bytes();
            let bytes = if compressed { gzip(text) } else { text.to_vec() };
            let chunk = chunk.max(bytes.len() / 3000);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
            runtime.expect("a runtime").block_on(async {
                let mut world = World::new();
                (world.settings.max_object, world.settings.max_stored) = (64 << 20, 64 << 20);
                world.put(KEY, object(bytes).in_chunks(chunk));
                let (report, verdict) = world.process(&event(&[KEY])).await;
                assert_eq!(verdict, Verdict::Ack, "{}: {:?}", sample.name, report.failures);
                assert_eq!(sorted(world.sinks.events(ACME, GROUP)), sorted(sample.events), "{}", sample.name);
                let tally = report.delivered[0].tally;
                assert_eq!((tally.skipped, tally.undated, tally.mended), (sample.skipped, 0, 0), "{}", sample.name);
                assert_eq!(tally.read, tally.accounted());
            });
        }
    }
}

/// The position in the ledger counts records of every format alike.
#[tokio::test(start_paused = true)]
async fn an_object_of_every_format_goes_on_where_it_stopped() {
    for sample in samples(7, |index| format!("text {index}")) {
        for failing in 1..=7 {
            let settings = PipelineSettings { max_batch_events: 1, ..World::new().settings };
            let world = World { ledger: Some(MemoryLedger::new(LEASE)), settings, ..World::new() };
            world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
            world.put(KEY, object(gzip(sample.text.as_bytes())));
            world.sinks.fail(SinkOperation::Put, failing, throttled());
            assert!(is_retry(&world.handle(&event(&[KEY])).await), "{} {failing}", sample.name);
            assert_eq!(
                world.sinks.events(ACME, GROUP),
                sample.events[..failing - 1],
                "{} {failing}",
                sample.name
            );
            assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack, "{} {failing}", sample.name);
            assert_eq!(world.sinks.events(ACME, GROUP), sample.events, "{} {failing}", sample.name);
            shows(&world, "logferry_records_total{outcome=\"accepted\"} 7");
            shows(&world, "logferry_records_unaccounted_total 0");
        }
    }
}

/// Documents of a subscription keep their log streams, also when the object comes again.
#[tokio::test(start_paused = true)]
async fn records_go_into_the_streams_that_they_come_from() {
    let sample = samples(12, |index| format!("text {index}")).remove(1);
    for failing in [None, Some(1), Some(2), Some(3), Some(4)] {
        let world = World { ledger: Some(MemoryLedger::new(LEASE)), ..World::new() };
        world.tenant(
            "acme",
            [("cloudwatch", with(row(ACME), "log_stream_name", text("{application}/{log_stream}")))],
        );
        world.sinks.create(ACME, GROUP, &["web/i-0", "web/i-1"]);
        world.put(KEY, object(gzip(sample.text.as_bytes())));
        if let Some(failing) = failing {
            world.sinks.fail(SinkOperation::Put, failing, throttled());
            assert!(is_retry(&world.handle(&event(&[KEY])).await));
        }
        assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
        assert_eq!(sorted(world.sinks.events(ACME, GROUP)), sorted(sample.events.clone()));
        let puts = world.sinks.calls().into_iter().filter_map(|call| match call {
            SinkCall::Put(stream, messages, _) => Some((stream, messages)),
            _ => None,
        });
        let mut puts: Vec<_> = puts.collect();
        if let Some(failing) = failing {
            assert_eq!(puts.remove(failing - 1).0, puts[failing - 1].0, "the same batch again");
        }
        let expected = [0, 3, 6, 9].map(|first| {
            let messages = (first..first + 3).map(|index| format!("text {index}")).collect::<Vec<_>>();
            (format!("web/i-{}", first / 3 % 2), messages)
        });
        assert_eq!(puts, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn rules_choose_the_layout_and_the_format() {
    let mut world = World::new();
    let rules = [
        RuleValues {
            keys: "flows/**/*.log",
            tenant: Some("acme"),
            application: Some("flows"),
            format: RecordFormat::Lines(Some("%s".parse().expect("a format"))),
            ..RuleValues::default()
        },
        RuleValues {
            keys: "json/",
            layout: Some("json/{tenant}/*/{file}"),
            format: RecordFormat::Json,
            ..RuleValues::default()
        },
    ];
    let rules = rules.map(|values| Rule::new(values).expect("the rule is right"));
    world.settings.key_rules =
        Rules::new(rules.into(), KeyLayout::parse(KeyLayout::DEFAULT).expect("it is right"));
    world.put("flows/2026/11/1.log", object(b"{\"at\":1795248001}\n".to_vec()));
    world.put("json/globex/x/1", object(b"not json".to_vec()));
    world.put(KEY, object(b"not json".to_vec()));
    let (report, _) = world.process(&event(&["flows/2026/11/1.log", "json/globex/x/1", KEY])).await;
    let events = [(1_795_248_001_000, "{\"at\":1795248001}".to_owned()), (modified(), "not json".to_owned())];
    assert_eq!(world.sinks.events(ACME, GROUP), events);
    assert_eq!(world.sinks.streams(ACME, GROUP), ["flows--2026-11-21", "web-web-0-2026-11-21"]);
    let [failed] = &report.failures[..] else { panic!("{:?}", report.failures) };
    assert_eq!((failed.failure.reason(), failed.tenant_id.as_deref()), ("corrupt_object", Some("globex")));
}

#[tokio::test(start_paused = true)]
async fn content_that_cannot_be_read_is_named_in_the_letter() {
    for (bytes, name) in [
        (&b"PAR1\x15\x04\x15\x10\x15\x14L\x15\x02\x15\0"[..], "a Parquet file"),
        (b"Obj\x01\x04\x14avro.codec\x08null", "an Avro file"),
        (b"PK\x03\x04\x14\0\0\0\x08\0", "a zip archive"),
        (b"\x7fELF\x02\x01\x01\0", "binary data"),
    ] {
        let world = World::new();
        for (key, bytes) in [(KEY, bytes.to_vec()), ("acme/prod-1/web/web-0/2", gzip(bytes))] {
            world.put(key, object(bytes));
            let poison = poison(world.handle(&event(&[key])).await);
            assert_eq!(
                (poison.reason, attribute(&poison, "record_offset")),
                ("unsupported_format", Some("0"))
            );
            let error = attribute(&poison, "error").expect("an error");
            assert!(error.contains(name), "{error}");
        }
        assert_eq!(world.sinks.events(ACME, GROUP), []);
    }
}

/// A line of text is subject to the same rules as any message.
#[tokio::test(start_paused = true)]
async fn long_lines_are_split_or_stepped_over() {
    let line = "é".repeat(600 << 10);
    let mut world = World { quarantine: Some(MemoryQuarantine::default()), ..World::new() };
    world.settings.max_record = 3 << 20;
    world.settings.max_object = 64 << 20;
    let text = format!("a\n{line}\n{}\nb", "x".repeat(4 << 20));
    world.put(KEY, object(gzip(text.as_bytes())));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack, "{:?}", report.failures);
    let messages = world.sinks.messages(ACME, GROUP);
    assert_eq!((messages.len(), messages.concat()), (4, format!("a{line}b")));
    let tally = report.delivered[0].tally;
    assert_eq!((tally.read, tally.put.accepted, tally.oversize, tally.quarantined), (4, 3, 1, 1));
}
