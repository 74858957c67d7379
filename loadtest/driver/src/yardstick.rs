//! The yardstick: what merely inflating the same bytes costs, with the same library on the same machine.

use std::time::Duration;

use anyhow::ensure;
use flate2::{Decompress, FlushDecompress, Status};

use crate::usage;

/// The worker inflates in steps of this size too.
const WINDOW: usize = 256 * 1024;

/// Inflates every object `copies` times on this thread; says how much CPU that took.
///
/// # Errors
/// One of them is not a whole gzip member, or Linux does not tell the time.
pub(crate) fn inflate(objects: &[(&[u8], u64)]) -> anyhow::Result<Duration> {
    let mut window = vec![0; WINDOW];
    let before = usage::of_this_thread()?;
    for (gzip, copies) in objects {
        for _ in 0..*copies {
            inflate_one(gzip, &mut window)?;
        }
    }
    Ok(usage::of_this_thread()? - before)
}

/// Inflates one member and checks its CRC, as the worker must; says how many bytes came out.
fn inflate_one(gzip: &[u8], window: &mut [u8]) -> anyhow::Result<u64> {
    let mut decoder = Decompress::new_gzip(15);
    loop {
        let (read, written) = (decoder.total_in(), decoder.total_out());
        let input = gzip.get(usize::try_from(read)?..).unwrap_or_default();
        if decoder.decompress(input, window, FlushDecompress::None)? == Status::StreamEnd {
            return Ok(decoder.total_out());
        }
        ensure!((decoder.total_in(), decoder.total_out()) != (read, written), "the member is cut short");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    #[test]
    fn all_of_it_is_inflated() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        let text: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
        gzip.write_all(&text).expect("memory takes everything");
        let gzip = gzip.finish().expect("memory takes everything");
        let mut window = vec![0; WINDOW];
        assert_eq!(inflate_one(&gzip, &mut window).expect("it is whole"), 1_000_000);
        inflate_one(&gzip[..gzip.len() / 2], &mut window).expect_err("a half");
        let mut wrong = gzip.clone();
        let crc = gzip.len() - 8;
        wrong[crc] ^= 1;
        inflate_one(&wrong, &mut window).expect_err("the CRC is wrong");
    }
}
