//! The names of logferry's files, for the compaction.

use super::{COMPACTED, FROM, HASH, MAX_STEM, is_legal};
use crate::digest;

/// Name of a file that the compaction writes. `unique` is a text that no other file has.
pub(in crate::lake) fn compacted_name(unique: &str, ending: &str) -> String {
    format!("{COMPACTED}{}{ending}", &digest::sha256(unique.as_bytes())[..HASH])
}

/// Whether logferry wrote a file, by its name: `file_name` or [`compacted_name`] makes such names. Other programs' files in a
/// lake's folders are not for the compaction.
pub(in crate::lake) fn is_ours(name: &str, ending: &str) -> bool {
    let Some(name) = name.strip_suffix(ending) else { return false };
    if let Some(hash) = name.strip_prefix(COMPACTED) {
        return is_hash(hash);
    }
    let object = |name: &str| is_stem(name) || without_number(name, FROM).is_some_and(is_stem);
    object(name) || without_number(name, "-").is_some_and(object)
}

/// A name without the number that ends it.
fn without_number<'a>(name: &'a str, mark: &str) -> Option<&'a str> {
    let (before, number) = name.rsplit_once(mark)?;
    let is_number =
        !number.starts_with('0') && number.parse::<u64>().is_ok_and(|read| read.to_string() == number);
    is_number.then_some(before)
}

fn is_stem(name: &str) -> bool {
    let Some((stem, hash)) = name.rsplit_once('-') else { return false };
    // The name of an object, and perhaps an `f` before it.
    let fits = stem.len() <= MAX_STEM + 1 && stem.bytes().all(|byte| is_legal(char::from(byte)));
    fits && !stem.starts_with(['_', '.']) && is_hash(hash)
}

fn is_hash(text: &str) -> bool {
    text.len() == HASH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
