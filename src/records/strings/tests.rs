use fearless_simd::{Level, dispatch};
use proptest::prelude::*;

use super::*;

/// The unescaped length of a string's text, if it breaks no rule and the string is whole.
fn clean_len(token: &[u8]) -> Option<usize> {
    let quoted = [token, &b"\", and more than a block of text behind it"[..]].concat();
    let ends = |level: Level| {
        let end = dispatch!(level, simd => string_end(simd, &quoted, 0));
        let found = dispatch!(level, simd => delivered_end(simd, &quoted, 0));
        assert_eq!(found.map(|(end, _)| end), end, "both searches find the same end");
        if let Some(end) = end {
            let alone = dispatch!(level, simd => delivered_end(simd, &quoted[..=end], 0));
            assert_eq!(alone, found, "what follows the string does not matter");
        }
        for cut in 0..=end.unwrap_or_default() {
            assert_eq!(
                dispatch!(level, simd => delivered_end(simd, &quoted[..cut], 0)),
                None,
                "cut at {cut}"
            );
        }
        found
    };
    let found = ends(Level::new());
    assert_eq!(ends(Level::baseline()), found, "vector instructions do not change the result");
    let (_, reading) = found.filter(|(end, _)| *end == token.len())?;
    let reading = reading?;
    assert_eq!(reading.ascii, token.is_ascii());
    std::str::from_utf8(token).ok()?;
    Some(reading.len)
}

/// Each text begins at every position of a block, and some cross its end.
#[test]
fn lengths_are_those_of_the_unescaped_text() {
    let padded = |token: &[u8], check: &dyn Fn(&[u8])| {
        for (before, behind) in (0..2 * BLOCK + 2).flat_map(|before| [(before, 0), (before, BLOCK + 5)]) {
            check(&[&vec![b'x'; before], token, &vec![b'y'; behind]].concat());
        }
    };
    for token in [
        r"",
        r"abc",
        r"\n\t",
        r"é日😀",
        " a b~",
        r"\u0000",
        r"\u00e9",
        r"\u65e5",
        r"\ud83d\ude00",
        r"\/\\",
        r#"\""#,
        r#"\"\"\\\""#,
    ] {
        padded(token.as_bytes(), &|token| {
            let quoted = [b"\"", token, b"\""].concat();
            let text: String = serde_json::from_slice(&quoted).expect("a JSON string");
            assert_eq!(clean_len(token), Some(text.len()), "{}", String::from_utf8_lossy(token));
        });
    }
    for token in [
        &br"\x"[..],
        br"\u12",
        br"\ud800",
        br"\ud800\u0041",
        br"\ude00",
        b"a\nb",
        b"\x01",
        b"\x1f",
        b"\\\x01",
        b"\xff",
        br"\ud83d\u",
    ] {
        padded(token, &|token| {
            assert_eq!(clean_len(token), None, "{}", String::from_utf8_lossy(token));
        });
    }
    assert_eq!(clean_len(br"\"), None);
}

proptest! {
    #[test]
    fn serde_json_reads_exactly_the_texts_that_break_no_rule(token in proptest::collection::vec(
        prop_oneof![Just(b"\\".to_vec()), Just(b"u".to_vec()), Just(b"d83d".to_vec()), Just(b"de00".to_vec()),
            Just(b"n".to_vec()), Just(vec![b'x'; 29]), Just("é".into()), Just(b"\x01".to_vec()), Just(b"\xff".to_vec()), "[a-f0-9]{1,4}".prop_map(Into::into)], 0..8)
    ) {
        let token = token.concat();
        let quoted = [b"\"", token.as_slice(), b"\""].concat();
        let read = serde_json::from_slice::<String>(&quoted).ok().map(|text| text.len());
        prop_assert_eq!(clean_len(&token), read);
    }
}

#[test]
fn the_longest_name_is_found_in_its_longest_form() {
    let name = "timestamp_end";
    let escaped: String = name.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
    assert_eq!(plain(escaped.as_bytes()), name.as_bytes());
}
