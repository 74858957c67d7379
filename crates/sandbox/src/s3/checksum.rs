//! Additional checksums of objects and parts: verifies the checksum that a client sent, or adds S3's own.
//!
//! CRC-32 is the SDKs' default, and CRC-64/NVME is S3's. Other algorithms are not implemented.

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::Crc;
use http::HeaderMap;

use crate::{
    call::{AwsError, Call},
    encoding::element,
};

const CRC64NVME: [u64; 256] = table(0x9a6c_9329_ac4b_c9b5);

/// Checksum of an object or a part, as in its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) algorithm: Algorithm,
    pub(super) kind: Kind,
    /// Base64 of the big-endian checksum; if it is composite, followed by `-` and the number of parts.
    pub(super) value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Checksum of the bytes.
    FullObject,
    /// Checksum of the checksums of the parts.
    Composite,
}

impl Kind {
    /// Name, as in `x-amz-checksum-type`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::FullObject => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Crc32,
    Crc64Nvme,
}

impl Algorithm {
    pub(super) const ALL: [Self; 2] = [Self::Crc32, Self::Crc64Nvme];

    /// Name, as in `x-amz-sdk-checksum-algorithm`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc64Nvme => "CRC64NVME",
        }
    }

    /// Header with the value.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
        }
    }

    /// Element with the value in XML answers.
    pub(super) fn element(self) -> &'static str {
        match self {
            Self::Crc32 => "ChecksumCRC32",
            Self::Crc64Nvme => "ChecksumCRC64NVME",
        }
    }

    /// Computes the checksum.
    pub(super) fn of(self, body: &[u8]) -> Checksum {
        let value = match self {
            Self::Crc32 => {
                let mut crc = Crc::new();
                crc.update(body);
                STANDARD.encode(crc.sum().to_be_bytes())
            }
            Self::Crc64Nvme => STANDARD.encode(crc64_nvme(body).to_be_bytes()),
        };
        Checksum { algorithm: self, kind: Kind::FullObject, value }
    }

    fn length(self) -> usize {
        match self {
            Self::Crc32 => 4,
            Self::Crc64Nvme => 8,
        }
    }

    /// Bytes of a checksum in Base64, if the text is one of this algorithm.
    pub(super) fn decode(self, value: &str) -> Option<Vec<u8>> {
        STANDARD.decode(value).ok().filter(|sum| sum.len() == self.length())
    }
}

impl Checksum {
    /// Checksum to store for a put: the sent one, which is verified, or else CRC-64/NVME, which S3 adds itself.
    pub(super) fn of_put(headers: &HeaderMap, body: &[u8]) -> Result<Self, AwsError> {
        Ok(Self::sent(headers, body)?.unwrap_or_else(|| Algorithm::Crc64Nvme.of(body)))
    }

    /// Checksum that the headers hold, after its verification.
    pub(super) fn sent(headers: &HeaderMap, body: &[u8]) -> Result<Option<Self>, AwsError> {
        let Some((algorithm, value)) = header_of(headers)? else {
            if headers.contains_key("x-amz-sdk-checksum-algorithm") {
                return Err(request(
                    "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
                     headers were found.",
                ));
            }
            return Ok(None);
        };
        let sent = Self { algorithm, kind: Kind::FullObject, value: value.to_owned() };
        if algorithm.of(body) == sent { Ok(Some(sent)) } else { Err(bad_digest(algorithm.name())) }
    }

    /// Checksum of a copy of the object with this checksum. A copy has one part.
    pub(super) fn of_copy(&self, body: &[u8]) -> Self {
        match self.kind {
            Kind::FullObject => self.clone(),
            Kind::Composite => self.algorithm.of(body),
        }
    }

    /// Elements with value and type in XML answers.
    pub(super) fn xml(&self) -> String {
        element(self.algorithm.element(), &self.value) + &element("ChecksumType", self.kind.name())
    }
}

