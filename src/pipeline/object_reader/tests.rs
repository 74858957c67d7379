//! Tests the steps of whole and broken objects, in chunks of any size.

use std::sync::Arc;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{
    decode::{ORDINARY_WINDOW, tests::gzip},
    event::ObjectRef,
    fairness::cpu::Cpu,
    object::{
        ObjectStore,
        memory::{MemoryObject, MemoryStore},
    },
    pipeline::windows::Windows,
    records::RecordProblem,
};

const CEILINGS: Ceilings = Ceilings { max_stored: 1 << 20, max_object: 64 << 20 };

/// Result of reading an object.
#[derive(Debug)]
struct Outcome {
    /// The messages. Texts that are not records are in angle brackets.
    steps: Vec<String>,
    /// Number of records, or the failure.
    end: Result<u64, Failure>,
    /// Bytes counted as stored and as decompressed.
    bytes: (u64, u64),
    /// Bytes read from the store, including those read only for the checksum.
    fetched: u64,
}

/// Reads an object to its end. If it is broken, reads the rest for its checksum.
async fn read(object: MemoryObject, ceilings: Ceilings, windows: &Windows) -> Outcome {
    let (store, key) = (MemoryStore::default(), ObjectRef::default());
    store.put(&key.bucket, &key.key, object);
    let (_, body) = store.open(&key, None).await.expect("the object is there");
    let (bytes, mut steps) = (BytesRead::default(), Vec::new());
    let records = RecordReader::new(1 << 20, Timestamp::now()).stepping_over_bad_lines();
    let mut object = ObjectReader::new(body, records, ceilings, windows.of(&"acme".into()), bytes.clone());
    let work = async |mut pace: Pace| {
        let failure = loop {
            match object.next() {
                Ok(Step::Record { record, .. }) => {
                    steps.push(String::from_utf8_lossy(record.message.escaped()).into_owned());
                }
                Ok(Step::Skipped { .. }) => steps.push("skipped".to_owned()),
                Ok(Step::Unreadable { unreadable, .. }) => steps.push(format!("<{}>", unreadable.text)),
                Ok(Step::More { .. }) => {
                    if let Err(failure) = object.fill(&mut pace).await {
                        break failure;
                    }
                }
                Ok(Step::End) => return Ok(object.count()),
                Err(error) => break Failure::Record(error),
            }
        };
        assert_eq!(object.count(), steps.len() as u64);
        object.into_rest().check(&mut pace).await?;
        Err(failure)
    };
    let end = Cpu::new(1).share(&Arc::from("acme"), work).await;
    let bytes = (bytes.stored.get(), bytes.decompressed.get());
    Outcome { steps, end, bytes, fetched: store.bytes_read() }
}

async fn outcome(bytes: &[u8], chunk: usize) -> Outcome {
    read(stored(bytes, chunk), CEILINGS, &Windows::new(0)).await
}

fn stored(bytes: &[u8], chunk: usize) -> MemoryObject {
    MemoryObject::new(bytes.to_vec(), Timestamp::UNIX_EPOCH).in_chunks(chunk)
}

