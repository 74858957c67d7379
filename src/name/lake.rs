//! Builds the keys of lake files: Hive partitions by the names of an object's key and by the hour of its records. `matching`
//! reads the names of folders back.

mod matching;

use std::fmt::Write;

use jiff::Timestamp;

pub use self::matching::FolderTime;
use crate::route::{Name, Route};

/// Most bytes of a layout. The rest of a key's 1,024 bytes is left for the prefix and the values.
const MAX_LAYOUT: usize = 256;
/// Value of a partition that has none, as Hive names it. Athena reads such a value as NULL.
const NO_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";
/// Folder of the compaction's manifests, beside the folders of the files.
pub const MANIFESTS: &str = "manifests";

/// Template of the keys of a tenant's lake files after `bucket_prefix`. Parsed once, when the tenant's row is read.
///
/// A segment is plain text or a partition `name=value`. A value has plain text, names of the object's key, and `YYYY`, `MM`, `DD`
/// and `HH` of the records' hour in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeLayout {
    /// All segments but the last one, `{file}`.
    segments: Vec<LakeSegment>,
}

/// A segment of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeSegment {
    /// Name of the partition. `None`: the segment is plain text.
    pub partition: Option<String>,
    /// Parts of the value, or the plain text.
    pub parts: Vec<LakePart>,
}

/// Part of a segment's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LakePart {
    /// Plain text.
    Text(String),
    /// A name of the object's key, never the file.
    Name(Name),
    /// A part of the hour.
    Time(TimePart),
}

/// Part of an hour in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimePart {
    /// Four digits.
    Year,
    /// 01 to 12.
    Month,
    /// 01 to 31.
    Day,
    /// 00 to 23.
    Hour,
}

impl TimePart {
    /// All parts, from the longest to the shortest.
    pub const ALL: [Self; 4] = [Self::Year, Self::Month, Self::Day, Self::Hour];

    /// The letters of the part in a layout.
    pub fn letters(self) -> &'static str {
        match self {
            Self::Year => "YYYY",
            Self::Month => "MM",
            Self::Day => "DD",
            Self::Hour => "HH",
        }
    }

    /// The part's digits in a key.
    fn digits(self, hour: Timestamp) -> String {
        let format = match self {
            Self::Year => "%Y",
            Self::Month => "%m",
            Self::Day => "%d",
            Self::Hour => "%H",
        };
        hour.strftime(format).to_string()
    }
}

impl LakePart {
    fn value(&self, route: &Route, hour: Timestamp) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Name(name) => escaped(name.value(route)),
            Self::Time(part) => part.digits(hour),
        }
    }
}

impl LakeLayout {
    /// Default layout.
    pub const DEFAULT: &'static str = "source={application}/year=YYYY/month=MM/day=DD/hour=HH/{file}";

    /// Reads a layout.
    ///
    /// # Errors
    /// The text is not a usable layout.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_LAYOUT {
            return Err(format!("a layout has at most {MAX_LAYOUT} bytes, not {}", text.len()));
        }
        let folders = text.strip_suffix("/{file}");
        let folders = folders.ok_or_else(|| format!("{text:?} does not end with the segment {{file}}"))?;
        let mut segments: Vec<LakeSegment> = Vec::new();
        for part in folders.split('/') {
            let segment = LakeSegment::parse(part).map_err(|problem| format!("{text:?} {problem}"))?;
            if let Some(name) = &segment.partition
                && segments.iter().any(|other| other.partition.as_ref() == Some(name))
            {
                return Err(format!("{text:?} has the partition {name:?} twice"));
            }
            segments.push(segment);
        }
        if let [LakeSegment { partition: None, parts }, ..] = &*segments
            && parts.iter().eq([&LakePart::Text(MANIFESTS.to_owned())])
        {
            return Err(format!(
                "{text:?} begins with {MANIFESTS}/, where the compaction keeps its manifests"
            ));
        }
        let layout = Self { segments };
        let times = layout.parts().filter_map(|part| match part {
            LakePart::Time(part) => Some(*part),
            _ => None,
        });
        if !times.eq(TimePart::ALL) {
            return Err(format!("{text:?} does not have YYYY, MM, DD and HH, once each and in this order"));
        }
        for (index, name) in layout.parts().enumerate() {
            if !matches!(name, LakePart::Text(_)) && layout.parts().skip(index + 1).any(|other| other == name)
            {
                return Err(format!("{text:?} has the same name twice"));
            }
        }
        Ok(layout)
    }

    /// The segments before the file, in order.
    pub fn segments(&self) -> &[LakeSegment] {
        &self.segments
    }

    fn parts(&self) -> impl Iterator<Item = &LakePart> {
        self.segments.iter().flat_map(|segment| &segment.parts)
    }

    /// Builds the folder of an hour's files, with a slash at its end.
    pub fn folder(&self, route: &Route, hour: Timestamp) -> String {
        self.segments.iter().map(|segment| segment.text(route, hour) + "/").collect()
    }

    /// The beginning of every folder of the route's tenant, with a slash at its end, or empty.
    pub fn tenant_prefix(&self, route: &Route) -> String {
        self.segments.iter().map_while(|segment| segment.constant(route)).map(|text| text + "/").collect()
    }
}

