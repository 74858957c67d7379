//! The decoder reads objects of every compression, complete and damaged, in chunks of any size.

use std::io::Write;

use proptest::prelude::*;

use super::*;

pub(crate) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn zstd(text: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(text, 3).expect("memory takes it")
}

/// Feeds `object` in chunks and consumes the whole window after each call.
fn run(object: &[u8], chunk: usize, limit: u64) -> (Vec<u8>, Result<(), DecodeError>) {
    let (text, result, _) = run_with_windows(object, chunk, limit, MAX_WINDOW);
    (text, result)
}

/// Does the same with windows of up to `max_window`. The last value lists the window sizes that the decoder asked for.
pub(super) fn run_with_windows(
    object: &[u8],
    chunk: usize,
    limit: u64,
    max_window: u64,
) -> (Vec<u8>, Result<(), DecodeError>, Vec<u64>) {
    let (mut decoder, mut window, mut text) =
        (Decoder::new(limit, max_window), Window::default(), Vec::new());
    let mut windows = Vec::new();
    let mut take = |window: &mut Window| {
        text.extend_from_slice(window.unread());
        window.consume(window.unread().len());
    };
    let mut result = Ok(());
    'object: for mut input in object.chunks(chunk.max(1)) {
        while !input.is_empty() {
            let decoded = decoder.decode(&mut input, &mut window);
            take(&mut window);
            match decoded {
                Ok(Decoded::Step) => {}
                Ok(Decoded::NeedsWindow(bytes)) => {
                    windows.push(bytes);
                    decoder.allow(bytes);
                    // The call has no input, because the decoder may have waited only for the permission.
                    let again = decoder.decode(&mut &[][..], &mut window).expect("nothing is wrong yet");
                    assert_eq!(again, Decoded::Step);
                }
                Err(error) => {
                    result = Err(error);
                    break 'object;
                }
            }
        }
    }
    if result.is_ok() {
        result = decoder.finish(&mut window);
        take(&mut window);
    }
    (text, result, windows)
}

fn check(object: &[u8], expected: &[u8]) {
    for chunk in [1, 3, 7, 1000, usize::MAX] {
        let (text, result) = run(object, chunk.min(object.len().max(1)), u64::MAX);
        result.expect("the object is whole");
        assert!(text == expected, "in chunks of {chunk}");
    }
}

#[test]
fn the_first_bytes_tell_the_compression() {
    for text in [b"".as_slice(), b"[", b"{}", b"[{\"message\":\"x\"}]", &b"abc ".repeat(200_000)] {
        check(text, text);
        check(&gzip(text), text);
        if !text.is_empty() {
            check(&zstd(text), text);
        }
    }
    // They arrive in two pieces, and no further byte is taken with them.
    let text = b"[{\"message\":\"x\"}]";
    for first in 0..HEAD {
        let (mut decoder, mut window) = (Decoder::new(u64::MAX, MAX_WINDOW), Window::default());
        let (mut piece, mut rest) = text.split_at(first);
        for input in [&mut piece, &mut rest] {
            assert_eq!(decoder.decode(input, &mut window).expect("plain text"), Decoded::Step);
        }
        assert_eq!((piece, rest), (&b""[..], &text[HEAD..]));
        assert_eq!(window.unread(), &text[..HEAD]);
    }
}

#[test]
fn members_and_frames_are_joined() {
    let text = b"one line\n".repeat(5000);
    let (head, tail) = text.split_at(12_345);
    check(&[gzip(head), gzip(b""), gzip(tail)].concat(), &text);
    check(&[gzip(head), gzip(tail), vec![0; 512]].concat(), &text);
    check(&[zstd(head), zstd(tail)].concat(), &text);
}

/// A gzip member with these header fields. Adds the header's CRC if `flags` asks for it.
fn gzip_with_fields(flags: u8, fields: &[&[u8]], text: &[u8]) -> Vec<u8> {
    const HEADER_CRC: u8 = 2;
    let plain = gzip(text);
    let mut header = [&plain[..3], &[flags], &plain[4..10], &fields.concat()].concat();
    if flags & HEADER_CRC > 0 {
        let mut crc = flate2::Crc::new();
        crc.update(&header);
        header.extend_from_slice(&crc.sum().to_le_bytes()[..2]);
    }
    [&header, &plain[10..]].concat()
}

#[test]
fn a_gzip_header_may_have_every_field() {
    const TEXT: u8 = 1;
    let text = b"one line\n".repeat(50);
    let extra = [&[0x04, 0x01][..], b"AB", &[0, 1], &[7; 256]].concat();
    let (name, comment) = ([&[b'n'; 300][..], b"\0"].concat(), b"a comment\0".to_vec());
    let all = [&extra[..], &name, &comment];
    for header_crc in [0, 2] {
        check(&gzip_with_fields(header_crc, &[], &text), &text);
        check(&gzip_with_fields(TEXT | 4 | header_crc, &all[..1], &text), &text);
        check(&gzip_with_fields(4 | header_crc, &[&[0, 0]], &text), &text);
        check(&gzip_with_fields(8 | header_crc, &all[1..2], &text), &text);
        check(&gzip_with_fields(16 | header_crc, &all[2..], &text), &text);
        let member = gzip_with_fields(4 | 8 | 16 | header_crc, &all, &text);
        check(&member, &text);
        check(&[member.clone(), gzip(b""), member.clone()].concat(), &text.repeat(2));
        for cut in [4, 11, 13, 200, 400, 580] {
            let (good, result) = run(&member[..cut], 5, u64::MAX);
            assert_eq!(good, b"");
            assert!(
                matches!(result, Err(DecodeError::Truncated { format: "gzip", .. })),
                "{cut}: {result:?}"
            );
        }
    }
    let mut wrong = gzip_with_fields(2 | 8, &[b"n\0"], &text);
    wrong[10] ^= 1;
    assert!(matches!(run(&wrong, 3, u64::MAX).1, Err(DecodeError::Corrupt { format: "gzip", .. })));
}

