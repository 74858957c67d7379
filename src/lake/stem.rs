//! Names of lake files.

#[cfg(feature = "tools")]
mod ours;

use std::fmt::Write;

use crate::{digest, event::ObjectRef, ledger::EntryKey, route::Route};

#[cfg(feature = "tools")]
pub(super) use self::ours::{compacted_name, is_ours};

/// Most bytes that a file's name takes from the name of its object.
const MAX_STEM: usize = 128;
/// Endings of objects' names that are removed, because a lake file has an ending of its own.
const ENDINGS: [&str; 7] = [".gz", ".zst", ".json", ".ndjson", ".jsonl", ".log", ".txt"];
/// Beginning of the names of files that the compaction writes.
pub const COMPACTED: &str = "compacted-";
/// Number of hexadecimal digits of a hash in a name.
const HASH: usize = 16;
/// Mark before the number of the first record, in names of files that go on where an earlier attempt ended.
const FROM: &str = "-from";

/// Name of an object's lake files without their ending: the object's name, and a hash of the exact object and the row. The hash
/// makes the name different for any two objects, and for two rows of one tenant. The name is the same in every attempt.
pub fn stem(route: &Route, object: &ObjectRef, delivery: &str) -> String {
    let mut name = route.file.as_str();
    while let Some(shorter) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
        name = shorter;
    }
    let legal = |c: char| if is_legal(c) { c } else { '-' };
    let stem: String = name.chars().map(legal).take(MAX_STEM).collect();
    // Query engines skip files whose names begin with `_` or `.`, and the compaction's files have a beginning of their own.
    let first = if stem.starts_with(['_', '.']) || stem.starts_with(COMPACTED) { "f" } else { "" };
    let exact = EntryKey::of(object, delivery).map(|entry| entry.object);
    let exact = exact.unwrap_or_else(|| format!("{}/{}", object.bucket, object.key));
    let exact = format!("{exact}\n{delivery}");
    format!("{first}{stem}-{}", &digest::sha256(exact.as_bytes())[..HASH])
}

/// Name of a file of the object with this [`stem`]. `from` is the number of its first record, if an earlier attempt has written those
/// before. `number` counts the files of an hour from 0.
pub(super) fn file_name(stem: &str, from: u64, number: u32, ending: &str) -> String {
    let mut name = stem.to_owned();
    if from > 0 {
        let _ = write!(name, "{FROM}{from}");
    }
    if number > 0 {
        let _ = write!(name, "-{number}");
    }
    name + ending
}

fn is_legal(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_that_is_made_is_recognised(
            file in r"\PC{0,200}|[._a-f0-9-]{0,40}|compacted-[0-9a-f]{16}(-[0-9]{1,3})?(\.gz)?",
            key in ".{0,20}",
            from in prop_oneof![Just(0), any::<u64>()],
            number in prop_oneof![Just(0), 1..200u32],
            ending in prop_oneof![Just(".ndjson.gz"), Just(".parquet")],
        ) {
            let object = ObjectRef { bucket: "b".into(), key: key.clone(), ..ObjectRef::default() };
            let stem = stem(&Route { file, ..Route::default() }, &object, "s3");
            let name = file_name(&stem, from, number, ending);
            prop_assert!(is_ours(&name, ending), "{name}");
            prop_assert!(!name.starts_with(COMPACTED), "{name}");
            let other = if ending == ".parquet" { ".ndjson.gz" } else { ".parquet" };
            prop_assert!(!is_ours(&name, other), "{name}");
            let name = compacted_name(&key, ending);
            prop_assert!(is_ours(&name, ending), "{name}");
        }
    }

    #[test]
    fn names_of_other_programs_are_not_recognised() {
        let ours = "1-x-0123456789abcdef";
        for name in ["", "-from7", "-1", "-from7-12"] {
            assert!(is_ours(&format!("{ours}{name}.parquet"), ".parquet"), "{name}");
        }
        for name in [
            "a",
            "",
            "0123456789abcdef",
            "my notes-0123456789abcdef",
            "caf\u{e9}-0123456789abcdef",
            "a%3Ab-0123456789abcdef",
            "a-0123456789abcdeF",
            "a-0123456789abcde",
            "a-0123456789abcdef0",
            "a-0123456789abcdef-0",
            "a-0123456789abcdef-01",
            "a-0123456789abcdef-copy",
            "a-0123456789abcdef-1-1",
            "a-0123456789abcdef-1-from1",
            "a-0123456789abcdef-from",
            "a-0123456789abcdef-from0",
            "a-0123456789abcdef (1)",
            "_a-0123456789abcdef",
            ".a-0123456789abcdef",
            "part-00000-2f1e77c0-9ab0-4d5a-8c01-c000a1b2c3d4-c000.snappy",
            "compacted-1",
            "compacted-0123456789abcdef-1",
            "compacted-a-0123456789abcdef",
            "compacted-0123456789abcdeg",
        ] {
            assert!(!is_ours(&format!("{name}.parquet"), ".parquet"), "{name}");
        }
        assert!(!is_ours(&format!("{}-0123456789abcdef.parquet", "x".repeat(130)), ".parquet"));
        assert!(!is_ours(ours, ".parquet") && !is_ours("1-x-0123456789abcdef.parquet.gz", ".parquet"));
    }

    #[test]
    fn a_stem_names_the_exact_object() {
        let stem = |file: &str, key: &str, etag: Option<&str>| {
            let object = ObjectRef {
                bucket: "b".into(),
                key: key.into(),
                etag: etag.map(str::to_owned),
                ..ObjectRef::default()
            };
            super::stem(&Route { file: file.to_owned(), ..Route::default() }, &object, "s3")
        };
        assert!(stem("1-x.json.gz", "k", None).starts_with("1-x-"));
        assert!(stem("_1.ndjson.zst", "k", None).starts_with("f_1-"));
        assert!(stem("compacted-1.gz", "k", None).starts_with("fcompacted-1-"));
        assert!(stem(".gz", "k", None).starts_with('-'));
        assert!(stem("é a.log", "k", None).starts_with("--a-"));
        let different = [
            stem("f", "k", None),
            stem("f", "k2", None),
            stem("f", "k", Some("1")),
            stem("f", "k", Some("2")),
        ];
        assert!((0..4).all(|one| (0..one).all(|other| different[one] != different[other])), "{different:?}");
        assert!(stem(&"x".repeat(900), "k", None).len() < 150);
    }
}
