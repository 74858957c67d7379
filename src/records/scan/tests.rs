use proptest::prelude::*;

use super::*;

fn scan(bytes: &[u8]) -> Result<Scan<'_>, ScanError> {
    super::scan(bytes, &mut Around::default())
}

#[test]
fn only_fields_of_the_record_itself_are_found() {
    let text =
        br#"{"a":{"message":"no"},"message":"yes","n":[1,-2.5e+3,{"x":[]}],"timestamp":"t","z":null}, more"#;
    let found = scan(text).expect("a record");
    assert_eq!(found.message, Some(&br#""yes""#[..]));
    assert_eq!(found.timestamp, Some(&br#""t""#[..]));
    assert_eq!(&text[found.len..], b", more");
    assert!(!found.ambiguous);
}

/// The strings that the scan of the second record had to find by itself.
fn scanned_strings(first: &str, second: &str) -> usize {
    let mut around = Around::default();
    for record in [first, second] {
        assert_eq!(super::scan(record.as_bytes(), &mut around), scan(record.as_bytes()));
    }
    around.strings.len()
}

#[test]
fn a_record_that_differs_in_its_strings_is_compared() {
    let record = |strings: usize, text: &str| {
        let strings = format!("[{}\"{text}\"]", r#""x","#.repeat(strings - 1));
        format!(r#"{{"message":"{text}","a":{strings},"timestamp":"{text}"}}"#)
    };
    let usual = |text| format!(r#"{{"a":"{text}","message":"{text}","b":["{text}"],"timestamp":"{text}"}}"#);
    // The only string that is scanned is the timestamp.
    assert_eq!(scanned_strings(&usual("t"), &usual("longer")), 1);
    assert_eq!(scanned_strings(&record(MAX_STRINGS, "t"), &record(MAX_STRINGS, "longer")), 1);
    let more = MAX_STRINGS + 1;
    assert_eq!(scanned_strings(&record(more, "t"), &record(more, "longer")), MAX_STRINGS);
}

/// Such a record is too large to be remembered, so the next record is scanned as if it were the first.
#[test]
fn long_records_and_records_of_many_strings_are_not_compared() {
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
fn ambiguous_names_are_reported() {
    for text in
        [r#"{"message":"a","message":"b"}"#, r#"{"m\u0065ssage":"a"}"#, r#"{"timestamp":1,"timestamp":2}"#]
    {
        assert!(scan(text.as_bytes()).expect("a record").ambiguous, "{text}");
    }
}

#[test]
fn every_cut_record_is_incomplete() {
    let text =
        r#" {"a" : [true, false,null ,{"b":-0.5E-7}], "message":"x\"\\\u00e9 é", "e":{}, "f":[] } "#.trim();
    for cut in 0..text.len() {
        assert_eq!(
            scan(&text.as_bytes()[..cut]).expect_err("the record is cut"),
            ScanError::Incomplete,
            "{}",
            &text[..cut]
        );
    }
    assert_eq!(scan(text.as_bytes()).expect("the record is whole").len, text.len());
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
        "{\"a\":fal,",
        "{\"a\":n}",
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
fn nesting_of_any_depth_is_followed() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":[", "]}]")] {
        for depth in [1, 63, 64, 65, 127, 128, 129, 1024, 100_000] {
            let [open, close] = [open, close].map(|bracket| bracket.repeat(depth));
            let text = format!("{{\"a\":{open}1{close},\"message\":{open}2{close}}}");
            let found = scan(text.as_bytes()).expect("a record");
            assert_eq!(found.len, text.len());
            assert_eq!(found.message, Some(format!("{open}2{close}").as_bytes()));
            let cut = format!("{{\"a\":{open}");
            assert_eq!(scan(cut.as_bytes()).expect_err("the record is cut"), ScanError::Incomplete);
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
    assert_eq!(end, Ok(text.len()));
    assert_eq!(given("{}"), (Vec::new(), Ok(2)));
    let (members, end) = given(&text[..18]);
    assert_eq!(
        (members, end),
        (vec![["a".to_owned(), r#"[1, {"b":2"#.to_owned()]], Err(ScanError::Incomplete))
    );
}

/// Members out of a short list, so that records share long beginnings and names come twice.
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
    /// What is remembered of one record must not change the result for the next one.
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
    fn what_serde_json_writes_is_scanned_to_its_end(pairs in proptest::collection::vec((".{0,6}", ".{0,12}", any::<f64>()), 0..6)) {
        let object: serde_json::Map<_, _> = pairs.iter().flat_map(|(name, text, number)| {
            [(name.clone(), serde_json::json!({"t": text, "n": [number]})), (format!("{name}2"), serde_json::json!(number))]
        }).collect();
        let text = serde_json::to_string(&object).expect("JSON");
        prop_assert_eq!(scan(text.as_bytes()).expect("a record").len, text.len());
    }
}
