use proptest::prelude::*;

use super::*;

fn scan(bytes: &[u8]) -> Result<Scan<'_>, ScanError> {
    super::scan(bytes, &mut Around::default())
}

/// The length of a string's text, if it is clean and the string is whole.
fn clean_len(token: &[u8]) -> Option<usize> {
    let quoted = [token, &b"\", and more than a block of text behind it"[..]].concat();
    let ends = |level: Level| {
        let end = dispatch!(level, simd => string_end(simd, &quoted, 0));
        let found = dispatch!(level, simd => delivered_end(simd, &quoted, 0));
        assert_eq!(found.map(|(end, _)| end), end, "two ways to the same end");
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
    assert_eq!(ends(Level::baseline()), found, "the vectors make no difference");
    let (_, reading) = found.filter(|(end, _)| *end == token.len())?;
    let reading = reading?;
    assert_eq!(reading.ascii, token.is_ascii());
    std::str::from_utf8(token).ok()?;
    Some(reading.len)
}

#[test]
fn fields_are_found_where_they_are() {
    let text =
        br#"{"a":{"message":"no"},"message":"yes","n":[1,-2.5e+3,{"x":[]}],"timestamp":"t","z":null}, more"#;
    let found = scan(text).expect("a record");
    assert_eq!(found.message, Some(&br#""yes""#[..]));
    assert_eq!(found.timestamp, Some(&br#""t""#[..]));
    assert_eq!(&text[found.len..], b", more");
    assert!(!found.ambiguous);
}

/// Beyond what is remembered a record is unfamiliar, no more.
#[test]
fn long_and_manifold_records_are_scanned_each_time() {
    let long = format!(r#"{{"a":"{}","message":"m","timestamp":"t"}}"#, "x".repeat(20 * 1024));
    let many = format!(r#"{{"a":[{}"x"],"message":"m","timestamp":"t"}}"#, r#""x","#.repeat(2 * MAX_STRINGS));
    let behind =
        format!(r#"{{"message":"m","a":[{}"x"],"timestamp":"t"}}"#, r#""x","#.repeat(2 * MAX_STRINGS));
    let mut around = Around::default();
    for text in [&long, &many, &behind] {
        for record in [text.clone(), text.replace('x', "yy"), text.replace('m', "n"), text.clone()] {
            assert_eq!(super::scan(record.as_bytes(), &mut around), scan(record.as_bytes()));
        }
    }
}

#[test]
fn doubtful_names_are_told() {
    for text in
        [r#"{"message":"a","message":"b"}"#, r#"{"m\u0065ssage":"a"}"#, r#"{"timestamp":1,"timestamp":2}"#]
    {
        assert!(scan(text.as_bytes()).expect("a record").ambiguous, "{text}");
    }
}

#[test]
fn every_cut_is_incomplete_and_nothing_else() {
    let text =
        r#" {"a" : [true, false,null ,{"b":-0.5E-7}], "message":"x\"\\\u00e9 é", "e":{}, "f":[] } "#.trim();
    for cut in 0..text.len() {
        assert_eq!(
            scan(&text.as_bytes()[..cut]).expect_err("cut"),
            ScanError::Incomplete,
            "{}",
            &text[..cut]
        );
    }
    assert_eq!(scan(text.as_bytes()).expect("whole").len, text.len());
}

#[test]
fn broken_structure_is_malformed() {
    for text in [
        "[",
        "{,",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\":[1,]}",
        "{\"a\":[}",
        "{\"a\":{]}",
        "{\"a\":tru,",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":-}",
        "{\"a\":1e}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":+1}",
    ] {
        assert!(matches!(scan(text.as_bytes()), Err(ScanError::Malformed(..))), "{text}");
    }
}

#[test]
fn nesting_is_followed_as_deep_as_it_goes() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":[", "]}]")] {
        for depth in [1, 63, 64, 65, 127, 128, 129, 1024, 100_000] {
            let [open, close] = [open, close].map(|bracket| bracket.repeat(depth));
            let text = format!("{{\"a\":{open}1{close},\"message\":{open}2{close}}}");
            let found = scan(text.as_bytes()).expect("a record");
            assert_eq!(found.len, text.len());
            assert_eq!(found.message, Some(format!("{open}2{close}").as_bytes()));
            let cut = format!("{{\"a\":{open}");
            assert_eq!(scan(cut.as_bytes()).expect_err("cut"), ScanError::Incomplete);
            let swapped =
                format!("{{\"a\":{open}1{}", close.replace(']', "%").replace('}', "]").replace('%', "}"));
            assert!(matches!(scan(swapped.as_bytes()), Err(ScanError::Malformed(..))), "{open} {depth}");
        }
    }
}

#[test]
fn members_are_given_one_by_one() {
    let given = |text: &str| {
        let mut members = Vec::new();
        let end = each_member(text.as_bytes(), |name, value| {
            members.push([name, value].map(|part| String::from_utf8_lossy(part).into_owned()));
        });
        (members, end)
    };
    let text = r#"{ "a" : [1, {"b":2}] , "c\n":"x\"" ,"a":null}"#;
    let expected = [["a", r#"[1, {"b":2}]"#], ["c\\n", r#""x\"""#], ["a", "null"]];
    let (members, end) = given(text);
    assert_eq!(members, expected);
    assert_eq!(end, Ok(()));
    assert_eq!(given("{}"), (Vec::new(), Ok(())));
    let (members, end) = given(&text[..18]);
    assert_eq!(
        (members, end),
        (vec![["a".to_owned(), r#"[1, {"b":2"#.to_owned()]], Err(ScanError::Incomplete))
    );
}

/// At every place within blocks and across their ends.
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

/// Few different members, so that records share long beginnings and names come twice.
fn members() -> impl Strategy<Value = Vec<&'static str>> {
    let member = prop_oneof![
        Just(r#""a":"message""#),
        Just(r#""a":{"message":"no","timestamp":"no"}"#),
        Just(r#""a":"mess\"age""#),
        Just(r#""a":"""#),
        Just(r#""a":{"message":"","x":"timestamp"}"#),
        Just(r#""b":1"#),
        Just(r#""m\u0065ssage":"escaped""#),
        Just(r#""message":"one""#),
        Just(r#""message" : "two\"""#),
        Just(r#""message":{"x":[3]}"#),
        Just(r#""stream":"stdout""#),
        Just(r#""stream":"stderr""#),
        Just(r#""timestamp":"2026-11-21T08:00:00Z""#),
        Just(r#""timestamp": 5"#),
    ];
    proptest::collection::vec(member, 0..6)
}

proptest! {
    /// The memory of one record must not show in the next, whatever stands there.
    #[test]
    fn a_familiar_record_is_scanned_like_any_other(records in proptest::collection::vec(members(), 1..12), cut in any::<u16>()) {
        let mut around = Around::default();
        for record in &records {
            let text = format!("{{{}}}", record.join(",")).into_bytes();
            let cut = &text[..usize::from(cut) % text.len()];
            prop_assert_eq!(super::scan(cut, &mut around), scan(cut));
            prop_assert_eq!(super::scan(&text, &mut around), scan(&text));
            let followed = [&text, &b",{"[..]].concat();
            prop_assert_eq!(super::scan(&followed, &mut around), scan(&text));
        }
    }

    #[test]
    fn what_is_clean_is_what_serde_json_reads(token in proptest::collection::vec(
        prop_oneof![Just(b"\\".to_vec()), Just(b"u".to_vec()), Just(b"d83d".to_vec()), Just(b"de00".to_vec()),
            Just(b"n".to_vec()), Just(vec![b'x'; 29]), Just("é".into()), Just(b"\x01".to_vec()), Just(b"\xff".to_vec()), "[a-f0-9]{1,4}".prop_map(Into::into)], 0..8)
    ) {
        let token = token.concat();
        let quoted = [b"\"", token.as_slice(), b"\""].concat();
        let read = serde_json::from_slice::<String>(&quoted).ok().map(|text| text.len());
        prop_assert_eq!(clean_len(&token), read);
    }

    #[test]
    fn what_serde_json_writes_is_scanned_to_its_end(pairs in proptest::collection::vec((".{0,6}", ".{0,12}", any::<f64>()), 0..6)) {
        let object: serde_json::Map<_, _> = pairs.iter().flat_map(|(name, text, number)| {
            [(name.clone(), serde_json::json!({"t": text, "n": [number]})), (format!("{name}2"), serde_json::json!(number))]
        }).collect();
        let text = serde_json::to_string(&object).expect("JSON");
        prop_assert_eq!(scan(text.as_bytes()).expect("a record").len, text.len());
    }
}
