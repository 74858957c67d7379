//! The yardstick: CPU time of only decompressing the same bytes, with the same library on the same machine.

use std::time::Duration;

use anyhow::ensure;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::{generate::Compression, usage};

/// Size of the steps in which the worker decompresses.
pub(crate) const WINDOW: usize = 256 * 1024;

/// Shortest CPU time to measure. All objects are decompressed again until it is reached, because a shorter measurement would
/// be too rough.
const AT_LEAST: Duration = Duration::from_millis(500);
/// Largest zstd window, as in the worker: the size that the format asks every decoder to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Returns the CPU time of decompressing every object `copies` times on this thread; `None` without compression.
///
/// # Errors
/// An object is incomplete, or Linux does not report the time.
pub(crate) fn decompress(
    objects: &[(&[u8], u64)],
    compression: Compression,
) -> anyhow::Result<Option<Duration>> {
    let one = match compression {
        Compression::Gzip => inflate,
        Compression::Zstd => unzstd,
        Compression::None => return Ok(None),
    };
    let mut window = vec![0; WINDOW];
    let (before, mut passes) = (usage::of_this_thread()?, 0);
    loop {
        for (object, copies) in objects {
            for _ in 0..*copies {
                one(object, &mut window)?;
            }
        }
        passes += 1;
        let cpu = usage::of_this_thread()? - before;
        if cpu >= AT_LEAST {
            return Ok(Some(cpu / passes));
        }
    }
}

/// Decompresses all gzip members and checks their CRCs, as the worker must. Returns the number of bytes.
///
/// # Errors
/// A member is incomplete, or its CRC is wrong.
pub(crate) fn inflate(mut gzip: &[u8], window: &mut [u8]) -> anyhow::Result<u64> {
    let (mut decoder, mut produced) = (Decompress::new_gzip(15), 0);
    loop {
        let (read, written) = (decoder.total_in(), decoder.total_out());
        let status = decoder.decompress(gzip, window, FlushDecompress::None)?;
        gzip = &gzip[usize::try_from(decoder.total_in() - read)?..];
        produced += decoder.total_out() - written;
        if status == Status::StreamEnd {
            if gzip.is_empty() {
                return Ok(produced);
            }
            decoder = Decompress::new_gzip(15);
        } else {
            ensure!((decoder.total_in(), decoder.total_out()) != (read, written), "the member is cut short");
        }
    }
}

/// Decompresses all zstd frames. Returns the number of bytes.
///
/// # Errors
/// A frame is incomplete.
pub(crate) fn unzstd(zstd: &[u8], window: &mut [u8]) -> anyhow::Result<u64> {
    let mut decoder = Decoder::new()?;
    decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX))?;
    let (mut input, mut produced) = (InBuffer::around(zstd), 0);
    loop {
        let mut output = OutBuffer::around(&mut *window);
        let open = decoder.run(&mut input, &mut output)? > 0;
        let (wrote, full) = (output.pos(), output.pos() == output.capacity());
        produced += wrote as u64;
        if input.pos() == zstd.len() && !full {
            ensure!(!open, "the frame is cut short");
            return Ok(produced);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn text() -> Vec<u8> {
        (0..1_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect()
    }

    fn gzip() -> Vec<u8> {
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text()).expect("memory takes everything");
        gzip.finish().expect("memory takes everything")
    }

    #[test]
    fn all_gzip_members_are_inflated() {
        let gzip = gzip();
        let mut window = vec![0; WINDOW];
        assert_eq!(inflate(&gzip, &mut window).expect("the member is complete"), 1_000_000);
        inflate(&gzip[..gzip.len() / 2], &mut window).expect_err("half a member");
        let two = [&gzip[..], &gzip[..]].concat();
        assert_eq!(inflate(&two, &mut window).expect("two members"), 2_000_000);
        inflate(&two[..two.len() - 9], &mut window).expect_err("the second is cut short");
        let mut wrong = gzip.clone();
        let crc = gzip.len() - 8;
        wrong[crc] ^= 1;
        inflate(&wrong, &mut window).expect_err("the CRC is wrong");
    }
    #[test]
    fn all_zstd_frames_are_decompressed() {
        let frame = zstd::encode_all(&text()[..], 3).expect("memory takes everything");
        let two = [&frame[..], &frame[..]].concat();
        let mut window = vec![0; WINDOW];
        assert_eq!(unzstd(&frame, &mut window).expect("the frame is complete"), 1_000_000);
        assert_eq!(unzstd(&two, &mut window).expect("two frames"), 2_000_000);
        unzstd(&two[..two.len() - 5], &mut window).expect_err("the second is cut short");
    }

    #[test]
    fn copies_are_decompressed_one_by_one() {
        let gzip = gzip();
        let cost = |copies| {
            let cost = decompress(&[(&gzip, copies)], Compression::Gzip).expect("the object is complete");
            cost.expect("gzip has a yardstick").as_secs_f64()
        };
        let (few, many) = (cost(1), cost(64));
        assert!(many > 16.0 * few, "{few} s, and 64 times that {many} s");
        assert_eq!(decompress(&[(&gzip, 1)], Compression::None).expect("nothing to do"), None);
    }
}
