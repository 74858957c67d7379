//! Frames built by hand: every kind of header, with uncompressed blocks.

use super::{super::tests::run_with_windows, *};

const MIB: u64 = 1 << 20;
/// Window descriptor: a power of two, plus a number of eighths of it.
fn window(log: u8, eighths: u8) -> u8 {
    (log - 10) << 3 | eighths
}

/// One frame with one uncompressed block.
fn frame(header: &[u8], text: &[u8]) -> Vec<u8> {
    let block = u32::try_from(text.len()).expect("the text is short") << 3 | 1;
    [&MAGIC[..], header, &block.to_le_bytes()[..3], text].concat()
}

fn skippable(kind: u8, len: usize) -> Vec<u8> {
    let size = u32::try_from(len).expect("the text is short").to_le_bytes();
    [&[0x50 | kind][..], &SKIPPABLE, &size, &vec![b'{'; len]].concat()
}

/// Decodes the object. Returns its text and the window sizes that the decoder asked for.
fn decode(object: &[u8], chunk: usize, limit: u64) -> Result<(Vec<u8>, Vec<u64>), DecodeError> {
    let (text, result, windows) = run_with_windows(object, chunk, u64::MAX, limit);
    result.map(|()| (text, windows))
}

fn check(object: &[u8], expected: &[u8], windows: &[u64]) {
    for chunk in [1, 2, 3, 5, 18, object.len()] {
        let (text, asked) = decode(object, chunk, MAX_WINDOW).unwrap_or_else(|error| panic!("{error}"));
        assert!(text == expected, "in chunks of {chunk}");
        assert_eq!(asked, windows, "in chunks of {chunk}");
    }
}

/// One frame of `blocks` blocks of 128 KiB, each filled with `byte`.
fn long_frame(header: &[u8], blocks: usize, byte: u8) -> Vec<u8> {
    let block = |at| [&((128 << 10) << 3 | 2 | u32::from(at == blocks)).to_le_bytes()[..3], &[byte]].concat();
    [&MAGIC[..], header, &(1..=blocks).flat_map(block).collect::<Vec<_>>()].concat()
}

/// Number of 128 KiB blocks that fill an ordinary window.
const ORDINARY: usize = 64;

#[test]
fn a_large_window_is_asked_for_once_the_ordinary_one_is_full() {
    let text = |blocks: usize, byte| vec![byte; blocks * (128 << 10)];
    for (log, eighths, asked) in [
        (20, 0, None),
        (23, 0, None),
        (23, 1, Some(9 * MIB)),
        (24, 7, Some(30 * MIB)),
        (25, 0, Some(32 * MIB)),
        (26, 0, Some(64 * MIB)),
        (27, 0, Some(128 * MIB)),
    ] {
        let windows: Vec<_> = asked.into_iter().collect();
        let frame = |blocks, byte| long_frame(&[0, window(log, eighths)], blocks, byte);
        // The first text is 2 MiB shorter than the ordinary window, because one step may write up to 2 MiB.
        check(&frame(ORDINARY - 16, b'a'), &text(ORDINARY - 16, b'a'), &[]);
        check(&frame(ORDINARY + 1, b'a'), &text(ORDINARY + 1, b'a'), &windows);
        // A second frame with the same window does not ask again.
        let object = [frame(ORDINARY + 1, b'a'), frame(ORDINARY + 1, b'b')].concat();
        let both = [text(ORDINARY + 1, b'a'), text(ORDINARY + 1, b'b')].concat();
        check(&object, &both, &windows);
    }
    // A larger window is asked for again.
    let object = [25, 24, 26, 20, 26].map(|log| long_frame(&[0, window(log, 0)], ORDINARY + 1, log)).concat();
    let all = [25, 24, 26, 20, 26].map(|log| text(ORDINARY + 1, log)).concat();
    check(&object, &all, &[32 * MIB, 64 * MIB]);
}

