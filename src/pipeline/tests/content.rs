//! Contents of objects, whole and broken.

use super::*;

fn message_lines(count: usize, len: usize) -> (Vec<String>, Vec<u8>) {
    // The text hardly compresses, and is the same in every run.
    let mut random = fastrand::Rng::with_seed(7);
    let messages: Vec<String> =
        (0..count).map(|_| (0..len).map(|_| random.alphanumeric()).collect()).collect();
    let lines =
        messages.iter().map(|message| json!({ "message": message, "timestamp": 1_795_313_296 }).to_string());
    (messages.clone(), lines.map(|line| line + "\n").collect::<String>().into_bytes())
}

#[tokio::test(start_paused = true)]
async fn records_without_a_message_are_delivered_as_json() {
    let world = World::new();
    let records = json!([
        {"message": "text", "timestamp": "2026-11-21T08:00:00.250Z"},
        {"level": "info", "n": 1, "kubernetes": {"pod": "p"}, "stream": "stdout", "timestamp": "2026-11-21T08:00:01Z"},
        {"message": {"a": [1, 2]}},
        {"message": ""},
    ]);
    world.put(KEY, object(gzip(records.to_string().as_bytes())));
    let (report, verdict) = world.process(&event(&[KEY])).await;
    assert_eq!(verdict, Verdict::Ack);
    let at = |time: &str| time.parse::<Timestamp>().expect("a timestamp").as_millisecond();
    let expected = [
        (at("2026-11-21T08:00:00.250Z"), "text".to_owned()),
        (at("2026-11-21T08:00:01Z"), r#"{"level":"info","n":1}"#.to_owned()),
        (at(MODIFIED), r#"{"a":[1,2]}"#.to_owned()),
    ];
    assert_eq!(world.sinks.events(ACME, GROUP), expected);
    let tally = report.delivered[0].tally;
    assert_eq!((tally.read, tally.put.accepted, tally.empty, tally.undated), (4, 3, 1, 2));
}

#[tokio::test(start_paused = true)]
async fn streams_are_named_by_the_template_and_the_object_s_date() {
    let world = World::new();
    world.put(KEY, good_object(&["a"]));
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    // The date is LastModified's in UTC, not the event's or a record's.
    assert_eq!(world.sinks.streams(ACME, GROUP), ["web-web-0-2026-11-21"]);
    let template = with(row(ACME), "log_stream_name", text("{tenant}/{cluster}/{date}"));
    world.tenant("acme", [("cloudwatch", with(template, "log_group_name", text("/other")))]);
    assert_eq!(world.handle(&event(&[KEY])).await, Verdict::Ack);
    assert_eq!(world.sinks.streams(ACME, "/other"), ["acme/prod-1/2026-11-21"]);
}

#[tokio::test(start_paused = true)]
async fn records_before_a_break_in_the_compression_are_delivered_once() {
    let (messages, text) = message_lines(400, 500);
    let whole = gzip(&text);
    for (what, bytes) in [
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("garbled", [&whole[..whole.len() / 2], &[0xff; 300], &whole[whole.len() / 2..]].concat()),
    ] {
        let world = World::new();
        world.put(KEY, object(bytes));
        let (report, verdict) = world.process(&event(&[KEY])).await;
        let poison = poison(verdict);
        assert_eq!(poison.reason, "corrupt_object", "{what}: {poison:?}");
        let delivered = world.sinks.messages(ACME, GROUP);
        let offset: usize =
            attribute(&poison, "record_offset").expect("an offset").parse().expect("a number");
        assert_eq!(offset, delivered.len(), "{what}");
        assert!(offset > 100 && messages[..offset] == delivered, "{what}: {offset} records");
        assert_eq!(report.delivered, [], "{what}: a broken object is not delivered");
        let accepted = format!("logferry_records_total{{outcome=\"accepted\"}} {offset}");
        assert!(world.metrics.render().contains(&accepted), "{what}");
    }
}

/// A check at a later byte can show that the bytes were altered on their way: the store's checksum, or an earlier attempt's
/// fingerprint.
#[tokio::test(start_paused = true)]
async fn a_broken_object_is_read_on_only_if_a_check_is_ahead() {
    let good: Vec<_> = (0..500).map(|index| index.to_string()).collect();
    let good = array(&good.iter().map(String::as_str).collect::<Vec<_>>());
    let broken = [&good[..good.len() - 1], b",nonsense".as_slice(), &[b' '; 1 << 20]].concat();
    for bytes in [broken.clone(), [&gzip(&broken[..good.len() + 8])[..], &[0xff; 1 << 20]].concat()] {
        let whole = object(bytes);
        let len = whole.bytes.len() as u64;
        for (object, checked) in [(whole.clone(), true), (whole.without_checksum(), false)] {
            let world = World::new();
            world.put(KEY, object.clone());
            let poison = poison(world.handle(&event(&[KEY])).await);
            assert_eq!(poison.reason, "corrupt_object");
            assert_eq!(attribute(&poison, "record_offset"), Some("500"));
            let read = world.store.bytes_read();
            assert!(
                if checked { read == len } else { read < len / 4 },
                "{read} of {len}, checked: {checked}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn records_before_broken_json_are_delivered_once() {
    let good = String::from_utf8(array(&["a", "b"])).expect("UTF-8");
    let open = good.trim_end_matches(']');
    for (text, offset) in [
        (open.to_owned(), 2),
        (format!("{open},"), 2),
        (format!("{open},{{\"message\":\"c\""), 2),
        (format!("{open},{{\"message\":tru}}]"), 2),
        (format!("{open} 5]"), 2),
        (format!("{open},{{\"message\":\"c\"}},nonsense]"), 3),
        ("\"plain\" text".to_owned(), 0),
    ] {
        let world = World::new();
        two(&world);
        world.put(KEY, object(gzip(text.as_bytes())));
        let poison = poison(world.handle(&event(&[KEY])).await);
        let about = &text[..text.len().min(200)];
        assert_eq!(poison.reason, "corrupt_object", "{about}");
        assert_eq!(attribute(&poison, "record_offset"), Some(offset.to_string().as_str()), "{about}");
        for place in [ACME, GLOBEX] {
            assert_eq!(world.sinks.messages(place, GROUP), ["a", "b", "c"][..offset], "{about}");
        }
    }
}

/// Bad input of each kind comes after two good records. The dead letter has the reason and the offset, and the good records are
/// delivered once.
#[tokio::test(start_paused = true)]
async fn bad_input_has_its_reason_and_the_records_before_it_arrive() {
    let good = r#"{"message":"a"}{"message":"b"}"#.as_bytes();
    let behind = |bad: &[u8]| [good, bad].concat();
    let whole = gzip(good);
    let mut wrong_crc = gzip(good);
    let crc = wrong_crc.len() - 8;
    wrong_crc[crc] ^= 1;
    let deep = |open: &str| format!(r#"{{"message":"c","x":{}"#, open.repeat(10_000)).into_bytes();
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(2 << 20)).into_bytes();
    let spaces = b" ".repeat(5 << 20);
    for (what, object_bytes, reason, said) in [
        ("truncated gzip", cut_gzip(&String::from_utf8_lossy(good)), "corrupt_object", "ends too early"),
        ("half a trailer", whole[..whole.len() - 4].to_vec(), "corrupt_object", "ends too early"),
        ("wrong CRC", wrong_crc, "corrupt_object", "the gzip data is broken"),
        ("garbage behind", [&whole[..], b"garbage"].concat(), "corrupt_object", "the gzip data is broken"),
        ("NULs", gzip(&behind(&[0; 100])), "corrupt_object", "expected, not '\\u{0}'"),
        ("deep arrays", gzip(&behind(&deep("["))), "corrupt_object", "before the record does"),
        ("deep objects", gzip(&behind(&deep(r#"{"a":"#))), "corrupt_object", "before the record does"),
        ("long record", gzip(&behind(&long)), "record_too_long", "longer than source.max_record"),
        (
            "long record without end",
            gzip(&behind(&long[..2 << 20])),
            "corrupt_object",
            "before the record does",
        ),
        ("bomb of spaces", gzip(&behind(&spaces)), "object_too_large", "more than source.max_object"),
        (
            "bomb behind bombs",
            [gzip(good), gzip(&spaces), gzip(&spaces)].concat(),
            "object_too_large",
            "more than source.max_object",
        ),
    ] {
        for chunk in [1 << 20, 1000, 7] {
            if chunk == 7 && object_bytes.len() > 10_000 {
                continue;
            }
            let world = World::new();
            two(&world);
            world.put(KEY, object(object_bytes.clone()).in_chunks(chunk));
            let poison = poison(world.handle(&event(&[KEY])).await);
            assert_eq!(poison.reason, reason, "{what}");
            assert_eq!(attribute(&poison, "record_offset"), Some("2"), "{what}: {poison:?}");
            let error = attribute(&poison, "error").expect("an error");
            assert!(error.contains(said), "{what}: {said:?} is not in {error:?}");
            for place in [ACME, GLOBEX] {
                assert_eq!(world.sinks.messages(place, GROUP), ["a", "b"], "{what} in chunks of {chunk}");
            }
        }
    }
}

/// A bad record is mended or skipped, and the others are delivered.
#[tokio::test(start_paused = true)]
async fn a_defect_of_one_record_does_not_end_the_object() {
    let bad = [
        (&b"\"\xff\xfe\""[..], "\u{fffd}\u{fffd}"),
        (b"\"half \xe2\x82\"", "half \u{fffd}"),
        (b"\"\\ud800\"", "\u{fffd}"),
        (b"\"a\0b\"", "a\u{fffd}b"),
    ];
    for (value, mended) in bad {
        for [before, between, after] in [["[", ",", "]"], ["", "\n", "\n"]] {
            let text = [
                before.as_bytes(),
                b"{\"message\":\"a\"}",
                between.as_bytes(),
                b"{\"message\":",
                value,
                b"}",
                between.as_bytes(),
                b"{\"message\":\"b\"}",
                after.as_bytes(),
            ]
            .concat();
            let world = World::new();
            world.put(KEY, object(gzip(&text)).in_chunks(7));
            let (report, verdict) = world.process(&event(&[KEY])).await;
            assert_eq!(verdict, Verdict::Ack, "{mended}");
            assert_eq!(world.sinks.messages(ACME, GROUP), ["a", mended, "b"]);
            let tally = report.delivered[0].tally;
            assert_eq!((tally.read, tally.put.accepted, tally.mended), (3, 3, 1), "{mended}");
        }
    }
}

fn two(world: &World) {
    world.tenant("acme", [("cloudwatch", row(ACME)), ("cloudwatch#2", row(GLOBEX))]);
}

/// Gzip of the whole text, without the trailer. The text is stored uncompressed, so the object breaks right after the text.
fn cut_gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).expect("memory takes it");
    std::io::Write::flush(&mut encoder).expect("memory takes it");
    encoder.get_ref().clone()
}

#[tokio::test(start_paused = true)]
async fn a_break_between_two_records_is_not_the_end_of_the_object() {
    for text in
        ["{\"message\":\"a\"}\n{\"message\":\"b\"}\n", "[{\"message\":\"a\"}]\n[{\"message\":\"b\"}]\n"]
    {
        let world = World::new();
        world.put(KEY, object(cut_gzip(text)));
        let poison = poison(world.handle(&event(&[KEY])).await);
        assert_eq!((poison.reason, attribute(&poison, "record_offset")), ("corrupt_object", Some("2")));
        assert_eq!(world.sinks.messages(ACME, GROUP), ["a", "b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn whole_records_before_a_break_are_read_from_a_window_widened_by_a_long_record() {
    let world = World::new();
    let long = "l".repeat(300 * 1024);
    let text = format!("{{\"message\":\"{long}\"}}\n{{\"message\":\"short\"}}\n{{\"message\":\"cut");
    world.put(KEY, object(cut_gzip(&text)));
    let poison = poison(world.handle(&event(&[KEY])).await);
    assert_eq!((poison.reason, attribute(&poison, "record_offset")), ("corrupt_object", Some("2")));
    let lengths: Vec<_> = world.sinks.messages(ACME, GROUP).iter().map(String::len).collect();
    assert_eq!(lengths, [long.len(), "short".len()]);
}

#[tokio::test(start_paused = true)]
async fn objects_of_every_size_and_compression_arrive_whole() {
    for (count, chunk) in
        [(1, 7), (130, 1 << 16), (263, 1000), (310, 1 << 20), (391, 8192), (523, 1 << 20), (1040, 1 << 16)]
    {
        let (messages, text) = message_lines(count, 970);
        let zstd = zstd::stream::encode_all(text.as_slice(), 3).expect("memory takes it");
        let small =
            zstd::stream::encode_all(text.to_ascii_lowercase().as_slice(), 19).expect("memory takes it");
        let lower: Vec<_> = messages.iter().map(|message| message.to_ascii_lowercase()).collect();
        for (what, bytes, expected) in [
            ("plain", text.clone(), &messages),
            ("gzip", gzip(&text), &messages),
            ("zstd", zstd, &messages),
            ("small", small, &lower),
        ] {
            let world = World::new();
            world.put(KEY, object(bytes).in_chunks(chunk));
            let (report, verdict) = world.process(&event(&[KEY])).await;
            assert_eq!(verdict, Verdict::Ack, "{what}, {count} records in chunks of {chunk}");
            assert_eq!(report.delivered[0].tally.read, count as u64);
            assert!(
                world.sinks.messages(ACME, GROUP) == *expected,
                "{what}, {count} records in chunks of {chunk}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn highly_compressible_objects_arrive_whole() {
    for count in [1, 9_000, 26_214, 26_215, 60_000] {
        let text = b"{\"m\":\"a\"}\n".repeat(count);
        let zstd = zstd::stream::encode_all(text.as_slice(), 3).expect("memory takes it");
        for (what, bytes) in [("gzip", gzip(&text)), ("zstd", zstd)] {
            let world = World::new();
            world.put(KEY, object(bytes).in_chunks(1 << 20));
            let (report, verdict) = world.process(&event(&[KEY])).await;
            assert_eq!(verdict, Verdict::Ack, "{what}, {count} records");
            assert_eq!(report.delivered[0].tally.put.accepted, count as u64, "{what}");
        }
    }
}

/// The reference: reads a whole object without windows, chunks and batches.
fn whole_file_reference(text: &[u8]) -> Vec<(i64, String)> {
    let values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    let records = values.flat_map(|value| match value.expect("the test makes JSON") {
        Value::Array(records) => records,
        record => vec![record],
    });
    let events = records.map(|record| {
        let at: Timestamp = record["timestamp"].as_str().and_then(|at| at.parse().ok()).expect("a timestamp");
        (at.as_millisecond(), record["message"].as_str().expect("a message").to_owned())
    });
    events.collect()
}

mod whole_path {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Value> {
        let message = prop_oneof![
            4 => "[ -~]{1,80}",
            2 => r#"(\\|"|\n|\t|é|日|😀|\u{1}){1,20}"#,
            // A few such messages fill a batch.
            1 => (1_usize..400_000, "[a-zé\n]").prop_map(|(count, text)| text.repeat(count)),
        ];
        let millisecond = prop_oneof![8 => 0_i64..2000, 1 => 0_i64..200_000_000];
        (message, millisecond, "[a-z]{0,3}", any::<bool>()).prop_map(|(message, millisecond, pod, container)| {
            let at = Timestamp::from_millisecond(1_795_140_496_000 + millisecond).expect("a time");
            let mut record = json!({"kubernetes": {"pod_name": pod}, "message": message, "timestamp": format!("{at:.3}")});
            if container {
                record["a"] = json!([1, {"message": "not this one"}]);
            }
            record
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

        /// Compares the events in the account with the records of a plain reader.
        #[test]
        fn any_chunks_and_any_batches_give_what_a_whole_file_reader_gives(
            records in proptest::collection::vec(record(), 1..40),
            framing in 0..4, compression in 0..4, chunk in prop_oneof![1_usize..20, 1000_usize..100_000],
            cut in 0.0..1.0,
        ) {
            let texts: Vec<String> = records.iter().map(Value::to_string).collect();
            let text = match framing {
                0 => format!("[{}]", texts.join(",")),
                1 => format!("[\n  {}\n]\n", texts.join(",\n  ")),
                2 => texts.join("\n"),
                _ => texts.iter().map(|text| format!("[{text}]")).collect(),
            }.into_bytes();
            let (head, tail) = text.split_at((text.len() as f64 * cut) as usize);
            let zstd = |text: &[u8]| zstd::stream::encode_all(text, 1).expect("memory takes it");
            let bytes = match compression {
                0 => gzip(&text),
                1 => [gzip(head), gzip(tail)].concat(),
                2 => [zstd(head), zstd(tail)].concat(),
                _ => text.clone(),
            };
            // Only small objects are read byte by byte.
            let chunk = chunk.max(bytes.len() / 3000);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
            runtime.expect("a runtime").block_on(async {
                let mut world = World::new();
                (world.settings.max_object, world.settings.max_stored) = (64 << 20, 64 << 20);
                world.sinks.create(ACME, GROUP, &["web-web-0-2026-11-21"]);
                world.put(KEY, object(bytes).in_chunks(chunk));
                let (report, verdict) = world.process(&event(&[KEY])).await;
                assert_eq!(verdict, Verdict::Ack, "{:?}", report.failures);
                let expected = whole_file_reference(&text);
                let got = world.sinks.events(ACME, GROUP);
                assert_eq!(got.len(), expected.len());
                // Batches are in the order of the records. Within a batch, which may take several puts, events are in order of
                // time.
                let mut batch = 0..0;
                for call in world.sinks.calls() {
                    let SinkCall::Put(_, messages, _) = call else { panic!("the stream is there: {call:?}") };
                    batch.end += messages.len();
                    let mut part = expected[batch.clone()].to_vec();
                    part.sort_by_key(|(at, _)| *at);
                    if got[batch.clone()] == part {
                        batch = batch.end..batch.end;
                    }
                }
                assert!(batch.is_empty(), "events {batch:?}");
            });
        }
    }
}
