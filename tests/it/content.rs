//! Objects as found in the field: defects of single records, byte order marks, times in every unit, and formats that
//! are not records.

use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

use crate::{
    eventually::eventually,
    quarantine::{bucket, files},
    samples::{Event, gzip, received, received_events},
    setup::Setup,
};

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A record as JSON text. `message` is inserted between the quotes without escaping.
fn record(message: &[u8], timestamp: i64) -> Vec<u8> {
    [b"{\"message\":\"", message, format!("\",\"timestamp\":{timestamp}}}").as_bytes()].concat()
}

/// Messages in the log stream of a pod.
async fn messages(setup: &Setup, customer: &logferry_testbed::provision::Customer, pod: &str) -> Vec<String> {
    let streams = received(&setup.aws, customer).await;
    let stream = streams.into_iter().find(|(name, _)| name.contains(&format!("-{pod}-")));
    stream.map(|(_, events)| events.into_iter().map(|(_, message)| message).collect()).unwrap_or_default()
}

/// One defective record between two good ones, in an array and in lines: it is mended, and all three arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_defect_affects_its_own_record_alone() {
    let setup = Setup::new("defects").await;
    let customer = setup.customer("acme").await;
    // All records have the same time, because events with the same time keep their order.
    let at = now();
    let deep = |depth: usize| {
        let nested = ["{\"a\":".repeat(depth), "1".to_owned(), "}".repeat(depth)].concat();
        format!("{{\"parsed\":{nested},\"message\":\"deep\",\"timestamp\":{}}}", at).into_bytes()
    };
    let kinds = [
        ("half-a-pair", record(b"cut \\ud83d here", at), "cut \u{fffd} here"),
        ("no-utf8", record(b"caf\xe9", at), "caf\u{fffd}"),
        ("no-utf8-twice", record(b"\xff \\ude00", at), "\u{fffd} \u{fffd}"),
        ("no-escape", record(b"C:\\Users", at), r"C:\Users"),
        ("depth-128", deep(128), "deep"),
        ("depth-100000", deep(100_000), "deep"),
    ];
    let mended = kinds.iter().filter(|(_, _, message)| *message != "deep").count();
    let mark: &[u8] = b"\xef\xbb\xbf";
    let mut objects = Vec::new();
    for (name, middle, expected) in &kinds {
        let [first, last] = [b"first", b"final"].map(|message| record(message, at));
        let array = [b"[", &first[..], b",", middle, b",", &last, b"]"].concat();
        let lines = [&first[..], b"\n", middle, b"\n", &last, b"\n"].concat();
        objects.push((format!("{name}-array"), gzip(&array), *expected));
        objects.push((format!("{name}-lines"), lines, *expected));
    }
    let plain = |message: &[u8]| record(message, at);
    let [one, two, three] = [b"first", b"order", b"final"].map(|message| plain(message));
    objects.push((
        "mark-array".to_owned(),
        [mark, b"[", &one, b",", &two, b",", &three, b"]"].concat(),
        "order",
    ));
    objects.push(("mark-lines".to_owned(), [mark, &one, b"\n", &two, b"\n", &three].concat(), "order"));
    let joined = [gzip(&[mark, b"[", &one, b"]"].concat()), gzip(&[mark, &two, &three].concat())].concat();
    objects.push(("mark-twice".to_owned(), joined, "order"));
    for (pod, bytes, _) in &objects {
        setup.upload(&format!("acme/c/app/{pod}/1.json"), bytes.clone()).await;
    }
    let worker = setup.worker().await;
    setup.acknowledged(&worker, objects.len()).await;
    setup.no_dead_letters().await;
    for (pod, _, expected) in &objects {
        assert_eq!(messages(&setup, &customer, pod).await, ["first", expected, "final"], "{pod}");
    }
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_records_mended_total"), 2.0 * mended as f64);
    assert_eq!(metrics.get("logferry_records_total{outcome=\"accepted\"}"), 3.0 * objects.len() as f64);
    assert_eq!(metrics.get("logferry_records_unaccounted_total"), 0.0);
}

