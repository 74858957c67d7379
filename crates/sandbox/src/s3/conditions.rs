//! Conditional requests and byte ranges.

use std::ops::Range;

use http::HeaderMap;

use crate::call::{AwsError, Call};

/// Checks `{prefix}if-match` of a read. The prefix for the source of a copy is `x-amz-copy-source-`.
pub(super) fn check_read(call: &Call, prefix: &str, etag: &str) -> Result<(), AwsError> {
    for other in ["if-none-match", "if-modified-since", "if-unmodified-since"] {
        let other = format!("{prefix}{other}");
        if call.header(&other).is_some() {
            return Err(AwsError::not_implemented("s3", &format!("{} with {other}", call.operation)));
        }
    }
    match call.header(&format!("{prefix}if-match")) {
        Some(tags) if !names(tags, etag) => Err(failed("If-Match")),
        _ => Ok(()),
    }
}

fn failed(condition: &str) -> AwsError {
    let message = "At least one of the pre-conditions you specified did not hold";
    AwsError::new(412, "PreconditionFailed", message).with_member("Condition", condition.into())
}

/// Checks the conditions of a put or a completed upload against the existing object: `If-None-Match: *`, and `If-Match` with an
/// ETag.
pub(super) fn check_put(headers: &HeaderMap, etag: Option<&str>) -> Result<(), AwsError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("if-none-match") {
        Some("*") if etag.is_some() => return Err(failed("If-None-Match")),
        Some("*") | None => {}
        Some(_) => return Err(AwsError::not_implemented("s3", "a write with an ETag in If-None-Match")),
    }
    text("if-match").map_or(Ok(()), |tags| check_match(tags, etag))
}

/// Checks `If-Match` of a write or a delete against the existing object.
pub(super) fn check_match(tags: &str, etag: Option<&str>) -> Result<(), AwsError> {
    match etag {
        None => Err(AwsError::new(404, "NoSuchKey", "The specified key does not exist.")),
        Some(etag) if !names(tags, etag) => Err(failed("If-Match")),
        Some(_) => Ok(()),
    }
}

fn names(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"'))
        .any(|tag| tag == "*" || tag == etag)
}

/// Parses a `Range` header. `None` means the whole object, also for a header that does not parse or has several ranges.
pub(super) fn range(header: Option<&str>, length: u64) -> Result<Option<Range<u64>>, AwsError> {
    let Some((from, to)) =
        header.and_then(|text| text.trim().strip_prefix("bytes=")).and_then(|text| text.split_once('-'))
    else {
        return Ok(None);
    };
    let (from, to) = (from.trim(), to.trim());
    let range = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) if from <= to => from..to.saturating_add(1).min(length),
        (Ok(from), Err(_)) if to.is_empty() => from..length,
        (Err(_), Ok(last)) if from.is_empty() => length - last.min(length)..length,
        _ => return Ok(None),
    };
    if range.start >= length || range.is_empty() {
        return Err(AwsError::new(416, "InvalidRange", "The requested range is not satisfiable"));
    }
    Ok(Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn ranges_are_read_as_http_says() {
        let check = |header: &str, expected: Result<Option<Range<u64>>, ()>| {
            assert_eq!(range(Some(header), 10).map_err(|_| ()), expected, "{header}");
        };
        check("bytes=0-3", Ok(Some(0..4)));
        check("bytes=8-99", Ok(Some(8..10)));
        check("bytes=4-", Ok(Some(4..10)));
        check("bytes=-3", Ok(Some(7..10)));
        check("bytes=-30", Ok(Some(0..10)));
        check("bytes=10-", Err(()));
        check("bytes=-0", Err(()));
        check("bytes=5-2", Ok(None));
        check("bytes=0-1,3-4", Ok(None));
        check("lines=0-1", Ok(None));
        assert!(range(Some("bytes=0-0"), 0).is_err());
        assert_eq!(range(None, 10).expect("none"), None);
    }

    #[test]
    fn reads_can_require_an_etag() {
        let check = |name: &'static str, value: &'static str, expected: Result<(), u16>| {
            let mut call = crate::requests::root("111111111111");
            call.headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(
                check_read(&call, "", "tag").map_err(|error| error.status),
                expected,
                "{name}: {value}"
            );
        };
        check("if-match", "\"tag\"", Ok(()));
        check("if-match", "tag", Ok(()));
        check("if-match", "\"other\"", Err(412));
        check("if-none-match", "\"tag\"", Err(501));
    }

    #[test]
    fn puts_can_require_an_etag_or_a_missing_object() {
        let headers = |name, value| {
            HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
        };
        assert!(check_put(&headers("if-none-match", "*"), None).is_ok());
        assert_eq!(check_put(&headers("if-none-match", "*"), Some("a")).expect_err("there").status, 412);
        assert!(check_put(&headers("if-match", "\"a\""), Some("a")).is_ok());
        assert_eq!(check_put(&headers("if-match", "\"a\""), Some("b")).expect_err("other").status, 412);
        assert_eq!(check_put(&headers("if-match", "\"a\""), None).expect_err("gone").status, 404);
    }
}
