//! Decodes request bodies (gzip and aws-chunked), and creates faulty answer bodies.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::Frame;
use tokio::time::Sleep;

use crate::call::{AwsError, Reply};

/// Decodes `aws-chunked`, if the request uses it, and moves its checksum trailers into the headers.
pub(crate) fn undo_aws_chunked(headers: &mut HeaderMap, body: Bytes) -> Result<Bytes, AwsError> {
    let streamed =
        headers.get("x-amz-content-sha256").is_some_and(|hash| hash.as_bytes().starts_with(b"STREAMING-"));
    let encodings = headers.get(CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let others: Vec<_> = encodings.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let chunked = others.contains(&"aws-chunked");
    if !streamed && !chunked {
        return Ok(body);
    }
    let others = others.into_iter().filter(|name| *name != "aws-chunked").collect::<Vec<_>>().join(",");
    headers.remove(CONTENT_ENCODING);
    if let Ok(value) = HeaderValue::from_str(&others)
        && !others.is_empty()
    {
        headers.insert(CONTENT_ENCODING, value);
    }
    let (decoded, trailers) = split_chunks(&body).ok_or_else(incomplete)?;
    let announced =
        headers.get("x-amz-decoded-content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length != decoded.len()) {
        return Err(incomplete());
    }
    for line in trailers.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(name.trim()), HeaderValue::from_str(value.trim()))
            && name.as_str().starts_with("x-amz-checksum-")
        {
            headers.insert(name, value);
        }
    }
    Ok(Bytes::from(decoded))
}

