//! Text encodings of AWS's protocols, and ids.

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
    encode_percent(key, b"-_.*/ ").replace(' ', "+")
}

/// Percent-encodes all bytes except ASCII letters, digits and those in `kept`.
pub(crate) fn encode_percent(text: &str, kept: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Splits and decodes `a=b&c=d` (percent and plus), in order.
pub(crate) fn form_pairs(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(key), decode_form(value))
        })
        .collect()
}

/// Decodes form encoding: `+` is a space, `%XX` a byte.
pub(crate) fn decode_form(text: &str) -> String {
    decode_percent(&text.replace('+', " "))
}

/// Decodes percent encoding. A plus stays a plus, and a broken escape stays as it is.
pub(crate) fn decode_percent(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        match escape {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random UUID of version 4, the form of message and request ids.
pub(crate) fn uuid() -> String {
    let mut bytes = fastrand::u128(..).to_be_bytes();
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let text = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

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
