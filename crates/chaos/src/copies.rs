//! Compares the objects in a customer's bucket with those that should have been copied there.

use std::collections::BTreeMap;

/// Lists the differences between the objects found in a bucket and the expected ones, one line each. Keys of both maps are
/// object keys.
pub(crate) fn compare(
    bucket: &str,
    expected: &BTreeMap<String, &[u8]>,
    found: &BTreeMap<String, Vec<u8>>,
) -> Vec<String> {
    let mut flaws = Vec::new();
    for (key, bytes) in expected {
        match found.get(key) {
            None => flaws.push(format!("{bucket}: no copy {key}")),
            Some(copy) if copy != bytes => {
                flaws.push(format!("{bucket}: {key} is not the newest object's copy"))
            }
            Some(_) => {}
        }
    }
    let foreign = found.keys().filter(|key| !expected.contains_key(*key));
    flaws.extend(foreign.map(|key| format!("{bucket}: unexpected object {key}")));
    flaws
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flaw_is_reported() {
        let expected: BTreeMap<String, &[u8]> = [("a".to_owned(), &b"1"[..]), ("b".to_owned(), b"2")].into();
        let check = |found: &[(&str, &str)], flaws: usize| {
            let found =
                found.iter().map(|(key, bytes)| ((*key).to_owned(), bytes.as_bytes().to_vec())).collect();
            assert_eq!(compare("bucket", &expected, &found).len(), flaws, "{found:?}");
        };
        check(&[("a", "1"), ("b", "2")], 0);
        check(&[("a", "1")], 1);
        check(&[("a", "1"), ("b", "0")], 1);
        check(&[("a", "1"), ("b", "2"), ("c", "3")], 1);
    }
}
