//! Shifts the timestamps of objects that Vector wrote, because CloudWatch Logs accepts no events older than 14 days.

use jiff::Timestamp;

/// Shifts every record's `timestamp` by the same amount, so that the latest becomes `latest`. All other bytes stay the same.
/// `text` is a decompressed object of Vector: its timestamps are RFC 3339 in UTC, and quotes inside a message are escaped.
pub fn shift(text: &str, latest: Timestamp) -> String {
    const FIELD: &str = "\"timestamp\":\"";
    let pieces: Vec<(&str, Option<(Timestamp, &str)>)> = text
        .split(FIELD)
        .enumerate()
        .map(|(index, piece)| {
            let (value, rest) = piece.split_once('"').unwrap_or((piece, ""));
            (piece, value.parse().ok().filter(|_| index > 0).map(|at: Timestamp| (at, rest)))
        })
        .collect();
    let Some(newest) = pieces.iter().filter_map(|(_, dated)| dated.map(|(at, _)| at)).max() else {
        return text.to_owned();
    };
    let by = latest.duration_since(newest);
    let mut shifted = String::with_capacity(text.len());
    for (index, (piece, dated)) in pieces.iter().enumerate() {
        if index > 0 {
            shifted.push_str(FIELD);
        }
        match dated.and_then(|(at, rest)| Some((at.checked_add(by).ok()?, rest))) {
            Some((at, rest)) => shifted.push_str(&format!("{at:.9}\"{rest}")),
            None => shifted.push_str(piece),
        }
    }
    shifted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shift_keeps_the_distances_and_all_other_bytes() {
        let text = r#"[{"message":"a \"timestamp\":\"2020-01-01T00:00:00Z\"","timestamp":"2026-11-21T08:00:00.123456789Z"},{"message":"b","timestamp":"2026-11-21T07:59:59.000000000Z"}]"#;
        let latest = "2030-01-01T00:00:01.123456789Z".parse().expect("a timestamp");
        let expected = text
            .replace("2026-11-21T08:00:00.123456789Z", "2030-01-01T00:00:01.123456789Z")
            .replace("2026-11-21T07:59:59.000000000Z", "2030-01-01T00:00:00.000000000Z");
        assert_eq!(shift(text, latest), expected);
        assert_eq!(shift("[]", latest), "[]");
    }
}
