//! S3's text encodings: XML escapes, and keys in form encoding.

/// Escapes text for an XML element or attribute. Control characters become references, as in S3's answers.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\0'..='\u{1f}' | '\u{7f}' => out.push_str(&format!("&#x{:x};", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// An element with escaped text.
pub(crate) fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>", escape(text))
}

/// Encodes a key as in S3's event records and in lists with `encoding-type=url`: a space becomes `+`, `/` stays.
pub(crate) fn encode_key(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::decode_form;

    #[test]
    fn keys_are_encoded_as_in_event_records() {
        for (key, expected) in [
            ("acme/c-1/a b/p.json.gz", "acme/c-1/a+b/p.json.gz"),
            ("a+b=c:d", "a%2Bb%3Dc%3Ad"),
            ("é~*_", "%C3%A9%7E*_"),
        ] {
            assert_eq!(encode_key(key), expected);
            assert_eq!(decode_form(expected), key);
        }
    }

    #[test]
    fn escaped_text_reads_back() {
        let text = "a<b>&\"c\"\té\u{1F680}";
        let document = element("Key", text);
        let parsed = roxmltree::Document::parse(&document).expect("XML");
        assert_eq!(parsed.root_element().text(), Some(text));
    }
}
