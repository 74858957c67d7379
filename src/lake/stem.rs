//! Names of lake files.

use crate::{digest, event::ObjectRef, ledger::EntryKey, route::Route};

/// Most bytes that a file's name takes from the name of its object.
const MAX_STEM: usize = 128;
/// Endings of objects' names that are removed, because a lake file has an ending of its own.
const ENDINGS: [&str; 7] = [".gz", ".zst", ".json", ".ndjson", ".jsonl", ".log", ".txt"];
/// Beginning of the names of files that the compaction writes.
pub const COMPACTED: &str = "compacted-";

/// Name of an object's lake files without their ending: the object's name, and a hash of the exact object and the row. The hash
/// makes the name different for any two objects, and for two rows of one tenant. The name is the same in every attempt.
pub fn stem(route: &Route, object: &ObjectRef, delivery: &str) -> String {
    let mut name = route.file.as_str();
    while let Some(shorter) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
        name = shorter;
    }
    let legal = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let stem: String = name.chars().map(legal).take(MAX_STEM).collect();
    // Query engines skip files whose names begin with `_` or `.`, and the compaction's files have a beginning of their own.
    let first = if stem.starts_with(['_', '.']) || stem.starts_with(COMPACTED) { "f" } else { "" };
    let exact = EntryKey::of(object, delivery).map(|entry| entry.object);
    let exact = exact.unwrap_or_else(|| format!("{}/{}", object.bucket, object.key));
    let exact = format!("{exact}\n{delivery}");
    format!("{first}{stem}-{}", &digest::sha256(exact.as_bytes())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

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
