//! Selects objects of a listing by time, tenant and application. Pure.

use jiff::Timestamp;

use crate::{
    object::listing::ListedObject,
    route::{KeyError, Rules},
};

/// Which objects of the bucket are selected.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Beginning of the keys.
    pub prefix: String,
    /// Earliest LastModified.
    pub since: Option<Timestamp>,
    /// LastModified that is too late, and all later ones.
    pub until: Option<Timestamp>,
    /// Tenants. Empty: all.
    pub tenants: Vec<String>,
    /// Applications. Empty: all.
    pub applications: Vec<String>,
    /// What the keys mean.
    pub key_rules: Rules,
}

/// Whether an object is selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The object is selected, and is this tenant's.
    Selected {
        /// The tenant.
        tenant_id: String,
    },
    /// The object's time, tenant or application is not selected.
    Unselected,
    /// The object is a folder marker: it has no bytes, and its key ends with a slash.
    FolderMarker,
    /// The key has no meaning.
    BadKey(KeyError),
}

impl Selection {
    /// Prefixes that together have every selected object. None begins with another.
    pub fn prefixes(&self) -> Vec<String> {
        let of_tenants: Option<Vec<_>> =
            self.tenants.iter().map(|tenant| self.key_rules.prefix_of(tenant)).collect();
        let mut prefixes = match of_tenants {
            Some(prefixes) if !prefixes.is_empty() => prefixes,
            Some(_) | None => return vec![self.prefix.clone()],
        };
        prefixes.retain_mut(|prefix| {
            if self.prefix.starts_with(prefix.as_str()) {
                prefix.clone_from(&self.prefix);
            }
            prefix.starts_with(&self.prefix)
        });
        prefixes.sort();
        prefixes.dedup();
        prefixes
    }

    /// Decides whether an object is selected.
    pub fn choose(&self, listed: &ListedObject) -> Choice {
        let ListedObject { key, size, modified, .. } = listed;
        if self.since.is_some_and(|since| *modified < since)
            || self.until.is_some_and(|until| *modified >= until)
        {
            return Choice::Unselected;
        }
        if *size == 0 && key.ends_with('/') {
            return Choice::FolderMarker;
        }
        let route = match self.key_rules.route(key) {
            Ok(route) => route,
            Err(error) => return Choice::BadKey(error),
        };
        let among = |names: &[String], name: &String| names.is_empty() || names.contains(name);
        if among(&self.tenants, &route.tenant) && among(&self.applications, &route.application) {
            Choice::Selected { tenant_id: route.tenant }
        } else {
            Choice::Unselected
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::route::KeyLayout;

    /// Everything.
    pub(in crate::replay) fn selection(layout: &str) -> Selection {
        Selection {
            prefix: String::new(),
            since: None,
            until: None,
            tenants: Vec::new(),
            applications: Vec::new(),
            key_rules: KeyLayout::parse(layout).expect("the layout is valid").into(),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_what_may_be_selected_is_listed() {
        let check = |layout: &str, prefix: &str, tenants: &[&str], expected: &[&str]| {
            let selection =
                Selection { prefix: prefix.to_owned(), tenants: names(tenants), ..selection(layout) };
            assert_eq!(selection.prefixes(), expected, "{layout} {prefix} {tenants:?}");
        };
        let layout = KeyLayout::DEFAULT;
        check(layout, "", &[], &[""]);
        check(layout, "acme/c1/", &[], &["acme/c1/"]);
        check(layout, "", &["globex", "acme", "acme"], &["acme/", "globex/"]);
        check(layout, "acme/c1/", &["acme", "globex"], &["acme/c1/"]);
        check(layout, "ac", &["acme", "globex"], &["acme/"]);
        check(layout, "x/", &["acme"], &[]);
        check("logs/{tenant}/{file}", "logs/", &["acme"], &["logs/acme/"]);
        check("{cluster}/{tenant}/{file}", "c1/", &["acme"], &["c1/"]);
    }

    #[test]
    fn objects_are_selected_by_time_tenant_and_application() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let selection = Selection {
            since: Some(at(10)),
            until: Some(at(20)),
            tenants: names(&["acme", "globex"]),
            applications: names(&["web"]),
            ..selection(KeyLayout::DEFAULT)
        };
        let check = |key: &str, size: u64, second: i64, expected: Choice| {
            let listed = ListedObject { key: key.to_owned(), size, etag: None, modified: at(second) };
            assert_eq!(selection.choose(&listed), expected, "{key}");
        };
        let selected = |tenant: &str| Choice::Selected { tenant_id: tenant.to_owned() };
        check("acme/c/web/p/f", 1, 10, selected("acme"));
        check("globex/c/web/p/f", 0, 19, selected("globex"));
        check("acme/c/web/p/f", 1, 9, Choice::Unselected);
        check("acme/c/web/p/f", 1, 20, Choice::Unselected);
        check("initech/c/web/p/f", 1, 10, Choice::Unselected);
        check("acme/c/db/p/f", 1, 10, Choice::Unselected);
        check("acme/", 0, 10, Choice::FolderMarker);
        check("acme/", 1, 10, Choice::BadKey(KeyError::EmptySegment(2)));
        check("acme/f", 1, 10, Choice::BadKey(KeyError::SegmentCount { found: 2, expected: 5 }));
        check("acme/f", 1, 9, Choice::Unselected);
    }
}