/// Frames inside a frame with this window, whose header was read.
fn inside(log: u8) -> Frames {
    let (mut frames, object) = (Frames::new(MAX_WINDOW), [&MAGIC[..], &[0, window(log, 0)]].concat());
    let mut input = &object[..];
    for _ in ["header", "beginning"] {
        let step = frames.step(&mut input, &mut Vec::new(), 0).expect("a good header");
        assert_eq!(step, Decoded::Step);
    }
    frames
}

#[test]
fn a_large_window_is_asked_for_before_a_step_can_use_it() {
    let ordinary = usize::try_from(ORDINARY_WINDOW).expect("8 MiB");
    // The buffer has text that nobody has consumed yet.
    let unread = 100;
    for (room, asked) in [(ordinary, false), (ordinary + 1, true)] {
        let (mut frames, mut buffer) = (inside(24), vec![b'x'; unread]);
        buffer.reserve_exact(room);
        let block = &long_frame(&[0, 0], 2, b'a')[6..][..4];
        let step = frames.step(&mut &*block, &mut buffer, 0).expect("a good block");
        assert_eq!(step, if asked { Decoded::NeedsWindow(16 * MIB) } else { Decoded::Step });
        assert_eq!(frames.used, (buffer.len() - unread) as u64);
        assert_eq!(frames.used, if asked { 0 } else { 128 << 10 });
    }
}

/// The window of one frame is freed if the next frame will wait for a larger one.
#[test]
fn a_frame_that_waits_for_memory_holds_none() {
    for (log, allowed, next, kept) in [
        (20, ORDINARY_WINDOW, 23, true),
        (20, ORDINARY_WINDOW, 24, true),
        (25, 32 * MIB, 24, true),
        (25, 32 * MIB, 25, true),
        (25, 32 * MIB, 26, false),
    ] {
        let (mut frames, mut buffer) = (Frames::new(MAX_WINDOW), Vec::with_capacity(1000));
        frames.allow(allowed);
        let object = [&frame(&[0, window(log, 0)], b"text")[..], &MAGIC, &[0, window(next, 0)]].concat();
        let mut input = &object[..];
        while !input.is_empty() {
            let step = frames.step(&mut input, &mut buffer, 0).expect("good frames");
            assert_eq!(step, Decoded::Step);
        }
        assert_eq!(frames.decoder.is_some(), kept, "{log} {next}");
        assert_eq!(frames.allowed, if kept { allowed } else { ORDINARY_WINDOW }, "{log} {next}");
    }
}

#[test]
fn a_frame_needs_no_larger_window_than_its_content() {
    for (header, expected) in [
        (&[0x40, window(30, 0), 1, 0][..], 257),
        (&[0x40, window(10, 0), 1, 1], 513),
        (&[0x40, window(10, 0), 0xff, 0xff], 1024),
        (&[0x80, window(30, 0), 4, 3, 2, 1], 0x0102_0304),
        (&[0xe0, 8, 7, 6, 5, 4, 3, 2, 1], 0x0102_0304_0506_0708),
        (&[0x20, 4], 4),
        (&[0x60, 1, 2], 769),
    ] {
        let whole = [&MAGIC[..], header].concat();
        assert_eq!(read(&whole), Header::Frame { window: expected, dictionary: None });
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), Header::Incomplete);
        }
    }
    // Content sizes in two, four and eight bytes; with a single segment, in one and two bytes.
    check(&frame(&[0x40, window(30, 0), 1, 0], &[b'x'; 257]), &[b'x'; 257], &[]);
    check(&frame(&[0x80, window(27, 0), 4, 0, 0, 0], b"text"), b"text", &[]);
    check(&frame(&[0xc0, window(31, 0), 4, 0, 0, 0, 0, 0, 0, 0], b"text"), b"text", &[]);
    check(&frame(&[0x20, 4], b"text"), b"text", &[]);
    check(&frame(&[0x60, 1, 0], &[b'x'; 257]), &[b'x'; 257], &[]);
    let too_short = frame(&[0xa0, 0, 0, 0, 1], b"text");
    assert!(matches!(decode(&too_short, 3, MAX_WINDOW), Err(DecodeError::Corrupt { format: "zstd", .. })));
}