/// A text with one line for each message.
fn lines(messages: &[String]) -> Vec<u8> {
    messages.iter().map(|message| format!("{{\"message\":\"{message}\"}}\n")).collect::<String>().into_bytes()
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

/// A zstd frame with a window of 16 MiB. Its text has 400 lines and nearly 26 MiB.
fn with_a_large_window() -> Vec<u8> {
    let messages: Vec<_> = (0..400).map(|number| format!("{number}{}", "a".repeat(65_000))).collect();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("the level is known");
    encoder.window_log(24).expect("the window is legal");
    std::io::Write::write_all(&mut encoder, &lines(&messages)).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_record_is_a_step_in_chunks_of_any_size(
        messages in proptest::collection::vec("[a-z]{0,300}", 0..60),
        compression in 0..3,
        chunk in 1_usize..2000,
    ) {
        let text = lines(&messages);
        let bytes = match compression {
            0 => text.clone(),
            1 => gzip(&text),
            _ => zstd::encode_all(&text[..], 1).expect("memory takes every byte"),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let read = runtime.block_on(outcome(&bytes, chunk));
        prop_assert_eq!(read.end.expect("the object is whole"), messages.len() as u64);
        prop_assert_eq!(read.steps, messages);
        prop_assert_eq!(read.bytes, (bytes.len() as u64, text.len() as u64));
    }
}

#[tokio::test]
async fn the_records_before_a_break_are_returned() {
    let (messages, text) = (numbers(3000), lines(&numbers(3000)));
    let whole = gzip(&text);
    let half = whole.len() / 2;
    for (what, bytes) in [
        ("cut", whole[..half].to_vec()),
        ("garbled", [&whole[..half], &[0xff; 300], &whole[half..]].concat()),
        ("garbage behind", [&whole[..], b"garbage"].concat()),
    ] {
        for chunk in [1, 100, 1000] {
            let read = outcome(&bytes, chunk).await;
            let Err(Failure::Decode { records, .. }) = read.end else { panic!("{what}: {:?}", read.end) };
            assert_eq!(records, read.steps.len() as u64, "{what}");
            assert!(records > 100 && messages.starts_with(&read.steps), "{what}: {records} records");
        }
    }
}

#[tokio::test]
async fn a_bad_line_is_a_step_and_broken_structure_ends_the_object() {
    let read = outcome(b"{\"message\":\"a\"}\nplain text\n{\"message\":\"b\"}\n", 5).await;
    assert_eq!(
        (read.steps, read.end.expect("the object is whole")),
        (["a", "<plain text>", "b"].map(str::to_owned).into(), 3)
    );
    let read = outcome(b"[{\"message\":\"a\"} 5]", 5).await;
    assert_eq!(read.steps, ["a"]);
    let Err(Failure::Record(error)) = read.end else { panic!("{:?}", read.end) };
    assert!(error.index == 1 && matches!(error.problem, RecordProblem::Malformed(_)), "{error}");
    let read = outcome(b"[{\"message\":\"a\"}", 5).await;
    let Err(Failure::Record(error)) = read.end else { panic!("{:?}", read.end) };
    assert_eq!((error.index, error.problem), (1, RecordProblem::Truncated("array")));
}

#[tokio::test]
async fn the_rest_of_a_broken_object_is_fetched_only_for_a_checksum() {
    let bytes = [b"[5".as_slice(), &[b' '; 100_000]].concat();
    let object = stored(&bytes, 1000);
    let read_bytes = |read: Outcome| (read.bytes.0, read.fetched);
    let read_all = read(object.clone(), CEILINGS, &Windows::new(0)).await;
    assert_eq!(read_bytes(read_all), (1000, bytes.len() as u64));
    let read_one = read(object.clone().without_checksum(), CEILINGS, &Windows::new(0)).await;
    assert_eq!(read_bytes(read_one), (1000, 1000));
    let mismatch = ObjectError::ChecksumMismatch("altered".to_owned());
    let read = read(object.breaking(bytes.len(), mismatch), CEILINGS, &Windows::new(0)).await;
    assert!(matches!(read.end, Err(Failure::Object(ObjectError::ChecksumMismatch(_)))), "{:?}", read.end);
}

#[tokio::test]
async fn stored_and_decompressed_bytes_have_ceilings() {
    let text = lines(&numbers(1000));
    let object = stored(&text, 100);
    let len = text.len() as u64;
    let read = |max_stored, max_object| {
        let object = object.clone();
        async move { read(object, Ceilings { max_stored, max_object }, &Windows::new(0)).await }
    };
    assert_eq!(read(len, len).await.end.expect("both limits are just reached"), 1000);
    let stored = read(len - 1, len).await;
    assert!(
        matches!(stored.end, Err(Failure::Object(ObjectError::TooLarge { limit, .. })) if limit == len - 1),
        "{:?}",
        stored.end
    );
    let decompressed = read(len, len - 1).await;
    let Err(Failure::Decode { records, error: DecodeError::TooLarge { .. } }) = decompressed.end else {
        panic!("{:?}", decompressed.end)
    };
    assert_eq!(records, 1000, "the text before the limit is in the window");
}

#[tokio::test(start_paused = true)]
async fn a_large_window_is_waited_for_and_given_back() {
    let (windows, bytes) = (Windows::new(16 << 20), with_a_large_window());
    let read_all = async || read(stored(&bytes, 1000), CEILINGS, &windows).await;
    assert_eq!(read_all().await.end.expect("the memory is free"), 400);
    assert_eq!(read_all().await.end.expect("the memory came back"), 400);
    let _held = windows.of(&"globex".into()).share(1).await.expect("the memory is free");
    let read = read_all().await;
    assert!(matches!(read.end, Err(Failure::NoWindow)), "{:?}", read.end);
    let text = read.bytes.1;
    assert!(text > 0 && text <= ORDINARY_WINDOW, "{text} bytes fit into an ordinary window");
}
