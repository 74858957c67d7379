//! Decides what a turn at a folder does, from the folder's listing and its manifest. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use crate::lake::{
    bucket::ListedFile,
    manifest::{Content, Manifest, State, is_compacted, url},
    stem::is_ours,
};

/// Most files that one turn writes. A turn must end long before others take it over.
const MOST_GROUPS: usize = 16;

/// Most files that one turn merges.
const MOST_FILES: usize = 2000;

/// What to do in a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TurnPlan {
    /// Files to merge. Each group becomes one file.
    pub(super) groups: Vec<Vec<ListedFile>>,
    /// Files to delete, by the URL of the file that replaced them. With the content that is in it.
    pub(super) replaced: BTreeMap<String, Vec<(ListedFile, Content)>>,
    /// Abandoned files.
    pub(super) abandoned: Vec<ListedFile>,
    /// URLs of files whose name is of the compaction, and which the manifest does not know.
    pub(super) unknown: Vec<String>,
}

/// Plans a turn. `listing` is older than `manifest`. Only files that logferry wrote and that have the row's `ending` are merged:
/// if the row had another format before, the folder has others too, and other programs may write into it. Files that were
/// replaced until `due` are to be deleted. Files in `left` stay as they are.
pub(super) fn plan(
    bucket: &str,
    listing: &[ListedFile],
    manifest: &Manifest,
    ending: &str,
    due: Timestamp,
    target: u64,
    left: &BTreeSet<String>,
) -> TurnPlan {
    let mut plan = TurnPlan::default();
    let mut small = Vec::new();
    for file in listing {
        let at = url(bucket, &file.key);
        let name = file.key.rsplit('/').next().unwrap_or_default();
        let ours = is_ours(name, ending);
        match manifest.state(&at) {
            Some(State::Replaced { by, content }) => {
                let due = manifest.since(&at).is_some_and(|since| since <= due);
                // A row of another format writes no file of this ending again.
                if due && !left.contains(&file.key) && (ours || file.etag == content.etag) {
                    plan.replaced.entry(by.clone()).or_default().push((file.clone(), content.clone()));
                }
            }
            Some(State::Abandoned) => plan.abandoned.push(file.clone()),
            Some(State::Merging { .. }) => {}
            _ if !name.ends_with(ending) => {}
            None if is_compacted(name) => plan.unknown.push(at),
            None if !ours => {}
            Some(State::Merged) | None => {
                if file.size < target / 2 && !left.contains(&file.key) {
                    small.push(file.clone());
                }
            }
        }
    }
    small.sort_by(|one, other| one.key.cmp(&other.key));
    small.truncate(MOST_FILES);
    let mut size = 0;
    let mut group = Vec::new();
    for file in small {
        if size + file.size > target {
            plan.groups.push(std::mem::take(&mut group));
            size = 0;
        }
        size += file.size;
        group.push(file);
    }
    plan.groups.push(group);
    plan.groups.retain(|group| group.len() > 1);
    plan.groups.truncate(MOST_GROUPS);
    plan
}

/// Whether something is older than `age`.
pub(super) fn is_older(at: Timestamp, age: Duration, now: Timestamp) -> bool {
    now.duration_since(at).unsigned_abs() >= age && at <= now
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: u64 = 100;
    const HASH: &str = "-0123456789abcdef";

    /// Key of a file of the worker or of the compaction.
    fn key(name: &str) -> String {
        if is_compacted(name) { format!("f/{name}") } else { format!("f/{name}{HASH}") }
    }

    fn check(files: &[(&str, u64)], manifest: &Manifest, left: &str, expected: &[&[&str]]) -> TurnPlan {
        let file =
            |(name, size): &(&str, u64)| ListedFile { key: key(name), size: *size, etag: "e".to_owned() };
        let listing: Vec<_> = files.iter().map(file).collect();
        let left = BTreeSet::from([key(left)]);
        let plan = plan("b", &listing, manifest, "", Timestamp::UNIX_EPOCH, TARGET, &left);
        let groups: Vec<Vec<_>> = plan
            .groups
            .iter()
            .map(|group| group.iter().map(|file| file.key[2..].trim_end_matches(HASH)).collect())
            .collect();
        assert_eq!(groups, expected);
        plan
    }

    #[test]
    fn small_files_are_grouped_up_to_the_target() {
        let nothing = Manifest::default();
        check(&[], &nothing, "", &[]);
        check(&[("a", 1)], &nothing, "", &[]);
        check(&[("a", 1), ("b", 50)], &nothing, "", &[]);
        check(&[("a", 0), ("b", 49)], &nothing, "", &[&["a", "b"]]);
        check(&[("c", 49), ("a", 49), ("b", 2), ("d", 1)], &nothing, "", &[&["a", "b", "c"]]);
        check(
            &[("a", 40), ("b", 40), ("c", 40), ("d", 40), ("e", 1)],
            &nothing,
            "",
            &[&["a", "b"], &["c", "d", "e"]],
        );
        check(&[("a", 1), ("b", 1), ("c", 1)], &nothing, "b", &[&["a", "c"]]);
    }

    #[test]
    fn a_turn_merges_a_bounded_number_of_files() {
        let file = |number| ListedFile { key: key(&format!("{number:05}")), size: 0, etag: "e".to_owned() };
        let listing: Vec<_> = (0..5000).map(file).collect();
        let nothing = (Manifest::default(), BTreeSet::new());
        let plan = plan("b", &listing, &nothing.0, "", Timestamp::UNIX_EPOCH, TARGET, &nothing.1);
        assert_eq!(plan.groups, [&listing[..2000]]);
    }

    #[test]
    fn the_manifest_decides_about_a_file() {
        let mut manifest = Manifest::default();
        let at = |name: &str| url("b", &key(name));
        manifest.begin(at("compacted-0"), "m", Vec::new(), Timestamp::UNIX_EPOCH);
        manifest.abandon(Timestamp::UNIX_EPOCH);
        let content = Content { records: 1, etag: "e".to_owned() };
        let sources = ["a", "compacted-1"].map(|name| (at(name), content.clone()));
        manifest.replace(sources, &at("compacted-2"), Timestamp::UNIX_EPOCH);
        manifest.begin(at("compacted-3"), "m", Vec::new(), Timestamp::UNIX_EPOCH);
        let names = ["a", "b", "compacted-0", "compacted-1", "compacted-2", "compacted-3", "compacted-4"];
        let plan = check(&names.map(|name| (name, 1)), &manifest, "", &[&["b", "compacted-2"]]);
        let file = |name: &str| ListedFile { key: key(name), size: 1, etag: "e".to_owned() };
        let replaced = vec![(file("a"), content.clone()), (file("compacted-1"), content)];
        assert_eq!(plan.replaced, BTreeMap::from([(at("compacted-2"), replaced)]));
        assert_eq!(plan.abandoned, [file("compacted-0")]);
        assert_eq!(plan.unknown, [at("compacted-4")]);
    }
}
