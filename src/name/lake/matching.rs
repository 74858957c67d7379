//! Reads the names of folders back. A name is a segment of a key, without its slash.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use super::{LakePart, LakeSegment, escaped};
use crate::route::{Name, Route};

/// Unit by unit, the time that the names of a folder say. The units come in the order of [`TimePart::ALL`](super::TimePart::ALL).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FolderTime {
    units: [Option<i16>; 4],
}

impl FolderTime {
    /// The time from the beginning of what is known to its end: a year, a month, a day or an hour. `None`: no such time exists.
    /// If nothing is known, it is all time.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        let [Some(year), month, day, hour] = self.units else {
            return Some((Timestamp::MIN, Timestamp::MAX));
        };
        let small = |unit: Option<i16>, first: i8| unit.map_or(Some(first), |unit| i8::try_from(unit).ok());
        let date = Date::new(year, small(month, 1)?, small(day, 1)?).ok()?;
        let start = date.to_datetime(jiff::civil::Time::new(small(hour, 0)?, 0, 0, 0).ok()?);
        let end = match (month, day, hour) {
            (_, _, Some(_)) => start.checked_add(jiff::Span::new().hours(1)),
            (_, Some(_), None) => start.checked_add(jiff::Span::new().days(1)),
            (Some(_), None, None) => start.checked_add(jiff::Span::new().months(1)),
            (None, None, None) => start.checked_add(jiff::Span::new().years(1)),
        };
        let at = |time: jiff::civil::DateTime| TimeZone::UTC.to_timestamp(time).ok();
        Some((at(start)?, end.ok().and_then(at).unwrap_or(Timestamp::MAX)))
    }
}

impl LakeSegment {
    /// Whether the segment has a part of the time. It has no name of the object's key then.
    pub fn has_time(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, LakePart::Time(_)))
    }

    /// The segment's text, if it is the same in all folders of the route's tenant.
    pub fn constant(&self, route: &Route) -> Option<String> {
        let same = |part: &LakePart| matches!(part, LakePart::Text(_) | LakePart::Name(Name::Tenant));
        self.parts.iter().all(same).then(|| self.text(route, Timestamp::UNIX_EPOCH))
    }

    /// Reads a folder's name: whether the segment can have it for the route's tenant, and, added to `known`, the time in it.
    pub fn read(&self, name: &str, route: &Route, known: FolderTime) -> Option<FolderTime> {
        let value = match &self.partition {
            None => name,
            Some(partition) => name.strip_prefix(partition)?.strip_prefix('=')?,
        };
        let mut time = known;
        if self.has_time() {
            let mut rest = value;
            for part in &self.parts {
                rest = match part {
                    LakePart::Time(unit) => {
                        let digits = rest.get(..unit.letters().len())?;
                        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                            return None;
                        }
                        time.units[*unit as usize] = digits.parse().ok();
                        &rest[digits.len()..]
                    }
                    LakePart::Text(text) => rest.strip_prefix(text.as_str())?,
                    // The layout has no names beside a time.
                    LakePart::Name(_) => return None,
                };
            }
            return rest.is_empty().then_some(time);
        }
        let fits = value == super::NO_VALUE || fits(&self.parts, value, &escaped(&route.tenant));
        fits.then_some(time)
    }
}

/// Whether a value can be made of the parts. Names other than the tenant's may have any value.
fn fits(parts: &[LakePart], value: &str, tenant: &str) -> bool {
    // Plain texts, with a name before each of them but the first.
    let mut texts = vec![String::new()];
    for part in parts {
        match (part, texts.last_mut()) {
            (LakePart::Text(text), Some(last)) => last.push_str(text),
            (LakePart::Name(Name::Tenant), Some(last)) => last.push_str(tenant),
            _ => texts.push(String::new()),
        }
    }
    let [first, between @ ..] = &*texts else { return false };
    let Some(mut rest) = value.strip_prefix(first.as_str()) else { return false };
    let Some((last, between)) = between.split_last() else { return rest.is_empty() };
    for text in between {
        let Some(at) = rest.find(text.as_str()) else { return false };
        rest = &rest[at + text.len()..];
    }
    rest.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::LakeLayout, *};

    fn route(application: &str) -> Route {
        Route { tenant: "acme".into(), application: application.into(), ..Route::default() }
    }

    /// Reads a folder back, segment by segment.
    fn read(layout: &LakeLayout, folder: &str, route: &Route) -> Option<FolderTime> {
        let names = folder.trim_end_matches('/').split('/');
        let mut segments = layout.segments().iter().zip(names);
        segments.try_fold(FolderTime::default(), |known, (segment, name)| segment.read(name, route, known))
    }

    #[test]
    fn names_are_read_back() {
        let check = |layout: &str, folder: &str, expected: Option<(&str, &str)>| {
            let layout = LakeLayout::parse(layout).expect("the layout is valid");
            let found = read(&layout, folder, &route("web")).and_then(|time| time.span());
            let found = found.map(|(start, end)| (start.to_string(), end.to_string()));
            let expected = expected.map(|(start, end)| (start.to_owned(), end.to_owned()));
            assert_eq!(found, expected, "{folder}");
        };
        let hour = Some(("2026-01-02T03:00:00Z", "2026-01-02T04:00:00Z"));
        let days = "t={tenant}/app={cluster}-{application}/dt=YYYY-MM-DD/hour=HH/{file}";
        check(days, "t=acme/app=c-1-web/dt=2026-01-02/hour=03/", hour);
        check(days, "t=acme/app=-/dt=2026-01-02/", Some(("2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z")));
        check(days, "t=acme/app=web/dt=2026-01-02/hour=03/", None);
        check(days, "t=other/app=c-web/dt=2026-01-02/hour=03/", None);
        check(days, "t=acme/app=c-web/dt=2026-1-2/hour=03/", None);
        check(days, "t=acme/app=c-web/dt=2026-01-02x/hour=03/", None);
        check(days, "t=acme/app=c-web/dt=2026-13-02/hour=03/", None);
        check(days, "t=acme/app=c-web/dt=2026-12-31/hour=24/", None);
        check(days, "t=acme/apps=c-web/dt=2026-12-31/hour=23/", None);
        let default = LakeLayout::DEFAULT;
        check(default, "source=web/year=2026/", Some(("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z")));
        check(default, "source=/year=2026/month=12/", Some(("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z")));
        check(default, "source=__HIVE_DEFAULT_PARTITION__/year=2026/month=01/day=02/hour=03/", hour);
        check(default, "manifests/year=2026/", None);
    }

    proptest! {
        #[test]
        fn every_folder_is_read_back(application in ".{0,20}", hours in 0_i64..1_000_000) {
            let at = Timestamp::from_second(hours * 3600 + 7).expect("a time");
            for text in [LakeLayout::DEFAULT, "x/dt=YYYY-MM-DD/hour=HH/a={pod}-{application}.{cluster}/{file}"] {
                let (layout, route) = (LakeLayout::parse(text).expect("the layout is valid"), route(&application));
                let time = read(&layout, &layout.folder(&route, at), &route);
                let start = Timestamp::from_second(hours * 3600).expect("a time");
                prop_assert_eq!(time.and_then(|time| time.span()).map(|(start, _)| start), Some(start));
            }
        }
    }
}
