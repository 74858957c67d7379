//! Names content that no format reads, by its first bytes.

/// First bytes of formats that log archives contain, with the formats' names. The sources are the formats' own specifications.
const MAGIC: [(&[u8], &str); 16] = [
    (b"PAR1", "a Parquet file"),
    (b"PARE", "an encrypted Parquet file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"SEQ\x06", "a Hadoop SequenceFile"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\0", "xz data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x04\x22\x4d\x18", "LZ4 data"),
    (b"\xff\x06\0\0sNaPpY", "Snappy data"),
    (
        b"\x1f\x8b",
        "gzip data inside of compressed data (Firehose compresses once more what is compressed already)",
    ),
    (b"\x28\xb5\x2f\xfd", "zstd data inside of compressed data"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
];
/// The start of bzip2's first block, after the digit of the block size.
const BZIP2_BLOCK: &[u8] = b"1AY&SY";

/// Returns the name of the format if `head`, the first bytes of a text, belongs to a format that is known and not supported.
pub(super) fn name(head: &[u8]) -> Option<&'static str> {
    let (magic, name) = MAGIC.iter().find(|(magic, _)| head.starts_with(magic))?;
    let behind = &head[magic.len()..];
    let is_it = match *magic {
        // Text may begin with these letters too.
        b"ORC" => behind.iter().take(64).any(|byte| is_control(*byte)),
        b"BZh" => behind.get(1..).is_some_and(|rest| rest.starts_with(BZIP2_BLOCK)),
        _ => true,
    };
    is_it.then_some(*name)
}

/// Whether the bytes are text: no control characters, and almost all of it is UTF-8.
pub(super) fn is_text(head: &[u8]) -> bool {
    let invalid: usize = head.utf8_chunks().map(|chunk| chunk.invalid().len()).sum();
    invalid <= head.len() / 8 && !head.iter().any(|byte| is_control(*byte))
}

/// Whether the byte is a control character that text does not have.
pub(super) fn is_control(byte: u8) -> bool {
    // Tab, line feed, vertical tab, form feed, carriage return; backspace and escape, which terminals interpret.
    matches!(byte, 0..=7 | 14..=26 | 28..=31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_no_control_characters_and_is_mostly_utf8() {
        for (bytes, expected) in [
            (&b"plain \x1b[31mred\x1b[0m text\r\n\t\x0c\x08"[..], true),
            (b"caf\xe9 and more letters", true),
            ("日本".as_bytes(), true),
            (b"", true),
            (b"a\0b", false),
            (b"\x01", false),
            (b"\xcf\xf0\xe8\xe2\xe5\xf2", false),
        ] {
            assert_eq!(is_text(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