impl Default for LakeLayout {
    fn default() -> Self {
        Self::parse(Self::DEFAULT).expect("the default is valid")
    }
}

impl LakeSegment {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("has an empty segment".to_owned());
        }
        if matches!(text, "." | "..") {
            return Err(format!("has a segment {text:?}"));
        }
        if text.contains(|c: char| c.is_control() || c == '\\') {
            return Err("has a control character or a backslash".to_owned());
        }
        let Some((name, value)) = text.split_once('=') else {
            return match text.contains(['{', '}']) {
                true => Err(format!("has the segment {text:?}, which is neither plain text nor NAME=VALUE")),
                // Readers skip folders whose names begin like this.
                false if text.starts_with(['_', '.']) => {
                    Err(format!("has the segment {text:?}: query engines skip such names"))
                }
                false => Ok(Self { partition: None, parts: vec![LakePart::Text(text.to_owned())] }),
            };
        };
        // Glue keeps names of columns in lower case.
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(legal) {
            return Err(format!("has the partition {name:?}, whose name is not a lower-case word"));
        }
        let parts = parts(value).map_err(|problem| format!("has the segment {text:?} {problem}"))?;
        let segment = Self { partition: Some(name.to_owned()), parts };
        let plain = |part: &LakePart| matches!(part, LakePart::Text(_) | LakePart::Time(_));
        if segment.has_time() && !segment.parts.iter().all(plain) {
            return Err(format!("has the segment {text:?} with both a name and a time; use two partitions"));
        }
        Ok(segment)
    }

    /// The value of the partition in all files of a tenant, if it is the same there.
    pub fn of_tenant(&self, tenant_id: &str) -> Option<String> {
        let value = |part: &LakePart| match part {
            LakePart::Text(text) => Some(text.clone()),
            LakePart::Name(Name::Tenant) => Some(escaped(tenant_id)),
            _ => None,
        };
        self.parts.iter().map(value).collect()
    }

    fn text(&self, route: &Route, hour: Timestamp) -> String {
        let value: String = self.parts.iter().map(|part| part.value(route, hour)).collect();
        match &self.partition {
            None => value,
            Some(name) if value.is_empty() => format!("{name}={NO_VALUE}"),
            Some(name) => format!("{name}={value}"),
        }
    }
}

/// Reads the value of a partition.
fn parts(value: &str) -> Result<Vec<LakePart>, String> {
    let mut parts: Vec<LakePart> = Vec::new();
    let mut rest = value;
    while let Some(first) = rest.chars().next() {
        let (part, len) =
            if let Some(time) = TimePart::ALL.into_iter().find(|time| rest.starts_with(time.letters())) {
                (LakePart::Time(time), time.letters().len())
            } else if first == '{' {
                let end = rest.find('}').ok_or("without the closing brace")?;
                let name = Name::parse(&rest[..=end]).filter(|name| *name != Name::File);
                let names = "{tenant}, {cluster}, {application} and {pod}";
                let unknown = || format!("with {}; the names are {names}", &rest[..=end]);
                (LakePart::Name(name.ok_or_else(unknown)?), end + 1)
            } else if first.is_ascii_alphanumeric() || "-_.".contains(first) {
                (LakePart::Text(first.to_string()), first.len_utf8())
            } else {
                return Err(format!("with {first:?}; plain text has only letters, digits and [-_.]"));
            };
        match (parts.last_mut(), part) {
            (Some(LakePart::Text(text)), LakePart::Text(more)) => text.push_str(&more),
            (_, part) => parts.push(part),
        }
        rest = &rest[len..];
    }
    if parts.is_empty() { Err("without a value".to_owned()) } else { Ok(parts) }
}