/// Algorithm and value of the one checksum in the headers.
pub(super) fn header_of(headers: &HeaderMap) -> Result<Option<(Algorithm, &str)>, AwsError> {
    let mut found = None;
    for (name, value) in headers {
        let about = ["x-amz-checksum-algorithm", "x-amz-checksum-type", "x-amz-checksum-mode"];
        if !name.as_str().starts_with("x-amz-checksum-") || about.contains(&name.as_str()) {
            continue;
        }
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.header() == name);
        let algorithm = algorithm.ok_or_else(|| AwsError::not_implemented("s3", name.as_str()))?;
        if found.is_some() {
            return Err(request(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
        // A composite checksum may have the number of parts behind it.
        let text = value.to_str().unwrap_or_default();
        if algorithm.decode(text.split('-').next().unwrap_or_default()).is_none() {
            return Err(request(&format!("Value for {name} header is invalid.")));
        }
        found = Some((algorithm, text));
    }
    Ok(found)
}

pub(super) fn bad_digest(name: &str) -> AwsError {
    let message = format!("The {name} you specified did not match the calculated checksum.");
    AwsError::new(400, "BadDigest", message)
}

pub(super) fn request(message: &str) -> AwsError {
    AwsError::new(400, "InvalidRequest", message)
}

/// What CreateMultipartUpload asks for: the algorithm of the parts, and how the checksum of the object follows from theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) algorithm: Algorithm,
    pub(super) kind: Kind,
}

impl Plan {
    /// Reads `x-amz-checksum-algorithm` and `x-amz-checksum-type`. CRC-64/NVME is always of the full object.
    pub(super) fn of(call: &Call) -> Result<Option<Self>, AwsError> {
        let kind = match call.header("x-amz-checksum-type") {
            None => None,
            Some("FULL_OBJECT") => Some(Kind::FullObject),
            Some("COMPOSITE") => Some(Kind::Composite),
            Some(_) => return Err(request("Value for x-amz-checksum-type header is invalid.")),
        };
        let Some(name) = call.header("x-amz-checksum-algorithm") else {
            return match kind {
                None => Ok(None),
                Some(_) => Err(request(
                    "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
                )),
            };
        };
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        let algorithm = algorithm.ok_or_else(|| {
            AwsError::not_implemented("s3", &format!("multipart uploads with checksums of {name}"))
        })?;
        let kind = kind.unwrap_or(match algorithm {
            Algorithm::Crc64Nvme => Kind::FullObject,
            _ => Kind::Composite,
        });
        match (algorithm, kind) {
            (Algorithm::Crc64Nvme, Kind::Composite) => Err(request(&format!(
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                kind.name(),
                name.to_ascii_lowercase()
            ))),
            _ => Ok(Some(Self { algorithm, kind })),
        }
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

fn crc64_nvme(body: &[u8]) -> u64 {
    let step = |sum: u64, byte: &u8| CRC64NVME[usize::from(sum.to_le_bytes()[0] ^ byte)] ^ (sum >> 8);
    !body.iter().fold(u64::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_have_their_published_check_values() {
        let check = |algorithm: Algorithm, expected: &[u8]| {
            let sum = algorithm.of(b"123456789");
            assert_eq!(sum.value, STANDARD.encode(expected), "{algorithm:?}");
        };
        check(Algorithm::Crc32, &0xcbf4_3926_u32.to_be_bytes());
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
        assert_eq!(of(headers("x-amz-checksum-crc32", "!")).expect_err("wrong").code, "InvalidRequest");
        assert_eq!(of(headers("x-amz-checksum-sha256", "AA==")).expect_err("unknown").status, 501);
        let unsent = of(headers("x-amz-sdk-checksum-algorithm", "CRC32"));
        assert_eq!(unsent.expect_err("announced").code, "InvalidRequest");
        assert_eq!(of(HeaderMap::new()).expect("made"), Algorithm::Crc64Nvme);
    }
}