/// Separates the data of the chunks from the trailers after them. A chunk is `SIZE[;extension]\r\nDATA\r\n`; a chunk of size
/// 0 is the last.
fn split_chunks(mut rest: &[u8]) -> Option<(Vec<u8>, &str)> {
    let mut decoded = Vec::with_capacity(rest.len());
    loop {
        let line_end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = std::str::from_utf8(&rest[..line_end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?, 16).ok()?;
        rest = &rest[line_end + 2..];
        if size == 0 {
            return Some((decoded, std::str::from_utf8(rest).ok()?));
        }
        decoded.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
}

fn incomplete() -> AwsError {
    let message = "You did not provide the number of bytes specified by the Content-Length HTTP header";
    AwsError::new(400, "IncompleteBody", message)
}

/// Decodes `Content-Encoding: gzip`, up to `limit` bytes.
pub(crate) fn undo_gzip(headers: &mut HeaderMap, body: Bytes, limit: usize) -> Result<Bytes, AwsError> {
    if headers.get(CONTENT_ENCODING).is_none_or(|value| value != "gzip") {
        return Ok(body);
    }
    headers.remove(CONTENT_ENCODING);
    let mut decoded = Vec::new();
    MultiGzDecoder::new(body.as_ref()).take(limit as u64 + 1).read_to_end(&mut decoded).map_err(|error| {
        AwsError::new(400, "SerializationException", format!("body is not gzip: {error}"))
    })?;
    match decoded.len() > limit {
        true => Err(too_large()),
        false => Ok(Bytes::from(decoded)),
    }
}

pub(crate) fn too_large() -> AwsError {
    AwsError::new(413, "RequestEntityTooLarge", "the request's body is too large")
}

/// Sends the reply's body at this speed.
pub(crate) async fn slowed(reply: Reply, bytes_per_second: u64) -> Reply {
    const PAUSE: Duration = Duration::from_millis(50);
    let (reply, body) = collected(reply).await;
    let chunk = usize::try_from(bytes_per_second / 20).unwrap_or(usize::MAX).max(1);
    let pause = match bytes_per_second {
        0..20 => Duration::from_secs(1) / u32::try_from(bytes_per_second.max(1)).unwrap_or(1),
        _ => PAUSE,
    };
    let steps =
        body.chunks(chunk).flat_map(|data| [Step::Wait(pause), Step::Data(body.slice_ref(data))]).collect();
    with_steps(reply, body.len(), steps)
}

/// Announces the full length of the reply, sends half of it, and closes the connection.
pub(crate) async fn halved(reply: Reply) -> Reply {
    let (reply, body) = collected(reply).await;
    // The pause lets the server write the half before it sees the error.
    let steps = [Step::Data(body.slice(..body.len() / 2)), Step::Wait(Duration::from_millis(5)), Step::Break];
    with_steps(reply, body.len(), steps.into())
}

/// Flips one bit of the reply's body.
pub(crate) async fn flipped(reply: Reply) -> Reply {
    let (mut reply, body) = collected(reply).await;
    let mut body = body.to_vec();
    let middle = body.len() / 2;
    if let Some(byte) = body.get_mut(middle) {
        *byte ^= 1;
    }
    reply.body = Body::from(body);
    reply
}

async fn collected(mut reply: Reply) -> (Reply, Bytes) {
    let body = axum::body::to_bytes(std::mem::take(&mut reply.body), usize::MAX).await.unwrap_or_default();
    (reply, body)
}

fn with_steps(mut reply: Reply, length: usize, steps: VecDeque<Step>) -> Reply {
    reply.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    reply.body = Body::new(Scripted { steps, sleep: None });
    reply
}

enum Step {
    Data(Bytes),
    Wait(Duration),
    Break,
}

/// A body that is sent step by step.
struct Scripted {
    steps: VecDeque<Step>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match self.steps.pop_front() {
                Some(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Step::Wait(pause)) => self.sleep = Some(Box::pin(tokio::time::sleep(pause))),
                Some(Step::Break) => return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into()))),
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn aws_chunked_is_undone() {
        let check = |body: &'static str, length: &'static str, expected: Option<&str>| {
            let mut headers = headers(&[
                ("content-encoding", "aws-chunked,gzip"),
                ("x-amz-content-sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
                ("x-amz-decoded-content-length", length),
            ]);
            let undone = undo_aws_chunked(&mut headers, Bytes::from_static(body.as_bytes()));
            assert_eq!(undone.as_deref().ok(), expected.map(str::as_bytes), "{body}");
            headers
        };
        let signed = "4;chunk-signature=ab\r\nab\r\n\r\n0;chunk-signature=cd\r\n\r\n";
        check(signed, "4", Some("ab\r\n"));
        let trailed = "3\r\nabc\r\n2\r\nde\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\nx-other:1\r\n\r\n";
        let headers = check(trailed, "5", Some("abcde"));
        assert_eq!(headers["content-encoding"], "gzip");
        assert_eq!(headers["x-amz-checksum-crc32"], "AAAAAA==");
        assert!(!headers.contains_key("x-other"));
        check("0\r\n\r\n", "0", Some(""));
        for broken in ["", "5\r\nabc\r\n0\r\n\r\n", "3\r\nabcX0\r\n\r\n", "z\r\n", "3\r\nabc\r\n"] {
            check(broken, "3", None);
        }
        check(trailed, "6", None);
    }

    #[test]
    fn other_bodies_stay_unchanged() {
        let mut headers =
            headers(&[("content-encoding", "gzip"), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]);
        let body = undo_aws_chunked(&mut headers, Bytes::from_static(b"3\r\nabc"));
        assert_eq!(body.expect("the body is not chunked"), "3\r\nabc");
        assert_eq!(headers["content-encoding"], "gzip");
    }

    #[test]
    fn gzip_is_undone_within_the_limit() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&[b'a'; 1_000]).expect("memory takes it");
        let gzip = Bytes::from(encoder.finish().expect("memory takes it"));
        let undo = |limit| undo_gzip(&mut headers(&[("content-encoding", "gzip")]), gzip.clone(), limit);
        assert_eq!(undo(1_000).expect("within the limit"), [b'a'; 1_000].as_slice());
        assert_eq!(undo(999).expect_err("beyond the limit").status, 413);
        let broken = undo_gzip(&mut headers(&[("content-encoding", "gzip")]), Bytes::from_static(b"x"), 9);
        assert_eq!(broken.expect_err("not gzip").code, "SerializationException");
        let plain = undo_gzip(&mut HeaderMap::new(), gzip.clone(), 9).expect("nothing to undo");
        assert_eq!(plain, gzip);
    }
}
