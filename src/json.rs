//! JSON that others write: structures that only objects fill, and errors that quote nothing.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::error::Category;

/// A structure that only a JSON object fills. serde's derived structures take arrays too, by position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonObject<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = JsonObject<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(JsonObject)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// What is wrong with a text of JSON. serde_json's own texts quote the text, which may have customers' data.
pub fn problem(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Data => "a member is missing or has another type",
        Category::Eof => "it ends too early",
        Category::Syntax | Category::Io => "it is not JSON",
    };
    format!("{what}, at line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Text<'a> {
        #[serde(borrow)]
        a: Cow<'a, str>,
        #[serde(borrow)]
        b: Option<&'a RawValue>,
    }

    #[test]
    fn only_an_object_is_read() {
        let read = |text| serde_json::from_str::<JsonObject<Text<'_>>>(text);
        let JsonObject(text) = read(r#"{"b": [1, 2], "c": {}, "a": "x"}"#).expect("an object");
        assert_eq!((&*text.a, text.b.map(RawValue::get)), ("x", Some("[1, 2]")));
        for other in ["[]", r#"["x", [1]]"#, r#""x""#, "null", "{}", r#"{"a": "x"} {}"#] {
            read(other).expect_err(other);
        }
        let error = read(r#"{"a": "secret", "b": [1}"#).expect_err("a bracket is missing");
        assert_eq!(problem(&error), "it is not JSON, at line 1 column 24");
        let error = read(r#"["secret"]"#).expect_err("an array");
        assert_eq!(problem(&error), "a member is missing or has another type, at line 1 column 0");
        // What the type is for.
        serde_json::from_str::<Text<'_>>(r#"["x", [1]]"#).expect("a derived structure takes an array");
    }
}