#[test]
fn the_text_before_damage_is_good() {
    let text: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    for (name, whole) in [("gzip", gzip(&text)), ("zstd", zstd(&text))] {
        let (good, result) = run(&whole[..whole.len() * 2 / 3], 4096, u64::MAX);
        assert!(text.starts_with(&good) && good.len() > 100_000, "{name}");
        assert!(matches!(result, Err(DecodeError::Truncated { format, .. }) if format == name), "{result:?}");
    }
    let mut wrong_crc = gzip(&text);
    let at = wrong_crc.len() - 8;
    wrong_crc[at] ^= 1;
    let (good, result) = run(&wrong_crc, 4096, u64::MAX);
    assert!(text.starts_with(&good), "the text itself is right");
    check_corrupt(result, "gzip", good.len(), "");
    // The same without consuming the text.
    let (mut decoder, mut window) = (Decoder::new(u64::MAX, MAX_WINDOW), Window::default());
    let mut input = &wrong_crc[..];
    let error = loop {
        if let Err(error) = decoder.decode(&mut input, &mut window) {
            break error;
        }
    };
    check_corrupt(Err(error), "gzip", window.unread().len(), "");
    let (good, result) = run(&[gzip(b"good"), b"garbage".to_vec()].concat(), 4096, u64::MAX);
    check_corrupt(result, "gzip", 4, "the bytes after the last member are not gzip");
    assert_eq!(good, b"good");
}

#[track_caller]
fn check_corrupt(result: Result<(), DecodeError>, expected: &str, bytes: usize, part: &str) {
    match result {
        Err(DecodeError::Corrupt { format, produced, problem }) => {
            assert_eq!((format, produced), (expected, bytes as u64), "{problem}");
            assert!(problem.contains(part), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_decompression_bomb_stops_at_the_limit_in_bounded_memory() {
    let bomb = gzip(&vec![0; 64 << 20]);
    let (mut decoder, mut window) = (Decoder::new(8 << 20, MAX_WINDOW), Window::default());
    let mut input = bomb.as_slice();
    let error = loop {
        if let Err(error) = decoder.decode(&mut input, &mut window) {
            break error;
        }
        window.consume(window.unread().len());
        assert!(window.buffer.capacity() <= 2 * STEP, "the window grows");
    };
    assert!(matches!(error, DecodeError::TooLarge { limit } if limit == 8 << 20), "{error:?}");
}

/// The window's buffer before a step, by its capacity, its length and how much of it is consumed, and its capacity after.
#[test]
fn a_step_has_room_for_its_text_and_not_much_more() {
    const KIB: usize = 1 << 10;
    for (capacity, len, consumed, expected) in [
        (0, 0, 0, 32 * KIB),
        (32 * KIB, 32 * KIB, 32 * KIB, 256 * KIB),
        (32 * KIB, 32 * KIB, 31 * KIB, 257 * KIB),
        (256 * KIB, KIB, KIB, 256 * KIB),
        (256 * KIB, KIB, 0, 257 * KIB),
        (2049 * KIB, 10 * KIB, 9 * KIB, 2049 * KIB),
        (2049 * KIB + 1, 10 * KIB, 9 * KIB, 257 * KIB),
        (4096 * KIB, 0, 0, 256 * KIB),
    ] {
        let mut window = Window { buffer: Vec::with_capacity(capacity), start: 0 };
        window.buffer.extend((0..len).map(|at| at as u8));
        window.consume(consumed);
        let unread = window.unread().to_vec();
        window.make_room();
        assert_eq!(window.buffer.capacity(), expected, "{len} of {capacity} bytes, {consumed} consumed");
        assert!(window.unread() == unread && window.start == 0);
    }
}

#[test]
fn a_step_stays_small_after_a_long_record() {
    for (name, bomb) in [("gzip", gzip(&vec![0; 64 << 20])), ("zstd", zstd(&vec![0; 64 << 20]))] {
        let (mut decoder, mut window) = (Decoder::new(u64::MAX, MAX_WINDOW), Window::default());
        let mut input = bomb.as_slice();
        // The first record takes 16 MiB before anything is consumed.
        while window.unread().len() < 16 << 20 {
            let _ = decoder.decode(&mut input, &mut window).expect("the object is whole");
        }
        while !input.is_empty() {
            window.consume(window.unread().len());
            let _ = decoder.decode(&mut input, &mut window).expect("the object is whole");
            assert!(window.unread().len() <= MOST_ROOM, "{name}: {}", window.unread().len());
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_decode_the_same_in_any_chunks(
        mut object in proptest::collection::vec(any::<u8>(), 0..400),
        magic in prop_oneof![Just(&[][..]), Just(&GZIP_MAGIC[..]), Just(&b"\x28\xb5\x2f\xfd"[..]), Just(&b"\x5a\x2a\x4d\x18"[..])],
        chunk in 1_usize..50,
    ) {
        object.splice(0..0, magic.iter().copied());
        let (whole, first) = run(&object, object.len().max(1), 1 << 20);
        let (pieces, second) = run(&object, chunk, 1 << 20);
        prop_assert_eq!(first.is_ok(), second.is_ok());
        prop_assert!(first.is_err() || whole == pieces);
    }
}
