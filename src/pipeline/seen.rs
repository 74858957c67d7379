//! Remembers which members records had that a lake's `fields` names, so that the log tells names that no record has, and not
//! members that some records lack.

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use lru::LruCache;

use crate::{
    lake::ndjson::{Members, Sight},
    tenant::Delivery,
};

/// Most rows that are remembered.
const ROWS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Names of each row that records had, since the worker's start.
#[derive(Debug)]
pub(super) struct SeenMembers {
    rows: Mutex<LruCache<(String, String), BTreeSet<String>>>,
}

/// A name that no record of the row has had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unseen<'a> {
    pub(super) name: &'a str,
    /// A member of records whose name differs only in upper and lower case.
    pub(super) similar: Option<&'a str>,
}

impl Default for SeenMembers {
    fn default() -> Self {
        Self { rows: Mutex::new(LruCache::new(ROWS)) }
    }
}

impl SeenMembers {
    /// Remembers the members of an object's records. Returns those that neither they nor earlier ones had.
    pub(super) fn unseen<'a>(&self, delivery: &Delivery, members: &'a Members) -> Vec<Unseen<'a>> {
        if members.named().next().is_none() {
            return Vec::new();
        }
        let row = (delivery.tenant_id.clone(), delivery.name.clone());
        // The cache is consistent after every statement, so a poisoned lock can be used.
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = rows.get_or_insert_mut(row, BTreeSet::new);
        // The row may have other fields now.
        seen.retain(|seen| members.named().any(|(name, _)| name == seen));
        let mut unseen = Vec::new();
        for (name, sight) in members.named() {
            let similar = match sight {
                Sight::Found => {
                    if !seen.contains(name) {
                        seen.insert(name.to_owned());
                    }
                    continue;
                }
                Sight::Missing => None,
                Sight::Similar(similar) => Some(similar.as_str()),
            };
            if !seen.contains(name) {
                unseen.push(Unseen { name, similar });
            }
        }
        unseen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::{Attribute, Content, Fields, Row, check_row};

    fn delivery(name: &str) -> std::sync::Arc<Delivery> {
        let text = |value: &str| Attribute::Text(value.to_owned());
        let row = [
            ("enabled", Attribute::Bool(true)),
            ("bucket_name", text("b-1")),
            ("target_region", text("us-east-1")),
        ];
        let row: Row = row.map(|(name, value)| (name.to_owned(), value)).into();
        match check_row("acme", name, &row, None) {
            Ok(Content::Delivery(delivery)) => delivery,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_member_that_some_record_had_is_not_told() {
        let (seen, lake) = (SeenMembers::default(), delivery("s3"));
        let named = |names: &[&str]| Fields::Named(names.iter().map(|name| (*name).to_owned()).collect());
        let members = |names: &[&str], found: &[&str]| {
            let mut members = Members::new(&named(names));
            for name in found {
                members.take(name);
            }
            members
        };
        let check = |lake: &Delivery, names: &[&str], found: &[&str], expected: &[(&str, Option<&str>)]| {
            let members = members(names, found);
            let unseen: Vec<_> =
                seen.unseen(lake, &members).iter().map(|unseen| (unseen.name, unseen.similar)).collect();
            assert_eq!(unseen, expected, "{names:?} of {found:?}");
        };
        check(&lake, &["a", "B", "c"], &["a", "b"], &[("B", Some("b")), ("c", None)]);
        check(&lake, &["a", "B", "c"], &["c"], &[("B", None)]);
        check(&lake, &["a", "B", "c"], &[], &[("B", None)]);
        check(&delivery("s3#other"), &["a"], &[], &[("a", None)]);
        // The row was changed.
        check(&lake, &["b"], &["b"], &[]);
        check(&lake, &["B"], &["b"], &[("B", Some("b"))]);
    }
}
