//! Makes a record's JSON legal: JSON that every reader takes.
//!
//! The reader of records checks the structure of a record, and the text of its message. Here the rest is mended: text that JSON
//! or UTF-8 does not allow, as in the message of such a record; line breaks between tokens; and names that an object has twice.
//! RFC 8259 leaves open what a repeated name means. Most parsers take the last value, as the reader of records does, but DuckDB
//! and the JSON SerDe of Athena refuse such an object.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};

use super::{
    scan::each_member,
    strings::{escape, unescape},
    unusual,
};

/// A legal JSON object on one line: it is UTF-8, every escape is legal, and no object in it has a name twice. A name is escaped
/// only where JSON demands it, so two names are the same if their texts are.
///
/// Mended text has at most three times the record's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legal<'a>(Cow<'a, str>);

impl<'a> Legal<'a> {
    /// Mends an object whose structure was checked. Of members with the same name, the last is kept.
    pub(super) fn of(json: &'a [u8]) -> Self {
        let mended = mend(json);
        let cuts = repeated(mended.as_bytes());
        Self(if cuts.is_empty() { mended } else { Cow::Owned(without(&mended, &cuts)) })
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Calls `take` with each member: the JSON text of its name, without quotes, and of its value.
    pub fn each_member(&self, take: impl FnMut(&str, &str)) {
        each_member_of(self.as_str(), take);
    }
}

/// Does the same with an object inside of a [`Legal`] one.
pub(crate) fn each_member_of(json: &str, mut take: impl FnMut(&str, &str)) {
    // A part's place in the text is cheaper than a check of UTF-8.
    let part = |bytes: &[u8]| {
        let start = bytes.first().and_then(|first| json.as_bytes().element_offset(first)).unwrap_or(0);
        &json[start..start + bytes.len()]
    };
    let scanned = each_member(json.as_bytes(), |name, value| take(part(name), part(value)));
    debug_assert_eq!(scanned, Ok(json.len()), "the structure was checked");
}

/// Returns the text if there is nothing to mend in it, apart from names that come twice.
fn as_it_stands(json: &[u8]) -> Option<&str> {
    if json.iter().fold(false, |found, byte| found | (*byte < 0x20)) {
        return None;
    }
    let text = std::str::from_utf8(json).ok()?;
    let mut at = 0;
    while let Some(found) = memchr(b'\\', &json[at..]) {
        at += found;
        // The rest of the string that has the escape.
        while json[at] != b'"' {
            at += escape(&json[at..])?.0;
            at += memchr2(b'"', b'\\', &json[at..])?;
        }
        at += 1;
        if is_name(&json[at..]) {
            return None;
        }
    }
    Some(text)
}

/// Mends the text of strings, rewrites names that are escaped without need, and removes line breaks between tokens.
fn mend(json: &[u8]) -> Cow<'_, str> {
    if let Some(text) = as_it_stands(json) {
        return Cow::Borrowed(text);
    }
    // The operating system provides memory only when it is written to, so a large capacity costs nothing.
    let mut mended = Vec::with_capacity(3 * json.len());
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = memchr3(b'"', b'\n', b'\r', &json[at..]) {
        let here = at + found;
        at = here + 1;
        if json[here] != b'"' {
            mended.extend_from_slice(&json[copied..here]);
            copied = at;
            continue;
        }
        let inside = at..string_end(json, at);
        at = inside.end + 1;
        mended.extend_from_slice(&json[copied..inside.start]);
        let start = mended.len();
        unusual::string(&json[inside.clone()], &mut mended);
        if is_name(&json[at..]) && mended[start..].contains(&b'\\') {
            let name = mended.split_off(start);
            escape_where_needed(&name, &mut mended);
        }
        copied = inside.end;
    }
    mended.extend_from_slice(&json[copied..]);
    let mended = String::from_utf8(mended).expect("text that is not UTF-8 is in strings, which are mended");
    // If all escapes in names are needed, nothing was changed.
    match std::str::from_utf8(json) {
        Ok(json) if json == mended => Cow::Borrowed(json),
        _ => Cow::Owned(mended),
    }
}

