//! A copy's metadata names its source object. The next copy to the same key compares this name with its own source. No I/O.

use std::{cmp::Ordering, collections::HashMap};

use super::{CopyError, CopyJob, encoded};
use crate::{digest, event::ObjectRef, route::Route};

/// Largest total size of the names and values of an object's own metadata, in bytes. Source: S3 User Guide, "Working with
/// object metadata".
const MAX_METADATA: usize = 2048;
/// Longest encoded key that the metadata contains in full; a longer key is hashed. With this limit, everything that
/// identifies a source fits into [`MAX_METADATA`].
const MAX_WRITTEN_KEY: usize = 1024;

const DELIVERED_BY: &str = "delivered-by";
const SOURCE_BUCKET: &str = "source-bucket";
const SOURCE_KEY: &str = "source-key";
const SOURCE_SEQUENCER: &str = "source-sequencer";

/// What happens to an existing object at the copy's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The copy replaces the object.
    Replaced,
    /// The object is a copy of a later version, and stays.
    Newer,
}

/// The origin of what is written into a customer's bucket, as metadata of the customer's object. Values are URL-encoded, because S3
/// allows only ASCII. The list is in order of importance: a value for which no room is left is omitted.
pub fn metadata(object: &ObjectRef, route: &Route, version: Option<&str>) -> Vec<(&'static str, String)> {
    let Route { tenant, cluster, .. } = route;
    let all = [
        (DELIVERED_BY, Some(encoded(concat!("logferry/", env!("CARGO_PKG_VERSION"))))),
        (SOURCE_BUCKET, Some(encoded(&object.bucket))),
        (SOURCE_KEY, Some(written_key(&object.key))),
        (SOURCE_SEQUENCER, object.sequencer.as_deref().map(encoded)),
        ("tenant-id", Some(encoded(tenant))),
        ("source-version", version.map(encoded)),
        ("cluster-id", Some(encoded(cluster)).filter(|cluster| !cluster.is_empty())),
    ];
    let mut room = MAX_METADATA;
    let mut metadata = Vec::new();
    for (name, value) in all {
        let Some(value) = value else { continue };
        if let Some(left) = room.checked_sub(name.len() + value.len()) {
            room = left;
            metadata.push((name, value));
        }
    }
    metadata
}

impl CopyJob<'_> {
    /// The copy's origin.
    pub(super) fn metadata(&self) -> Vec<(&'static str, String)> {
        metadata(self.way.object, self.way.route, self.version())
    }

    /// Decides what happens to the existing object at `key`, whose metadata is `metadata`.
    ///
    /// An object that does not name its source is replaced: an earlier system may have written it, or an earlier version of
    /// logferry without room for the key.
    ///
    /// # Errors
    /// [`CopyError::Collision`]: the object is a copy of another object.
    pub(super) fn standing(
        &self,
        key: &str,
        metadata: &HashMap<String, String>,
    ) -> Result<Standing, CopyError> {
        let said = |name: &str| metadata.get(name).map(String::as_str);
        if !said(DELIVERED_BY).is_some_and(|by| by.starts_with("logferry/")) {
            return Ok(Standing::Replaced);
        }
        let (Some(bucket), Some(source)) = (said(SOURCE_BUCKET), said(SOURCE_KEY)) else {
            return Ok(Standing::Replaced);
        };
        let object = self.way.object;
        let same_key = source == encoded(&object.key) || source == written_key(&object.key);
        if bucket != encoded(&object.bucket) || !same_key {
            return Err(CopyError::Collision { key: key.to_owned(), original: format!("{bucket}/{source}") });
        }
        let order = said(SOURCE_SEQUENCER).zip(object.sequencer.as_deref()).and_then(|(a, b)| in_order(a, b));
        Ok(if order == Some(Ordering::Greater) { Standing::Newer } else { Standing::Replaced })
    }
}

/// The key as the metadata contains it: URL-encoded, or `sha256:` and its hash if the encoded key is too long. An encoded
/// key never contains a colon.
fn written_key(key: &str) -> String {
    let written = encoded(key);
    if written.len() > MAX_WRITTEN_KEY {
        format!("sha256:{}", digest::sha256(key.as_bytes()))
    } else {
        written
    }
}

