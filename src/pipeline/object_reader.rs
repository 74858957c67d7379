//! Reads one object's records, step by step: stored bytes -> decoder -> window -> record reader.
//!
//! This module knows neither lanes nor deliveries: `reading` gives the records to them.

use bytes::{Buf, Bytes};
use prometheus_client::metrics::counter::Counter;

use super::windows::{TenantWindows, WindowShare};
use crate::{
    decode::{DecodeError, Decoded, Decoder, Window},
    fairness::cpu::{Pace, without_pause},
    object::{ObjectBody, ObjectError},
    records::{More, RecordError, RecordReader, Step},
    verdict::Failure,
};

/// Work of a decoding step besides its bytes. The unit is the work of one byte. An empty gzip member has only 20 bytes, but
/// takes a whole step.
const STEP_WORK: usize = 2048;

/// Most bytes of one object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ceilings {
    /// As stored.
    pub(super) max_stored: u64,
    /// Decompressed.
    pub(super) max_object: u64,
}

/// Counters of the bytes that were read.
#[derive(Clone, Debug, Default)]
pub(super) struct BytesRead {
    /// As stored.
    pub(super) stored: Counter,
    /// Decompressed.
    pub(super) decompressed: Counter,
}

/// Reads the records of one object.
///
/// [`ObjectReader::next`], called for each record, is synchronous and copies nothing. [`ObjectReader::fill`], called for each
/// decoding step, may wait.
#[derive(Debug)]
pub(super) struct ObjectReader<'w, B> {
    body: StoredBody<B>,
    /// The part of the last chunk that is not decoded yet.
    chunk: Bytes,
    decoder: Decoder,
    windows: TenantWindows<'w>,
    /// The share of `windows` that the decoder's window uses. Declared after the decoder, because fields drop in this order: the
    /// window must be freed before the share is given back.
    share: Option<WindowShare<'w>>,
    window: Window,
    /// Whether more text comes after the window.
    more: More,
    /// Why decoding failed. [`ObjectReader::fill`] returns it once the records before the break are read.
    broken: Option<DecodeError>,
    records: RecordReader,
    /// Bytes of the window that the last step used.
    consumed: usize,
    /// Number of bytes that were decompressed.
    decompressed: u64,
    bytes: BytesRead,
}

impl<'w, B: ObjectBody> ObjectReader<'w, B> {
    /// Starts on the object that `body` holds. `records` must be new.
    pub(super) fn new(
        body: B,
        records: RecordReader,
        ceilings: Ceilings,
        windows: TenantWindows<'w>,
        bytes: BytesRead,
    ) -> Self {
        Self {
            body: StoredBody { body, read: 0, limit: ceilings.max_stored },
            chunk: Bytes::new(),
            decoder: Decoder::new(ceilings.max_object, windows.largest()),
            windows,
            share: None,
            window: Window::default(),
            more: More::Coming,
            broken: None,
            records,
            consumed: 0,
            decompressed: 0,
            bytes,
        }
    }

    /// Finds the next record in the decoded text. After [`Step::More`], call [`ObjectReader::fill`].
    ///
    /// # Errors
    /// See [`RecordError`]. No record after it can be read.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Step<'_>, RecordError> {
        self.consume();
        let (text, records, more) = (self.window.unread(), &mut self.records, self.more);
        let step = without_pause(text.len(), || records.next(text, more));
        self.consumed = step.as_ref().map_or(0, Step::consumed);
        step
    }

    /// Decodes one more step. If the last chunk of the body is used up, reads the next one first. Pauses when `pace` says so.
    ///
    /// # Errors
    /// The body cannot be read or has too many bytes, its bytes cannot be decoded, or there is no memory for the decoder's
    /// window. A decoding error is returned by the next call, so that the records before the break are read first.
    ///
    /// # Cancel safety
    /// A call that is dropped while it waits leaves a reader that can only be dropped.
    pub(super) async fn fill(&mut self, pace: &mut Pace) -> Result<(), Failure> {
        if let Some(error) = self.broken.take() {
            return Err(Failure::Decode { records: self.count(), error });
        }
        self.consume();
        if self.chunk.is_empty() {
            // An empty chunk still owns its buffer, which the next read may use.
            self.chunk = Bytes::new();
            match self.body.chunk().await? {
                Some(chunk) => self.chunk = chunk,
                None => self.more = More::Ended,
            }
            self.bytes.stored.inc_by(self.chunk.len() as u64);
        }
        let unread = self.window.unread().len();
        let mut input = &self.chunk[..];
        let decoded = loop {
            let decoded = match self.more {
                More::Ended => self.decoder.finish(&mut self.window).map(|()| Decoded::Step),
                More::Coming | More::Never => self.decoder.decode(&mut input, &mut self.window),
            };
            let Ok(Decoded::NeedsWindow(bytes)) = decoded else { break decoded };
            // The old share is given back first: two objects that hold shares and need larger ones would wait for each other.
            drop(self.share.take());
            self.share = Some(self.windows.share(bytes).await.ok_or(Failure::NoWindow)?);
            self.decoder.allow(bytes);
        };
        let used = self.chunk.len() - input.len();
        self.chunk.advance(used);
        let decompressed = self.window.unread().len() - unread;
        self.bytes.decompressed.inc_by(decompressed as u64);
        self.decompressed += decompressed as u64;
        if let Err(error) = decoded {
            (self.broken, self.more) = (Some(error), More::Never);
        }
        if pace.is_over(STEP_WORK + used + decompressed) {
            pace.pause().await;
        }
        Ok(())
    }

    /// Number of bytes decompressed so far.
    pub(super) fn decompressed(&self) -> u64 {
        self.decompressed
    }

    /// Number of records read so far, unreadable ones included.
    pub(super) fn count(&self) -> u64 {
        self.records.count()
    }

    /// Frees the decoder's memory and returns the part of the body that is not read yet.
    pub(super) fn into_rest(self) -> StoredBody<B> {
        self.body
    }

    /// Removes the last step's text from the window. It stays there until the next call, because the step may borrow from it.
    fn consume(&mut self) {
        self.window.consume(std::mem::take(&mut self.consumed));
    }
}

/// A body whose stored bytes are counted up to a limit.
#[derive(Debug)]
pub(super) struct StoredBody<B> {
    body: B,
    read: u64,
    limit: u64,
}

impl<B: ObjectBody> StoredBody<B> {
    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let chunk = self.body.chunk().await.map_err(Failure::Object)?;
        self.read += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        within(self.limit, self.read).map_err(Failure::Object)?;
        Ok(chunk)
    }

    /// Reads on while a check of the bytes read so far is still ahead, and drops the bytes: see [`ObjectBody::has_check_ahead`].
    ///
    /// # Errors
    /// The bytes differ from the stored ones, or cannot be read.
    pub(super) async fn check(mut self, pace: &mut Pace) -> Result<(), Failure> {
        while self.body.has_check_ahead()
            && let Some(chunk) = self.chunk().await?
        {
            if pace.is_over(chunk.len()) {
                pace.pause().await;
            }
        }
        Ok(())
    }
}

/// Checks that an object of `stored` bytes may be read.
pub(super) fn within(max_stored: u64, stored: u64) -> Result<(), ObjectError> {
    if stored > max_stored { Err(ObjectError::TooLarge { stored, limit: max_stored }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
