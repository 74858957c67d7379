//! Properties of the code that reads untrusted bytes: events, keys, objects and records, and the batches made of them.
//!
//! Each module has one function, `check`, which must not panic for any bytes. The fuzz targets in `loadtest/fuzz/` include the
//! same sources. Here `check` runs on every file of the committed corpus and on a few thousand mutants, the same in every run.

mod batch;
mod choices;
mod decode;
mod event;
mod formats;
mod lake;
mod records;
mod route;

use std::{fs, panic, path::Path};

/// Limits of a corpus: it holds only seeds, not all inputs that fuzzing found.
const MAX_FILES: usize = 40;
const MAX_FILE_BYTES: usize = 4096;

fn replay(name: &str, check: fn(&[u8]), mutants: u64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz-corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus exists")
        .map(|entry| {
            let path = entry.expect("the corpus can be listed").path();
            let bytes = fs::read(&path).expect("the file can be read");
            (path.file_name().expect("the file has a name").to_string_lossy().into_owned(), bytes)
        })
        .collect();
    files.sort();
    assert!((1..=MAX_FILES).contains(&files.len()), "{} files", files.len());
    let holds = |what: &str, bytes: &[u8]| {
        let outcome = panic::catch_unwind(|| check(bytes));
        assert!(outcome.is_ok(), "{name}: {what} breaks the property: {}", bytes.escape_ascii());
    };
    for (file, bytes) in &files {
        assert!(bytes.len() <= MAX_FILE_BYTES, "{file} has {} bytes", bytes.len());
        holds(file, bytes);
    }
    for seed in 0..mutants {
        let mut random = fastrand::Rng::with_seed(seed);
        let (file, bytes) = &files[random.usize(..files.len())];
        let (_, other) = &files[random.usize(..files.len())];
        let mut bytes = bytes.clone();
        for _ in 0..random.usize(1..=4) {
            mutate(&mut random, &mut bytes, other);
        }
        holds(&format!("mutant {seed} of {file}"), &bytes);
    }
}

fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.usize(..=bytes.len());
    let end = (at + random.usize(..8)).min(bytes.len());
    match random.u8(..5) {
        0 => bytes.insert(at, random.u8(..)),
        1 => drop(bytes.drain(at..end)),
        2 => bytes.truncate(at.max(bytes.len() / 2)),
        3 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
        _ => {
            let from = random.usize(..=other.len());
            let to = (from + random.usize(..40)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
    }
}

#[test]
fn event() {
    replay("event", event::check, 4000);
}

#[test]
fn route() {
    replay("route", route::check, 4000);
}

#[test]
fn records() {
    replay("records", records::check, 3000);
}

#[test]
fn formats() {
    replay("formats", formats::check, 3000);
}

#[test]
fn decode() {
    replay("decode", decode::check, 3000);
}

#[test]
fn batch() {
    replay("batch", batch::check, 300);
}