/// Objects with a record longer than 1 MiB between two good ones, and the position of that record in the text.
fn too_long(at: i64) -> Vec<(&'static str, Vec<u8>, String, String)> {
    let [first, last] = [b"first", b"final"].map(|message| record(message, at));
    let long = record("\\\"}]\u{e9}".repeat(250_000).as_bytes(), at);
    let [array, lines] = [[&b"["[..], b",", b"]"], [b"", b"\n", b"\n"]].map(|[before, between, after]| {
        let start = before.len() + first.len() + between.len();
        (start, [before, &first, between, &long, between, &last, after].concat())
    });
    [("array", array), ("lines", lines)]
        .map(|(name, (start, text))| {
            let place = format!("{} bytes from byte {start} of", long.len());
            (name, gzip(&text), place, String::from_utf8(long.clone()).expect("UTF-8"))
        })
        .into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_long_leaves_its_place_in_quarantine() {
    let setup = Setup::new("too-long-aside").await;
    let at = now();
    let customer = setup.customer("acme").await;
    let bucket = bucket(&setup).await;
    let owned = format!("{bucket}={}", setup.provider.account);
    let limits = [("LOGFERRY_SOURCE__MAX_RECORD", "1 MiB"), ("LOGFERRY_QUARANTINE__BUCKET", &owned)];
    let worker = setup.worker_with(&limits).await;
    for (name, bytes, ..) in too_long(at) {
        setup.upload(&format!("acme/c/app/{name}/1.json"), bytes).await;
    }
    setup.acknowledged(&worker, 2).await;
    setup.no_dead_letters().await;
    let files = files(&setup, &bucket).await;
    for (name, bytes, place, long) in too_long(at) {
        assert_eq!(messages(&setup, &customer, name).await, ["first", "final"]);
        let key = format!("acme/c/app/{name}/1.json");
        let mut lines = files.iter().flat_map(|(_, lines)| lines);
        let line = lines.find(|line| line["key"] == key.as_str()).unwrap_or_else(|| panic!("{files:?}"));
        assert_eq!((line["reason"].as_str(), line["record"].as_u64()), (Some("too_long"), Some(1)), "{line}");
        let said = line["message"].as_str().expect("a text");
        assert!(said.contains(&place), "{place:?} is not in {said:?}");
        // The record is at the position that the file gives.
        let mut text = String::new();
        std::io::Read::read_to_string(&mut MultiGzDecoder::new(&bytes[..]), &mut text)
            .expect("gzip of UTF-8");
        let start: usize = place.split(' ').nth(4).and_then(|start| start.parse().ok()).expect("a number");
        assert!(text[start..].starts_with(&long[..1000]), "{name}");
    }
    let metrics = worker.metrics().await;
    for (name, value) in [
        ("logferry_records_read_total", 6.0),
        ("logferry_records_total{outcome=\"accepted\"}", 4.0),
        ("logferry_records_total{outcome=\"quarantined\"}", 2.0),
        ("logferry_quarantined_total{reason=\"too_long\"}", 2.0),
        ("logferry_records_unaccounted_total", 0.0),
    ] {
        assert_eq!(metrics.get(name), value, "{name}: {metrics:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quarantine_the_dead_letter_names_the_record_that_is_too_long() {
    let setup = Setup::new("too-long").await;
    let at = now();
    let customer = setup.customer("acme").await;
    let worker = setup.worker_with(&[("LOGFERRY_SOURCE__MAX_RECORD", "1 MiB")]).await;
    for (name, bytes, ..) in too_long(at) {
        setup.upload(&format!("acme/c/app/{name}/1.json"), bytes).await;
    }
    let letters = setup.dead_letters(2).await;
    setup.queue_is_empty().await;
    for (name, _, place, _) in too_long(at) {
        assert_eq!(messages(&setup, &customer, name).await, ["first", "final"]);
        let key = format!("acme/c/app/{name}/1.json");
        let letter = letters.iter().find(|letter| letter.get("key") == key).expect("a letter about the key");
        let told = ["reason", "tenant", "record_offset"].map(|name| letter.get(name));
        assert_eq!(told, ["record_too_long", "acme", "1"], "{letter:?}");
        let error = letter.get("error");
        assert!(error.contains(&place) && error.contains("quarantine.bucket"), "{error}");
    }
    if setup.sandbox().is_none() {
        return;
    }
    // The messages come again, now to a worker with a quarantine: no record is put again, and the positions are quarantined.
    let before = received_events(&setup.aws, &customer).await;
    worker.stop().await;
    let bucket = bucket(&setup).await;
    let owned = format!("{bucket}={}", setup.provider.account);
    for letter in &letters {
        setup.send(&letter.body).await;
    }
    let limits = [("LOGFERRY_SOURCE__MAX_RECORD", "1 MiB"), ("LOGFERRY_QUARANTINE__BUCKET", &owned)];
    let worker = setup.worker_with(&limits).await;
    eventually("both messages are acknowledged", async || {
        let acknowledged = worker.metrics().await.get("logferry_messages_total{verdict=\"ack\"}");
        if acknowledged == 2.0 { Ok(()) } else { Err(format!("{acknowledged} are")) }
    })
    .await;
    let kept: Vec<_> = files(&setup, &bucket).await.into_iter().flat_map(|(_, lines)| lines).collect();
    assert_eq!(kept.iter().filter(|line| line["reason"] == "too_long").count(), 2, "{kept:?}");
    assert_eq!(received_events(&setup.aws, &customer).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_are_read_in_every_unit_and_spelling() {
    let setup = Setup::new("times").await;
    let customer = setup.customer("acme").await;
    let at = now() - 60_000;
    let moment = jiff::Timestamp::from_millisecond(at).expect("now");
    let local = moment.to_zoned(jiff::tz::Offset::constant(2).to_time_zone()).strftime("%Y-%m-%dT%H:%M:%S");
    let (seconds, fraction) = (at / 1000, at % 1000);
    let values = [
        format!("\"{moment:.3}\""),
        format!("\"{}\"", format!("{moment:.9}").replace('Z', "9Z")),
        format!("\"{local}.{fraction:03}0000000001+02:00\""),
        format!("\"{local}.{fraction:03}\\u002B02:00\""),
        format!("{seconds}.{fraction:03}"),
        format!("\"{seconds}.{fraction:03}\""),
        at.to_string(),
        format!("\"{at}\""),
        format!("{at}.9"),
        format!("{at}000"),
        format!("\"{at}999\""),
        format!("{at}000.0"),
        format!("{at}000000"),
        format!("\"{at}999999\""),
        format!("{at}999999.0"),
        format!("{seconds}.{fraction:03}e0"),
    ];
    let absurd = [
        "0".to_owned(),
        "-1".to_owned(),
        "\"1999-12-31T23:59:59Z\"".to_owned(),
        "946684799".to_owned(),
        (now() + 2 * 86_400_000).to_string(),
        format!("\"{}\"", jiff::Timestamp::now() + jiff::SignedDuration::from_hours(25)),
        "\"9999-12-31T00:00:00Z\"".to_owned(),
        "99999999999999999999".to_owned(),
    ];
    let records = |values: &[String]| {
        let records = values.iter().enumerate();
        let records = records.map(|(n, value)| format!(r#"{{"message":"{n}","timestamp":{value}}}"#));
        format!("[{}]", records.collect::<Vec<_>>().join(","))
    };
    setup.upload("acme/c/app/good/1.json", records(&values)).await;
    let worker = setup.worker().await;
    setup.acknowledged(&worker, 1).await;
    let expected: Vec<Event> = (0..values.len()).map(|n| (at, n.to_string())).collect();
    assert_eq!(received_events(&setup.aws, &customer).await, expected, "{values:#?}");
    assert_eq!(worker.metrics().await.get("logferry_records_undated_total"), 0.0);

    let before = now() - 1000;
    setup.upload("acme/c/app/absurd/1.json", records(&absurd)).await;
    setup.acknowledged(&worker, 2).await;
    let mut found = received_events(&setup.aws, &customer).await;
    found.retain(|event| !expected.contains(event));
    assert_eq!(found.len(), absurd.len(), "{found:?}");
    let written = before..=now() + 1000;
    assert!(
        found.iter().all(|(at, _)| written.contains(at)),
        "{found:?} are not the object's time, {written:?}"
    );
    let metrics = worker.metrics().await;
    assert_eq!(metrics.get("logferry_records_undated_total"), absurd.len() as f64);
    assert_eq!(metrics.get("logferry_records_total{outcome=\"too_new\"}"), 0.0);
    assert_eq!(metrics.get("logferry_records_total{outcome=\"too_old\"}"), 0.0);
}

/// Documents of other formats, small and of several megabytes, with and without a quarantine: none becomes an event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_of_other_formats_are_not_delivered() {
    let setup = Setup::new("documents").await;
    // Ministack takes so long for megabytes that dead letters become visible again before the last one arrives.
    if setup.sandbox().is_none() {
        return;
    }
    let customer = setup.customer("acme").await;
    let rows: Vec<Value> = (0..60_000).map(|n| json!({ "metric": n, "value": 1.5 })).collect();
    let late =
        |name: &str, len: usize| format!(r#"{{"a":"{}","{name}":[{{}}]}}"#, "x".repeat(len)).into_bytes();
    let documents = [
        ("late-trail", late("Records", 300_000), "CloudTrail"),
        ("late-logs", late("logEvents", 300_000), "subscription"),
        ("rows", json!({ "rows": rows }).to_string().into_bytes(), "one JSON document of"),
        ("parquet", b"PAR1\x15\x04\x15\x10\x15\x14L\x15\x02\x15\0".to_vec(), "a Parquet file"),
        ("orc", b"ORC\x0a\x0b\x0a\x03\0\0\0\x12\x04".to_vec(), "an ORC file"),
        ("avro", b"Obj\x01\x04\x14avro.codec\x08null".to_vec(), "an Avro file"),
        ("zip", b"PK\x03\x04\x14\0\0\0\x08\0".to_vec(), "a zip archive"),
        ("twice", gzip(b"{}"), "gzip data inside of compressed data"),
        ("binary", b"\x7fELF\x02\x01\x01\0".to_vec(), "binary data"),
    ];
    let bucket = bucket(&setup).await;
    let owned = format!("{bucket}={}", setup.provider.account);
    for (variables, name) in
        [(vec![("LOGFERRY_QUARANTINE__BUCKET", owned.as_str())], "with"), (vec![], "without")]
    {
        let variables = [variables, vec![("LOGFERRY_SOURCE__MAX_RECORD", "3 MiB")]].concat();
        let worker = setup.worker_with(&variables).await;
        for (document, text, _) in &documents {
            setup.upload(&format!("acme/c/app/{name}/{document}.json.gz"), gzip(text)).await;
        }
        let letters = setup.dead_letters(documents.len()).await;
        setup.queue_is_empty().await;
        for (document, _, what) in &documents {
            let key = format!("acme/c/app/{name}/{document}.json.gz");
            let letter = letters.iter().find(|letter| letter.get("key") == key);
            let letter = letter.unwrap_or_else(|| panic!("no letter about {key} in {letters:?}"));
            assert_eq!(
                [letter.get("reason"), letter.get("record_offset")],
                ["unsupported_format", "0"],
                "{letter:?}"
            );
            assert!(letter.get("error").contains(what), "{what:?} is not in {letter:?}");
        }
        worker.stop().await;
    }
    assert_eq!(received_events(&setup.aws, &customer).await, []);
    assert_eq!(files(&setup, &bucket).await, []);
}

/// A zstd frame that needs a window of this size, a power of two. The text is not compressed.
fn frame(window: u32, header: u8, dictionary: &[u8], text: &[u8]) -> Vec<u8> {
    let window = u8::try_from(window.ilog2() - 10).expect("a power of two") << 3;
    let block = u32::try_from(text.len()).expect("short") << 3 | 1;
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    [&magic[..], &[header, window], dictionary, &block.to_le_bytes()[..3], text].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zstd_frames_of_every_kind_are_read() {
    const MIB: u32 = 1 << 20;
    let setup = Setup::new("zstd").await;
    let customer = setup.customer("acme").await;
    let at = now();
    let array = [b"[", &record(b"m", at)[..], b"]"].concat();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0][..], b"{[\"x"].concat();
    let encoded = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("level 1 is known");
        encoder.window_log(25).expect("the parameter is known");
        std::io::Write::write_all(&mut encoder, &array).expect("memory takes every byte");
        encoder.finish().expect("memory takes every byte")
    };
    let mut good = vec![
        ("encoded".to_owned(), encoded.clone()),
        ("skippable".to_owned(), [&skippable[..], &encoded, &skippable].concat()),
        ("twice".to_owned(), [frame(128 * MIB, 0, &[], b" "), frame(64 * MIB, 0, &[], &array)].concat()),
    ];
    // Together these need more memory than the worker may use for windows.
    good.extend((0..6).map(|n| (format!("large-{n}"), frame(128 * MIB, 0, &[], &array))));
    good.extend([16, 32, 64].map(|mib| (format!("window-{mib}"), frame(mib * MIB, 0, &[], &array))));
    let bad = [
        ("too-large", frame(256 * MIB, 0, &[], &array), "window_too_large", "source.zstd_windows"),
        ("dictionary", frame(MIB, 1, &[42], &array), "unsupported_format", "dictionary 42"),
    ];
    for (pod, bytes) in &good {
        setup.upload(&format!("acme/c/app/{pod}/1.zst"), bytes.clone()).await;
    }
    let worker = setup.worker().await;
    setup.acknowledged(&worker, good.len()).await;
    setup.no_dead_letters().await;
    for (pod, _) in &good {
        assert_eq!(messages(&setup, &customer, pod).await, ["m"], "{pod}");
    }
    for (pod, bytes, ..) in &bad {
        setup.upload(&format!("acme/c/app/{pod}/1.zst"), bytes.clone()).await;
    }
    let letters = setup.dead_letters(bad.len()).await;
    for (pod, _, reason, said) in &bad {
        let key = format!("acme/c/app/{pod}/1.zst");
        let letter = letters.iter().find(|letter| letter.get("key") == key).expect("a letter about the key");
        assert_eq!([letter.get("reason"), letter.get("record_offset")], [reason, "0"], "{letter:?}");
        assert!(letter.get("error").contains(said), "{letter:?}");
    }
    assert_eq!(received_events(&setup.aws, &customer).await.len(), good.len());
}
