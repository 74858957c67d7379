use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::*;

/// A JSON value with the names of its objects as they are, repeated ones too.
#[derive(Debug)]
enum Json {
    Scalar,
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Json;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Scalar)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
                Ok(Json::Scalar)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Json, E> {
                Ok(Json::Scalar)
            }
            fn visit_str<E>(self, _: &str) -> Result<Json, E> {
                Ok(Json::Scalar)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(Json::Array(values))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Json::Object(members))
            }
        }
        deserializer.deserialize_any(All)
    }
}

impl Json {
    fn repeats_a_name(&self) -> bool {
        match self {
            Self::Scalar => false,
            Self::Array(values) => values.iter().any(Self::repeats_a_name),
            Self::Object(members) => {
                let names: BTreeMap<_, _> = members.iter().map(|(name, value)| (name, value)).collect();
                names.len() < members.len() || members.iter().any(|(_, value)| value.repeats_a_name())
            }
        }
    }
}

fn check(json: impl AsRef<[u8]>, expected: &str) {
    let json = json.as_ref();
    let legal = Legal::of(json);
    assert_eq!(legal.as_str(), expected, "{}", json.escape_ascii());
    assert_eq!(
        matches!(legal.0, Cow::Borrowed(_)),
        json == expected.as_bytes(),
        "text that is legal is not copied"
    );
    serde_json::from_str::<Json>(expected).expect("the test's expectation is JSON");
}

#[test]
fn legal_text_stays_as_it_is() {
    for json in [
        "{}",
        r#"{"a":1,"b":{"a":[{"a":"\"\\\/\b\f\n\r\t\u0000\ud83d\ude00"}]},"c":"é 😀 } { : "}"#,
        r#"{ "a" : [ 1 , 2 ] ,	"b":"" }"#,
        r#"{"A":1,"a":2,"\\":3,"\"":4}"#,
    ] {
        check(json, json);
    }
}

