//! Stored objects: the text does not depend on the chunks, no window is larger than allowed, and objects without
//! compression are returned unchanged.

use logferry::decode::{Decoded, Decoder, ORDINARY_WINDOW, Window};

/// Longest text of a case: longer than the text of most bombs of this size, and short enough to run many cases.
const LIMIT: u64 = 4 << 20;
const MAX_WINDOW: u64 = 64 << 20;

/// The first byte chooses the chunks. The second chooses magic bytes of a compression to put in front, or none. The
/// rest is the object.
pub(crate) fn check(data: &[u8]) {
    let [chunks, head, rest @ ..] = data else { return };
    let heads: [&[u8]; 6] =
        [b"", b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"\x28\xb5\x2f\xfd\x00\x80"];
    let object = [heads[usize::from(head % 6)], rest].concat();
    let (text, error) = decode(&object, object.len().max(1));
    assert!(text.len() as u64 <= LIMIT + (4 << 20), "{} bytes of text", text.len());
    let (again, error_again) = decode(&object, 1 + usize::from(chunks % 32));
    // The decompression library decides how much text comes before an error.
    assert_eq!(error.is_none(), error_again.is_none(), "{error:?} {error_again:?}");
    assert!(error.is_some() || text == again);
    assert!(text.starts_with(&again) || again.starts_with(&text));
    let is_zstd = object.starts_with(b"\x28\xb5\x2f\xfd")
        || object.len() >= 4 && object[0] >> 4 == 5 && object[1..4] == [0x2a, 0x4d, 0x18];
    if !is_zstd && !object.starts_with(b"\x1f\x8b") {
        assert_eq!((text, error), (object, None));
    }
}

/// The text, and the message of the error that ended it.
fn decode(object: &[u8], chunk: usize) -> (Vec<u8>, Option<String>) {
    let (mut decoder, mut window, mut text) =
        (Decoder::new(LIMIT, MAX_WINDOW), Window::default(), Vec::new());
    let mut take = |window: &mut Window| {
        text.extend_from_slice(window.unread());
        window.consume(window.unread().len());
    };
    let mut error = None;
    'object: for mut input in object.chunks(chunk) {
        loop {
            let before = input.len();
            let decoded = decoder.decode(&mut input, &mut window);
            take(&mut window);
            match decoded {
                Ok(Decoded::NeedsWindow(bytes)) => {
                    assert!((ORDINARY_WINDOW + 1..=MAX_WINDOW).contains(&bytes), "{bytes}");
                    decoder.allow(bytes);
                }
                Ok(Decoded::Step) if input.is_empty() => break,
                Ok(Decoded::Step) => assert!(input.len() <= before),
                Err(found) => {
                    error = Some(found.to_string());
                    break 'object;
                }
            }
        }
    }
    if error.is_none() {
        error = decoder.finish(&mut window).err().map(|error| error.to_string());
        take(&mut window);
    }
    (text, error)
}