#[test]
fn a_window_beyond_the_limit_is_refused() {
    let check = |header: &[u8], limit, expected| {
        for chunk in [1, 100] {
            let object = [frame(&[0, window(20, 0)], b"good"), frame(header, b"x")].concat();
            match decode(&object, chunk, limit) {
                Err(DecodeError::WindowTooLarge { window, limit: told, produced: 4 }) => {
                    assert_eq!((window, told), (expected, limit));
                }
                other => panic!("{other:?}"),
            }
        }
    };
    check(&[0, window(27, 1)], MAX_WINDOW, 144 * MIB);
    check(&[0, window(28, 0)], MAX_WINDOW, 256 * MIB);
    check(&[0, 0xff], MAX_WINDOW, 15 << 38);
    check(&[0xe0, 0, 0, 0, 0, 1, 0, 0, 0], MAX_WINDOW, 1 << 32);
    check(&[0, window(24, 0)], ORDINARY_WINDOW, 16 * MIB);
    check(&[0, window(26, 0)], 32 * MIB, 64 * MIB);
}

#[test]
fn skippable_frames_may_appear_anywhere() {
    let text = |text: &[u8]| frame(&[0, window(20, 0)], text);
    for kind in [0, 7, 15] {
        let (none, some) = (skippable(kind, 0), skippable(kind, 1000));
        check(&[some.clone(), text(b"a")].concat(), b"a", &[]);
        check(
            &[none.clone(), text(b"a"), some.clone(), none.clone(), text(b"b"), none.clone()].concat(),
            b"ab",
            &[],
        );
        check(&some, b"", &[]);
        check(&none, b"", &[]);
        let cut = decode(&some[..500], 7, MAX_WINDOW);
        assert!(matches!(cut, Err(DecodeError::Truncated { format: "zstd", .. })), "{cut:?}");
    }
    let garbage = [text(b"a"), b"garbage".to_vec()].concat();
    for chunk in [1, 100] {
        assert!(matches!(
            decode(&garbage, chunk, MAX_WINDOW),
            Err(DecodeError::Corrupt { format: "zstd", .. })
        ));
    }
}

#[test]
fn a_dictionary_is_refused_by_its_id() {
    for (header, expected) in [
        (&[1, window(20, 0), 7][..], 7),
        (&[2, window(20, 0), 0x34, 0x12], 0x1234),
        (&[3, window(20, 0), 0x78, 0x56, 0x34, 0x12], 0x1234_5678),
        (&[0x23, 0x78, 0x56, 0x34, 0x12, 4], 0x1234_5678),
    ] {
        match decode(&frame(header, b"text"), 3, MAX_WINDOW) {
            Err(error @ DecodeError::Dictionary { id, .. }) => {
                assert_eq!(id, expected);
                assert!(error.to_string().contains("dictionaries are not supported"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    // ID 0 means: no dictionary.
    check(&frame(&[1, window(20, 0), 0], b"text"), b"text", &[]);
}

/// Frames of the library's own encoder are read in chunks of any size, with different windows one after another.
#[test]
fn frames_of_the_library_s_encoder_are_read() {
    use std::io::Write;
    let text: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
    let encode = |level, log, part: &[u8]| {
        let mut encoder = zstd::Encoder::new(Vec::new(), level).expect("the level is known");
        encoder.window_log(log).expect("the window is legal");
        encoder.include_checksum(true).expect("the option exists");
        encoder.write_all(part).expect("memory takes it");
        encoder.finish().expect("memory takes it")
    };
    let (head, tail) = text.split_at(500_000);
    let object = [encode(3, 24, head), skippable(3, 77), encode(1, 17, tail), encode(1, 10, b"")].concat();
    for chunk in [7, 4096, object.len()] {
        let (found, windows) = decode(&object, chunk, MAX_WINDOW).expect("the object is whole");
        assert!(found == text, "in chunks of {chunk}");
        assert_eq!(windows, [0; 0], "the text is short");
    }
}