/// Escapes a value as Hive escapes it, so that the value stays within its segment. A value of dots alone is escaped too.
fn escaped(value: &str) -> String {
    let only_dots = value.chars().all(|c| c == '.');
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        // Source: Hive, `FileUtils.escapePathName`.
        if c.is_control() || "\"#%'*/:=?\\{}[]^".contains(c) || (only_dots && c == '.') {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(escaped, "%{byte:02X}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn layout(text: &str) -> LakeLayout {
        LakeLayout::parse(text).expect("the layout is valid")
    }

    fn hour() -> Timestamp {
        "2026-01-02T03:59:59Z".parse().expect("a timestamp")
    }

    #[test]
    fn folders_follow_the_layout() {
        let check = |text: &str, names: [&str; 5], folder: &str, prefix: &str| {
            let (layout, route) = (layout(text), Route::of(names));
            let found = (layout.folder(&route, hour()), layout.tenant_prefix(&route));
            assert_eq!((found.0.as_str(), found.1.as_str()), (folder, prefix));
        };
        let names = ["acme", "c1", "web", "web-0", "1.gz"];
        check(LakeLayout::DEFAULT, names, "source=web/year=2026/month=01/day=02/hour=03/", "");
        check(
            "logs/tenant={tenant}/app={cluster}-{application}/dt=YYYY-MM-DD/hour=HH/pod={pod}/{file}",
            names,
            "logs/tenant=acme/app=c1-web/dt=2026-01-02/hour=03/pod=web-0/",
            "logs/tenant=acme/",
        );
        // A layout of keys without a pod has no value for it.
        let none = "dt=2026-01-02/hour=03/pod=__HIVE_DEFAULT_PARTITION__/";
        check("dt=YYYY-MM-DD/hour=HH/pod={pod}/{file}", ["a", "", "", "", "f"], none, "");
    }

    #[test]
    fn a_value_stays_in_its_segment() {
        let text = "source={application}/dt=YYYY-MM-DD/hour=HH/{file}";
        let source = |application: &str| {
            let folder = layout(text).folder(&Route::of(["a", "c", application, "p", "f"]), hour());
            assert_eq!(folder.matches('/').count(), 3, "{folder}");
            folder.split_once('/').expect("three segments").0.to_owned()
        };
        for (value, expected) in [
            ("..", "source=%2E%2E"),
            (".", "source=%2E"),
            ("a=b/c", "source=a%3Db%2Fc"),
            ("YYYY", "source=YYYY"),
            ("{pod}", "source=%7Bpod%7D"),
            ("日本", "source=日本"),
            ("a\u{85}b", "source=a%C2%85b"),
        ] {
            assert_eq!(source(value), expected);
        }
    }

    #[test]
    fn bad_layouts_are_errors() {
        let time = "year=YYYY/month=MM/day=DD/hour=HH";
        for (text, part) in [
            (time.to_owned(), "does not end with the segment {file}"),
            (format!("{time}/x-{{file}}"), "does not end"),
            ("source={application}/{file}".to_owned(), "does not have YYYY"),
            ("year=YYYY/month=MM/day=DD/{file}".to_owned(), "does not have YYYY"),
            (format!("{time}/again=YYYY/{{file}}"), "does not have YYYY"),
            ("hour=HH/year=YYYY/month=MM/day=DD/{file}".to_owned(), "in this order"),
            (format!("a={{pod}}/a={{cluster}}/{time}/{{file}}"), "\"a\" twice"),
            (format!("a={{pod}}/b={{pod}}/{time}/{{file}}"), "same name twice"),
            (format!("/{time}/{{file}}"), "empty segment"),
            (format!("../{time}/{{file}}"), "\"..\""),
            (format!("_x/{time}/{{file}}"), "skip such names"),
            (format!("{{tenant}}/{time}/{{file}}"), "NAME=VALUE"),
            (format!("Source={{pod}}/{time}/{{file}}"), "lower-case"),
            (format!("={{pod}}/{time}/{{file}}"), "lower-case"),
            (format!("a=/{time}/{{file}}"), "without a value"),
            (format!("a={{pod/{time}/{{file}}"), "without the closing brace"),
            (format!("a={{file}}/{time}/{{file}}"), "the names are"),
            (format!("a={{namespace}}/{time}/{{file}}"), "{namespace}; the names are"),
            (format!("a=b c/{time}/{{file}}"), "' '"),
            (format!("manifests/{time}/{{file}}"), "keeps its manifests"),
            ("a={pod}-YYYY/month=MM/day=DD/hour=HH/{file}".to_owned(), "two partitions"),
            (format!("a=../../{time}/{{file}}"), "\"..\""),
            (format!("a\u{7}=b/{time}/{{file}}"), "control character"),
            (format!("{}/{time}/{{file}}", "x".repeat(250)), "at most 256 bytes"),
        ] {
            let error = LakeLayout::parse(&text).expect_err(&text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn different_values_have_different_folders(one in ".{0,40}", other in ".{0,40}") {
            let folder = |value: &str| layout(LakeLayout::DEFAULT).folder(&Route::of(["a", "c", value, "p", "f"]), hour());
            prop_assert_eq!(one == other, folder(&one) == folder(&other));
            prop_assert_eq!(folder(&one).matches('/').count(), 5);
        }
    }
}