/// Appends the inside of a legal JSON string. Keeps only the escapes that JSON demands, in their shortest forms.
fn escape_where_needed(inside: &[u8], to: &mut Vec<u8>) {
    let mut rest = inside;
    while let Some(at) = memchr(b'\\', rest) {
        to.extend_from_slice(&rest[..at]);
        let (character, len) = unescape(&rest[at..]).expect("the string is legal");
        match character {
            '"' | '\\' => to.extend([b'\\', character as u8]),
            '\0'..'\u{20}' => {
                let quoted = serde_json::to_string(&character).expect("a character is always JSON");
                to.extend_from_slice(quoted.trim_matches('"').as_bytes());
            }
            _ => to.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = &rest[at + len..];
    }
    to.extend_from_slice(rest);
}

/// Finds the closing quote of the string whose text begins at `start`. The string is whole, because the structure was checked.
fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start;
    while let Some(found) = memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
        if json[at + found] == b'"' {
            return at + found;
        }
        at += found + 2;
    }
    json.len()
}

/// Whether the string before this text is a name.
fn is_name(behind: &[u8]) -> bool {
    behind.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':')
}

/// A member of an object that is not closed yet: where it begins, and where the next one does.
type MemberSpan = (u32, u32);

/// Finds the members whose names come again in the same object. Returns their texts' places, up to the next member, in order.
///
/// Takes eight bytes of memory for each member of the objects that are open at the same time, and eight for each member that is
/// found. A member has at least five bytes of text.
fn repeated(json: &[u8]) -> Vec<MemberSpan> {
    let position = |at: usize| u32::try_from(at).expect("a record has less than 4 GiB");
    // The members of all open objects, the outermost object's first, and where each object's members begin.
    let (mut members, mut objects): (Vec<MemberSpan>, Vec<u32>) = (Vec::new(), Vec::new());
    let (mut cuts, mut at) = (Vec::new(), 0);
    while let Some(found) = json[at..].iter().position(|byte| matches!(byte, b'"' | b'{' | b'}')) {
        let here = at + found;
        at = here + 1;
        match json[here] {
            b'{' => objects.push(position(members.len())),
            b'}' => {
                let first = objects.pop().map_or(0, |first| first as usize);
                cut_repeated(json, &mut members[first..], &mut cuts);
                members.truncate(first);
            }
            _ => {
                at = string_end(json, at) + 1;
                if is_name(&json[at..]) {
                    let first = objects.last().map_or(0, |first| *first as usize);
                    if let Some((_, next)) = members[first..].last_mut() {
                        *next = position(here);
                    }
                    members.push((position(here), 0));
                }
            }
        }
    }
    cuts.sort_unstable();
    cuts
}

/// Adds the places of an object's members whose names come again.
fn cut_repeated(json: &[u8], members: &mut [MemberSpan], cuts: &mut Vec<MemberSpan>) {
    let name = |(start, _): &MemberSpan| {
        let start = *start as usize + 1;
        &json[start..string_end(json, start)]
    };
    members.sort_unstable_by(|one, other| name(one).cmp(name(other)).then(one.0.cmp(&other.0)));
    for pair in members.windows(2) {
        if let [one, other] = pair
            && name(one) == name(other)
        {
            cuts.push(*one);
        }
    }
}

/// Copies the text without some places, which are in order. A place may be inside of one before it.
fn without(json: &str, cuts: &[MemberSpan]) -> String {
    let (mut kept, mut at) = (String::with_capacity(json.len()), 0);
    for (start, end) in cuts.iter().map(|(start, end)| (*start as usize, *end as usize)) {
        if start >= at {
            kept.push_str(&json[at..start]);
            at = end;
        }
    }
    kept.push_str(&json[at..]);
    kept
}

#[cfg(test)]
mod tests;