/// Compares two sequencers of the same key. `None` if one is not a hexadecimal number. The shorter one is padded with zeros
/// on its left. Source: S3 User Guide, "Event message structure".
fn in_order(one: &str, other: &str) -> Option<Ordering> {
    let number = |text: &str| {
        let legal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        legal.then(|| text.trim_start_matches('0').to_ascii_uppercase())
    };
    let (one, other) = (number(one)?, number(other)?);
    Some(one.len().cmp(&other.len()).then_with(|| one.cmp(&other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::tests::Order;

    const KEY: &str = "acme/prod-1/web/web-0/1.json.gz";
    const TARGET: &str = "ROSA/cluster-logs/acme/web/web-0/1.json.gz";

    fn order(key: &str, sequencer: Option<&str>) -> Order {
        let mut order = Order::new(key, &[("target_region", "us-east-1"), ("bucket_name", "theirs")]);
        order.object.sequencer = sequencer.map(str::to_owned);
        order
    }

    fn metadata(order: &Order) -> HashMap<String, String> {
        order.job().metadata().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn the_metadata_names_the_origin_of_a_copy() {
        let mut order = order("acme/prod-é/web/web 0/1.json.gz", Some("0055AED6DCD90281E5"));
        order.object.version_id = Some("v1".into());
        let expected = [
            ("delivered-by", concat!("logferry/", env!("CARGO_PKG_VERSION"))),
            ("source-bucket", "staging"),
            ("source-key", "acme/prod-%C3%A9/web/web%200/1.json.gz"),
            ("source-sequencer", "0055AED6DCD90281E5"),
            ("tenant-id", "acme"),
            ("source-version", "v1"),
            ("cluster-id", "prod-%C3%A9"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        assert_eq!(order.job().metadata(), expected);
    }

    #[test]
    fn everything_that_identifies_the_source_fits() {
        // 200 characters of four bytes each become 2,400 bytes in the encoded tenant.
        let (tenant, file) = ("😀".repeat(200), "é".repeat(100));
        let order = order(&format!("{tenant}/prod-1/web/web-0/{file}"), Some("0055AED6DCD90281E5"));
        let metadata = order.job().metadata();
        let names: Vec<_> = metadata.iter().map(|(name, _)| *name).collect();
        let expected = ["delivered-by", "source-bucket", "source-key", "source-sequencer", "cluster-id"];
        assert_eq!(names, expected, "no room for the tenant");
        assert!(metadata[2].1.starts_with("sha256:"), "{metadata:?}");
        let size: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(size <= MAX_METADATA, "{size}");
        let other = self::order(&format!("{tenant}/prod-2/web/web-0/{file}"), None);
        let theirs = self::metadata(&order);
        assert!(matches!(other.job().standing(TARGET, &theirs), Err(CopyError::Collision { .. })));
        assert_eq!(order.job().standing(TARGET, &theirs), Ok(Standing::Replaced));
    }

    #[test]
    fn only_a_later_version_of_the_same_object_stays() {
        use Standing::{Newer, Replaced};
        let check = |there: Option<&str>, ours: Option<&str>, expected: Standing| {
            let there = metadata(&order(KEY, there));
            assert_eq!(order(KEY, ours).job().standing(TARGET, &there), Ok(expected), "{there:?} {ours:?}");
        };
        check(Some("0B"), Some("0A"), Newer);
        check(Some("0A"), Some("0A"), Replaced);
        check(Some("0A"), Some("0B"), Replaced);
        // Sequencers are padded on the left; upper and lower case digits are equal.
        check(Some("100"), Some("FF"), Newer);
        check(Some("00FF"), Some("100"), Replaced);
        check(Some("b"), Some("0A"), Newer);
        check(Some("000A"), Some("a"), Replaced);
        check(Some("0055AED6DCD90281E6"), Some("55AED6DCD90281E5"), Newer);
        // A sequencer is missing or not hexadecimal.
        for (there, ours) in [
            (None, Some("0A")),
            (Some("0B"), None),
            (None, None),
            (Some("x"), Some("0A")),
            (Some("B"), Some("")),
        ] {
            check(there, ours, Replaced);
        }
    }

    #[test]
    fn a_copy_of_another_object_is_a_collision() {
        let there = |change: fn(&mut Order)| {
            let mut order = order(KEY, Some("0B"));
            change(&mut order);
            metadata(&order)
        };
        let check = |metadata: &HashMap<String, String>, collides: bool| {
            let standing = order(KEY, Some("0A")).job().standing(TARGET, metadata);
            assert_eq!(matches!(standing, Err(CopyError::Collision { .. })), collides, "{metadata:?}");
        };
        let other_cluster = there(|order| order.object.key = KEY.replace("prod-1", "prod-2"));
        check(&other_cluster, true);
        check(&there(|order| order.object.bucket = "staging-2".into()), true);
        check(&there(|_| ()), false);
        let error = order(KEY, None).job().standing(TARGET, &other_cluster).expect_err("another source");
        let told = error.to_string();
        assert!(["acme/prod-2/web", TARGET, "bucket_key"].iter().all(|part| told.contains(part)), "{told}");
        // The object is not logferry's, or does not name its source.
        for missing in ["delivered-by", "source-bucket", "source-key"] {
            let mut metadata = other_cluster.clone();
            metadata.remove(missing);
            check(&metadata, false);
        }
        let mut foreign = other_cluster;
        foreign.insert("delivered-by".to_owned(), "another system".to_owned());
        check(&foreign, false);
        check(&HashMap::new(), false);
    }
}
