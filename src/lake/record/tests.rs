use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{super::samples::samples, *};
use crate::records::{RecordFormat, RecordReader};

/// 2026-11-21T12:00:00Z: the worker's clock, and the object's time.
const NOW: Timestamp = Timestamp::constant(1_795_262_400, 0);
const MODIFIED: i64 = 1_795_262_400_000;

fn route() -> Route {
    Route::of(["acme", "prod-1", "web", "web-0", "1.json.gz"])
}

/// Calls `take` with each record of the text.
fn each_record(text: &[u8], format: &RecordFormat, take: impl FnMut(&Record<'_>)) {
    // The clock is far ahead, so that the object's time alone judges the records' times.
    let clock = NOW.saturating_add(jiff::SignedDuration::from_hours(24 * 365)).expect("a time");
    RecordReader::new(1 << 20, clock).of_format(format, MODIFIED).each_of(text, take);
}

fn check_format(text: &str, format: &RecordFormat, expected: &[LakeRecord<'_>]) {
    let (mut columns, mut count) = (Columns::new(&route(), MODIFIED), 0);
    each_record(text.as_bytes(), format, |record| {
        let found = columns.of(record);
        assert_eq!(Some(&found), expected.get(count), "{text}");
        assert_eq!(found.timestamp, timestamp(record, MODIFIED));
        count += 1;
    });
    assert_eq!(count, expected.len(), "{text}");
}

/// Checks one record, also as it is behind another one that differs in its message alone.
fn check(text: &str, expected: LakeRecord<'_>) {
    check_format(&format!("{text}\n{text}"), &RecordFormat::Json, &[expected, expected]);
}

/// A record with a message and nothing else.
const NOTHING: LakeRecord<'_> = LakeRecord {
    timestamp: MODIFIED,
    message: "m",
    tenant: "acme",
    cluster: "prod-1",
    application: "web",
    pod: "web-0",
    stream: None,
    namespace: None,
    container: None,
    node: None,
    level: None,
    rest: None,
};

#[test]
fn a_record_of_our_collector_has_only_its_namespace_and_container_in_the_rest() {
    check(
        r#"{"application":"web","cluster_id":"prod-1","container_name":"app","customer_id":"acme","message":"ERROR: \"x\"","namespace":"acme-prod","pod_name":"web-0","stream":"stderr","timestamp":"2026-11-21T08:00:00.373359129Z"}"#,
        LakeRecord {
            timestamp: 1_795_248_000_373,
            message: r#"ERROR: "x""#,
            stream: Some("stderr"),
            namespace: Some("acme-prod"),
            container: Some("app"),
            level: Some("error"),
            rest: Some(r#"{"container_name":"app","namespace":"acme-prod"}"#),
            ..NOTHING
        },
    );
}

#[test]
fn vector_s_metadata_gives_columns_and_stays_in_the_rest() {
    check(
        r#"{"file":"/var/log/x","kubernetes":{"container_name":"app","pod_namespace":"prod","pod_node_name":"ip-10","host":"h"},"message":"m","namespace":"other","host":"other","source_type":"kubernetes_logs"}"#,
        LakeRecord {
            namespace: Some("prod"),
            container: Some("app"),
            node: Some("ip-10"),
            rest: Some(
                r#"{"file":"/var/log/x","kubernetes":{"container_name":"app","pod_namespace":"prod","pod_node_name":"ip-10","host":"h"},"namespace":"other","host":"other","source_type":"kubernetes_logs"}"#,
            ),
            ..NOTHING
        },
    );
    let kubernetes = r#"{"kubernetes":{"host":"h","namespace_name":"prod"},"container":"c"}"#;
    let text = format!(r#"{},"message":"m"}}"#, &kubernetes[..kubernetes.len() - 1]);
    check(
        &text,
        LakeRecord {
            namespace: Some("prod"),
            container: Some("c"),
            node: Some("h"),
            rest: Some(kubernetes),
            ..NOTHING
        },
    );
}

#[test]
fn the_order_of_the_spellings_does_not_matter() {
    let members = r#""container":"c2","container_name":"c1","host":"h3","kubernetes":{"container_name":"c0","host":"h1","namespace_name":"n1","pod_namespace":"n0"},"namespace":"n2","node":"h2""#;
    let (first, last) =
        (format!(r#"{{{members},"message":"m"}}"#), format!(r#"{{"message":"m",{members}}}"#));
    let rest = format!("{{{members}}}");
    for text in [first, last] {
        check(
            &text,
            LakeRecord {
                namespace: Some("n0"),
                container: Some("c0"),
                node: Some("h1"),
                rest: Some(&rest),
                ..NOTHING
            },
        );
    }
    let rest = r#"{"container":"c2","container_name":"c1","host":"h3","node":"h2"}"#;
    check(
        &rest.replace('}', r#","message":"m"}"#),
        LakeRecord { container: Some("c1"), node: Some("h2"), rest: Some(rest), ..NOTHING },
    );
}

#[test]
fn a_plain_record_has_no_columns() {
    check(r#"{"message":"m"}"#, NOTHING);
    check(r#"{"message":""}"#, LakeRecord { message: "", ..NOTHING });
    check(r#"{"message":"m","user":5}"#, LakeRecord { rest: Some(r#"{"user":5}"#), ..NOTHING });
}

#[test]
fn labels_that_differ_from_the_key_stay() {
    check(
        r#"{"application":"api","cluster_id":5,"customer_id":"ACME","message":"m","pod_name":"web\u002d0"}"#,
        LakeRecord { rest: Some(r#"{"application":"api","cluster_id":5,"customer_id":"ACME"}"#), ..NOTHING },
    );
}

#[test]
fn a_column_that_changes_its_type_is_null_and_stays_in_the_rest() {
    check(
        r#"{"container":null,"kubernetes":[],"message":"m","namespace":{"a":1},"node":5,"stream":2,"level":true}"#,
        LakeRecord {
            rest: Some(
                r#"{"container":null,"kubernetes":[],"namespace":{"a":1},"node":5,"stream":2,"level":true}"#,
            ),
            ..NOTHING
        },
    );
    // Another spelling may have the value.
    check(
        r#"{"kubernetes":{"pod_namespace":7},"message":"m","namespace":"n"}"#,
        LakeRecord {
            namespace: Some("n"),
            rest: Some(r#"{"kubernetes":{"pod_namespace":7},"namespace":"n"}"#),
            ..NOTHING
        },
    );
}

#[test]
fn a_message_of_another_type_is_its_json_and_stays_in_the_rest() {
    check(
        r#"{"message":{"level":"warn"}}"#,
        LakeRecord {
            message: r#"{"level":"warn"}"#,
            level: Some("warn"),
            rest: Some(r#"{"message":{"level":"warn"}}"#),
            ..NOTHING
        },
    );
    check(
        r#"{"message":null}"#,
        LakeRecord { message: "null", rest: Some(r#"{"message":null}"#), ..NOTHING },
    );
    check(
        r#"{"severity":"INFO","stream":"stdout","a":"b"}"#,
        LakeRecord {
            message: r#"{"severity":"INFO","a":"b"}"#,
            stream: Some("stdout"),
            level: Some("info"),
            rest: Some(r#"{"severity":"INFO","a":"b"}"#),
            ..NOTHING
        },
    );
    check("{}", LakeRecord { message: "{}", ..NOTHING });
}

#[test]
fn a_time_that_is_not_in_the_column_stays_in_the_rest() {
    let at = |value: &str| format!(r#"{{"message":"m","timestamp":{value}}}"#);
    let rest = |value: &str| format!(r#"{{"timestamp":{value}}}"#);
    let day = Timestamp::from_second(MODIFIED / 1000 + 86_400).expect("a time");
    let on_time = format!("\"{day}\"");
    check(&at(&on_time), LakeRecord { timestamp: MODIFIED + AHEAD, ..NOTHING });
    check(&at("1795348800000"), LakeRecord { timestamp: MODIFIED + AHEAD, ..NOTHING });
    for value in ["1795348800001", "\"yesterday\"", "null", "5", "\"2026-11-22T12:00:00.001Z\""] {
        check(&at(value), LakeRecord { rest: Some(&rest(value)), ..NOTHING });
    }
    // The same text around the values, with a time and without.
    let texts = [at("1795248000"), at("\"x\""), at("\"y\""), at("1795248000.5")];
    let [x, y] = [rest("\"x\""), rest("\"y\"")];
    check_format(
        &texts.join("\n"),
        &RecordFormat::Json,
        &[
            LakeRecord { timestamp: 1_795_248_000_000, ..NOTHING },
            LakeRecord { rest: Some(&x), ..NOTHING },
            LakeRecord { rest: Some(&y), ..NOTHING },
            LakeRecord { timestamp: 1_795_248_000_500, ..NOTHING },
        ],
    );
}

#[test]
fn records_that_are_no_json_objects_of_their_own_are_their_message() {
    check_format(
        "2026-11-21T08:00:00Z WARN x\n",
        &RecordFormat::Lines(None),
        &[LakeRecord { message: "2026-11-21T08:00:00Z WARN x", level: Some("warn"), ..NOTHING }],
    );
    let event = r#"{"eventTime":"2026-11-21T08:00:00Z","message":"no","stream":"no"}"#;
    check_format(
        &format!(r#"{{"Records":[{event}]}}"#),
        &RecordFormat::CloudTrail,
        &[LakeRecord { timestamp: 1_795_248_000_000, message: event, ..NOTHING }],
    );
    let text = r#"{"logStream":"s","logEvents":[{"id":"1","timestamp":1795248000123,"message":"m"}]}"#;
    check_format(
        text,
        &RecordFormat::Subscription,
        &[LakeRecord { timestamp: 1_795_248_000_123, rest: Some(r#"{"id":"1"}"#), ..NOTHING }],
    );
}

#[test]
fn a_top_level_member_s_level_comes_first() {
    let text = r#"{"level":30,"message":"ERROR: x"}"#;
    check(
        text,
        LakeRecord { message: "ERROR: x", level: Some("info"), rest: Some(r#"{"level":30}"#), ..NOTHING },
    );
    let text = r#"{"level":"x","message":"ERROR: x"}"#;
    check(
        text,
        LakeRecord { message: "ERROR: x", level: Some("error"), rest: Some(r#"{"level":"x"}"#), ..NOTHING },
    );
}

#[test]
fn records_that_alternate_get_their_own_columns() {
    let text: String = (0..40)
        .map(|number| format!("{{\"message\":\"m\",\"n\":{},\"stream\":\"s{}\"}}\n", number % 7, number % 2))
        .collect();
    let rests: Vec<_> = (0..40).map(|number| format!("{{\"n\":{}}}", number % 7)).collect();
    let expected: Vec<_> = (0..40)
        .map(|number| LakeRecord {
            stream: Some(if number % 2 == 0 { "s0" } else { "s1" }),
            rest: Some(&rests[number]),
            ..NOTHING
        })
        .collect();
    check_format(&text, &RecordFormat::Json, &expected);
}

/// Puts a record together from its columns.
fn rebuild(found: &LakeRecord<'_>, route: &Route) -> Map<String, Value> {
    let mut record: Map<String, Value> =
        found.rest.map_or_else(Map::new, |rest| serde_json::from_str(rest).expect("an object"));
    assert!(found.rest != Some("{}"), "an empty rest is none");
    let mut add = |name: &str, value: Value| {
        record.entry(name).or_insert(value);
    };
    add("message", json!(found.message));
    let time = Timestamp::from_millisecond(found.timestamp).expect("a time");
    add("timestamp", json!(format!("{time:.3}")));
    if let Some(stream) = found.stream {
        add("stream", json!(stream));
    }
    let Route { tenant, cluster, application, pod, .. } = route;
    for (name, value) in
        [("customer_id", tenant), ("cluster_id", cluster), ("application", application), ("pod_name", pod)]
    {
        add(name, json!(value));
    }
    record
}

/// Checks that every member of the record is in its columns.
fn check_rebuilt(
    original: &Map<String, Value>,
    found: &LakeRecord<'_>,
    route: &Route,
) -> Result<(), TestCaseError> {
    let rebuilt = rebuild(found, route);
    for (name, value) in original {
        if name == "timestamp" && found.timestamp != MODIFIED {
            // Digits beyond milliseconds are dropped.
            let text = value.as_str().map(str::to_owned).unwrap_or_else(|| value.to_string());
            let at = match text.parse::<Timestamp>() {
                Ok(time) => time.as_millisecond(),
                Err(_) => value.as_i64().expect("milliseconds"),
            };
            prop_assert_eq!(at, found.timestamp);
        } else {
            prop_assert_eq!(rebuilt.get(name), Some(value), "{}", name);
        }
    }
    Ok(())
}

fn record() -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof![
        6 => prop::sample::select(vec![
            "message", "timestamp", "stream", "customer_id", "cluster_id", "application", "pod_name", "namespace",
            "container_name", "kubernetes", "level", "host", "log.level",
        ]).prop_map(str::to_owned),
        1 => ".{0,4}",
    ];
    let text = prop_oneof![
        prop::sample::select(vec![
            "acme",
            "prod-1",
            "web",
            "web-0",
            "stdout",
            "info",
            "2026-11-21T08:00:00.123456789Z",
            "2027-01-01T00:00:00Z",
        ])
        .prop_map(str::to_owned),
        ".{0,12}",
    ];
    let value = prop_oneof![
        4 => text.clone().prop_map(Value::from),
        1 => prop::sample::select(vec![json!(null), json!(true), json!(5), json!(1_795_248_000_123_i64), json!([1, {"a": "b"}])]),
        1 => prop::collection::btree_map(prop::sample::select(vec![
            "pod_namespace", "namespace_name", "container_name", "host", "é\"",
        ]), text.prop_map(Value::from), 0..4).prop_map(|members| json!(members)),
    ];
    let members = prop::collection::vec((name, value), 0..9);
    (members, any::<bool>(), ".{0,20}").prop_map(|(members, has_message, message)| {
        let mut record: Map<String, Value> = members.into_iter().collect();
        if has_message {
            record.insert("message".to_owned(), json!(message));
        }
        record
    })
}

proptest! {
    #[test]
    fn nothing_of_a_record_is_lost(records in prop::collection::vec((record(), 0_usize..3), 1..6)) {
        let mut originals = Vec::new();
        for (record, repeats) in records {
            for repeat in 0..=repeats {
                let mut record = record.clone();
                if repeat > 0 && record.get("message").is_some_and(Value::is_string) {
                    record.insert("message".to_owned(), json!(format!("another {repeat}")));
                }
                originals.push(record);
            }
        }
        let text: String = originals.iter().map(|record| format!("{}\n", Value::from(record.clone()))).collect();
        let (mut columns, mut at, mut result) = (Columns::new(&route(), MODIFIED), 0, Ok(()));
        each_record(text.as_bytes(), &RecordFormat::Json, |record| {
            let found = columns.of(record);
            // What is remembered of earlier records changes nothing.
            let mut fresh = Columns::new(&route(), MODIFIED);
            assert_eq!(found, fresh.of(record));
            if result.is_ok() {
                result = check_rebuilt(&originals[at], &found, &route());
            }
            at += 1;
        });
        result?;
        prop_assert_eq!(at, originals.len());
    }

    #[test]
    fn any_bytes_in_strings_give_legal_columns(
        bytes in prop::collection::vec(prop::collection::vec(prop_oneof![
            Just(b'\\'), Just(b'u'), Just(b'd'), Just(b'8'), Just(0xe9), Just(b'n'), any::<u8>(),
        ], 0..12), 6),
    ) {
        let parts: Vec<_> = bytes.into_iter().map(|bytes| {
            // The text must not end the string.
            let mut bytes: Vec<_> = bytes.into_iter().filter(|byte| *byte != b'"').collect();
            if bytes.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1 {
                bytes.push(b'x');
            }
            bytes
        }).collect();
        let names: [&[u8]; 6] = [b"message", b"stream", b"namespace", &parts[3], b"level", b"timestamp"];
        let members: Vec<_> = names.iter().zip(&parts)
            .map(|(name, value)| [b"\"", *name, b"\":\"", value, b"\""].concat()).collect();
        let text = [b"{", &members.join(&b","[..])[..], b"}"].concat();
        let mut columns = Columns::new(&route(), MODIFIED);
        each_record(&text, &RecordFormat::Json, |record| {
            let found = columns.of(record);
            let rest: Map<String, Value> = serde_json::from_str(found.rest.unwrap_or("{}")).expect("an object");
            let namespace = rest.get("namespace").and_then(Value::as_str);
            assert_eq!(namespace.filter(|text| !text.is_empty()), found.namespace);
            assert_eq!(found.message, record.message.unescape());
            assert!(found.stream.is_some());
        });
    }
}

#[test]
fn samples_keep_all_their_members_and_have_columns() {
    for (route, text) in samples() {
        let originals: Vec<Map<String, Value>> = text
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("a record"))
            .collect();
        let (mut columns, mut at) = (Columns::new(&route, MODIFIED), 0);
        let mut levels = 0;
        each_record(&text, &RecordFormat::Json, |record| {
            let found = columns.of(record);
            check_rebuilt(&originals[at], &found, &route).expect("the members are the same");
            assert_eq!([found.namespace, found.container], [Some(route.application.as_str()); 2]);
            assert_eq!(found.node, Some("ip-10-0-1-23.ec2.internal"));
            let rest: Map<String, Value> = serde_json::from_str(found.rest.expect("a rest")).expect("JSON");
            assert_eq!(rest.keys().collect::<Vec<_>>(), ["file", "kubernetes", "source_type"]);
            levels += usize::from(found.level.is_some());
            at += 1;
        });
        assert_eq!((at, originals.len()), (1500, 1500));
        // Access logs, audit events, words and stack traces have no level. A few messages are empty.
        let has_levels = ["etcd", "payment-app", "tps-reports"].contains(&route.application.as_str());
        assert_eq!(levels > 1400, has_levels, "{}: {levels}", route.application);
        assert!(has_levels || levels == 0, "{}: {levels}", route.application);
    }
}