/// Most records are legal: they are only checked.
#[test]
fn legal_text_without_escapes_in_names_is_not_rewritten() {
    for (json, expected) in [
        ("{}", true),
        (r#"{ "a b" : [1, "x y"], "c":"é" }"#, true),
        (r#"{"b":"\n","c":["\\","\\\"\u00e9 "],"d":"\ud83d\ude00\"" }"#, true),
        (r#"{"a":"\n","b\n":1}"#, false),
        (r#"{"b":"\n\q"}"#, false),
        ("{\"a\":\"\u{1f}\"}", false),
        ("{\"a\":1\n}", false),
    ] {
        assert_eq!(as_it_stands(json.as_bytes()), expected.then_some(json), "{json}");
    }
}

#[test]
fn text_that_is_not_legal_is_mended_as_in_messages() {
    check(b"{\"a\":\"caf\xe9\",\"\xff\":1}", "{\"a\":\"caf\u{fffd}\",\"\u{fffd}\":1}");
    check(
        r#"{"a":"\ud800","b":"\q","c":"\ude00x"}"#,
        "{\"a\":\"\u{fffd}\",\"b\":\"\\\\q\",\"c\":\"\u{fffd}x\"}",
    );
    check("{\"a\":\"x\u{1}\ty\"}", "{\"a\":\"x\u{fffd}\\ty\"}");
    check("{\"a\":\"\u{1}\"}", "{\"a\":\"\u{fffd}\"}");
    // Escapes of values stay as they are.
    check(r#"{"a":"\q\u00e9"}"#, r#"{"a":"\\q\u00e9"}"#);
    check("{\"a\":\"cut\nhere\"}", "{\"a\":\"cut\\nhere\"}");
    check("{\r\n  \"a\":\n1,\n\"b\" :[\n]\n}", "{  \"a\":1,\"b\" :[]}");
}

#[test]
fn of_a_repeated_name_the_last_value_is_kept() {
    check(r#"{"a":1,"a":2}"#, r#"{"a":2}"#);
    check(r#"{"a":1,"b":2,"a":3,"a":4,"c":5}"#, r#"{"b":2,"a":4,"c":5}"#);
    check(r#"{"a":{"b":1,"b":2},"c":[{"b":1,"b":{"d":1,"d":2}}]}"#, r#"{"a":{"b":2},"c":[{"b":{"d":2}}]}"#);
    check(r#"{"a":{"b":1,"b":2},"a":{"b":3,"b":4}}"#, r#"{"a":{"b":4}}"#);
    check(r#"{"a":{"a":1},"b":{"a":2}}"#, r#"{"a":{"a":1},"b":{"a":2}}"#);
    check(r#"{"a" : 1 , "\u0061" : 2}"#, r#"{"a" : 2}"#);
    check(r#"{"\/":1,"/":2,"x\u00e9":3}"#, r#"{"/":2,"xé":3}"#);
    check(
        r#"{"\u000a\u0022\u001F":1,"\n\"\u001f":2,"\ud83d\ude00\u005c":3}"#,
        r#"{"\n\"\u001f":2,"😀\\":3}"#,
    );
    check(b"{\"\xff\":1,\"\xfe\":2}", "{\"\u{fffd}\":2}");
    check(r#"{"":1,"":2}"#, r#"{"":2}"#);
}

#[test]
fn members_are_found_in_order() {
    let legal = Legal::of(br#"{"b":"x\"y", "a" : {"b":[1]} ,"c":"","b":null}"#);
    let mut found = Vec::new();
    legal.each_member(|name, value| found.push((name.to_owned(), value.to_owned())));
    let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(found, [("a", r#"{"b":[1]}"#), ("c", r#""""#), ("b", "null")]);
}

/// An object that repeats names at every depth, and one that is nothing but names: time and memory grow with the length.
#[test]
fn hostile_records_take_no_long_time() {
    let deep = format!("{}1{}", r#"{"a":"#.repeat(200_000), r#","a":2}"#.repeat(200_000));
    check(&deep, r#"{"a":2}"#);
    let wide = format!("{{{}\"\":2}}", r#""":1,"#.repeat(500_000));
    check(&wide, r#"{"":2}"#);
}

/// JSON as text, with white space, repeated names and escapes.
fn json() -> impl Strategy<Value = String> {
    let string = || prop_oneof!["[a-c]", r#"\\u006[1-3]"#, r#"(\\n|\\\\|\\"|é|[{}:,]){0,3}"#];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("12".to_owned()),
        string().prop_map(|text| format!("\"{text}\""))
    ];
    let space = || "[ \n]{0,1}";
    let value = leaf.prop_recursive(4, 40, 5, move |inner| {
        let member = (string(), inner.clone(), space(), space()).prop_map(|(name, value, before, behind)| {
            format!("{before}\"{name}\"{behind}:{before}{value}{behind}")
        });
        prop_oneof![
            prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(","))),
            prop::collection::vec(inner, 0..4).prop_map(|values| format!("[{}]", values.join(",\n"))),
        ]
    });
    prop::collection::vec((string(), value), 0..6).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #[test]
    fn the_values_stay_and_no_name_is_repeated(json in json()) {
        let legal = Legal::of(json.as_bytes());
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        prop_assert_eq!(read(legal.as_str()), read(&json));
        let all: Json = serde_json::from_str(legal.as_str()).expect("JSON");
        prop_assert!(!all.repeats_a_name(), "{}", legal.as_str());
        prop_assert!(!legal.as_str().contains(['\n', '\r']));
        let again = Legal::of(legal.as_str().as_bytes());
        prop_assert!(matches!(again.0, Cow::Borrowed(_)), "{}", again.as_str());
        let mut members = 0;
        legal.each_member(|_, _| members += 1);
        let expected = read(&json);
        prop_assert_eq!(members, expected.as_object().expect("an object").len());
    }

    #[test]
    fn any_bytes_in_strings_become_legal(inside in prop::collection::vec(prop_oneof![
        Just(b'\\'), Just(b'u'), Just(b'n'), Just(b'd'), Just(b'8'), Just(0xc3), Just(0xa9), any::<u8>(),
    ], 0..30)) {
        // The text must not end the string.
        let mut inside: Vec<u8> = inside.into_iter().filter(|byte| *byte != b'"').collect();
        if inside.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1 {
            inside.push(b'x');
        }
        let json = [b"{\"", &inside[..], b"\":\"", &inside[..], b"\"}"].concat();
        let legal = Legal::of(&json);
        let read: BTreeMap<String, String> = serde_json::from_str(legal.as_str()).expect("JSON");
        let (name, value) = read.first_key_value().expect("a member");
        prop_assert_eq!(name, value);
        let mut mended = b"\"".to_vec();
        unusual::string(&inside, &mut mended);
        prop_assert_eq!(value, &serde_json::from_slice::<String>(&[&mended[..], b"\""].concat()).expect("legal"));
    }
}

/// The memory formula counts three times the record's bytes. Text that is not UTF-8 takes them.
#[test]
fn mended_text_takes_three_times_the_memory_of_the_record() {
    let record = [b"{\"\":\"", &[0xff; 1000][..], b"\"}"].concat();
    let Legal(Cow::Owned(mended)) = Legal::of(&record) else { panic!("it was mended") };
    assert_eq!(mended.capacity(), 3 * record.len());
}
