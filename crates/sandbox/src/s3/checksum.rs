//! Additional checksums of objects: verifies the checksum that a client sent, or adds S3's own.

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::Crc;
use http::HeaderMap;
use sha2::{Digest, Sha256};

use crate::call::AwsError;

const CRC32C: [u64; 256] = table(0x82f6_3b78);
const CRC64NVME: [u64; 256] = table(0x9a6c_9329_ac4b_c9b5);

/// Checksum of a whole object, as in its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) algorithm: Algorithm,
    /// Base64 of the big-endian checksum.
    pub(super) value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// Name, as in `x-amz-sdk-checksum-algorithm`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Header with the value.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Element with the value in XML answers.
    pub(super) fn element(self) -> &'static str {
        match self {
            Self::Crc32 => "ChecksumCRC32",
            Self::Crc32c => "ChecksumCRC32C",
            Self::Crc64Nvme => "ChecksumCRC64NVME",
            Self::Sha1 => "ChecksumSHA1",
            Self::Sha256 => "ChecksumSHA256",
        }
    }

    /// Computes the checksum; `None` for SHA-1, which the sandbox stores without checking.
    fn of(self, body: &[u8]) -> Option<Checksum> {
        let value = match self {
            Self::Crc32 => {
                let mut crc = Crc::new();
                crc.update(body);
                STANDARD.encode(crc.sum().to_be_bytes())
            }
            Self::Crc32c => {
                let sum = reflected(&CRC32C, u64::from(u32::MAX), body);
                STANDARD.encode(&sum.to_be_bytes()[4..])
            }
            Self::Crc64Nvme => STANDARD.encode(reflected(&CRC64NVME, u64::MAX, body).to_be_bytes()),
            Self::Sha1 => return None,
            Self::Sha256 => STANDARD.encode(Sha256::digest(body)),
        };
        Some(Checksum { algorithm: self, value })
    }
}

impl Checksum {
    /// Checksum to store for a put: the sent one, which is verified, or else CRC-64/NVME, which S3 adds itself.
    pub(super) fn of_put(headers: &HeaderMap, body: &[u8]) -> Result<Self, AwsError> {
        for algorithm in Algorithm::ALL {
            let Some(sent) = headers.get(algorithm.header()).and_then(|value| value.to_str().ok()) else {
                continue;
            };
            let Some(computed) = algorithm.of(body) else {
                return Ok(Self { algorithm, value: sent.to_owned() });
            };
            if STANDARD.decode(sent).is_ok_and(|sum| STANDARD.encode(sum) == computed.value) {
                return Ok(computed);
            }
            let name = algorithm.name();
            return Err(AwsError::new(
                400,
                "BadDigest",
                format!("The {name} you specified did not match the calculated checksum."),
            ));
        }
        if headers.contains_key("x-amz-sdk-checksum-algorithm") {
            return Err(AwsError::new(
                400,
                "InvalidRequest",
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
                 headers were found.",
            ));
        }
        Ok(Algorithm::Crc64Nvme.of(body).expect("this checksum can be computed"))
    }
}

const fn table(polynomial: u64) -> [u64; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ polynomial } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

fn reflected(table: &[u64; 256], ones: u64, body: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| table[usize::from(sum.to_le_bytes()[0] ^ byte)] ^ (sum >> 8);
    body.iter().fold(ones, step) ^ ones
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_their_published_check_values() {
        let check = |algorithm: Algorithm, expected: &[u8]| {
            let sum = algorithm.of(b"123456789").expect("computed");
            assert_eq!(sum.value, STANDARD.encode(expected), "{algorithm:?}");
        };
        check(Algorithm::Crc32, &0xcbf4_3926_u32.to_be_bytes());
        check(Algorithm::Crc32c, &0xe306_9283_u32.to_be_bytes());
        check(Algorithm::Crc64Nvme, &0xae8b_1486_0a79_9888_u64.to_be_bytes());
    }

    #[test]
    fn a_wrong_sum_is_refused_and_a_missing_one_is_added() {
        let headers = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )])
        };
        let of = |headers: HeaderMap| Checksum::of_put(&headers, b"123456789").map(|sum| sum.algorithm);
        assert_eq!(of(headers("x-amz-checksum-crc32", "y/Q5Jg==")).expect("right"), Algorithm::Crc32);
        assert_eq!(of(headers("x-amz-checksum-crc32", "AAAAAA==")).expect_err("wrong").code, "BadDigest");
        assert_eq!(of(headers("x-amz-checksum-sha256", "!")).expect_err("wrong").code, "BadDigest");
        let unsent = of(headers("x-amz-sdk-checksum-algorithm", "CRC32"));
        assert_eq!(unsent.expect_err("announced").code, "InvalidRequest");
        assert_eq!(of(HeaderMap::new()).expect("made"), Algorithm::Crc64Nvme);
    }
}
