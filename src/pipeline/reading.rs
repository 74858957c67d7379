//! One object's records: decoded as they come, and given to every delivery that wants them.

use super::{
    logs::{BrokenLanes, Lanes},
    *,
};
use crate::{
    decode::{DecodeError, Decoded, Decoder, Window},
    fairness::cpu::{Pace, without_pause},
    metrics::Form,
    object::{ObjectBody, ObjectError, trail::TrailedBody},
    records::{More, RecordReader, Step},
};

/// What a step of decoding costs beside its bytes, in bytes' worth of work: a gzip member of 20 bytes has its own.
const STEP_WORK: usize = 2048;
/// What a record costs beside its bytes, for each delivery.
const RECORD_WORK: usize = 64;

/// Counts what was read of an object, as stored.
struct Stored<'b, B> {
    body: &'b mut B,
    bytes: u64,
    limit: u64,
}

impl<B: ObjectBody> Stored<'_, B> {
    async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, Failure> {
        let chunk = self.body.chunk().await.map_err(Failure::Object)?;
        self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        within(self.limit, self.bytes).map_err(Failure::Object)?;
        Ok(chunk)
    }
}

/// Whether an object of so many stored bytes may be read.
pub(super) fn within(max_stored: u64, stored: u64) -> Result<(), ObjectError> {
    if stored > max_stored { Err(ObjectError::TooLarge { stored, limit: max_stored }) } else { Ok(()) }
}

impl<O: ObjectStore, D: Directory, S: LogSinks, C: ObjectCopier, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Reads all records, giving each to every lane, and tells how many there were. A lane that fails moves to `broken`;
    /// without any left there is nothing more to read for.
    pub(super) async fn read<'a>(
        &self,
        mut body: TrailedBody<O::Body>,
        mut pace: Pace,
        modified: Timestamp,
        lanes: &mut Lanes<'a, S::Sink, L>,
        broken: &mut BrokenLanes<'a, S::Sink, L>,
    ) -> Result<u64, Failure> {
        let mut stored = Stored { body: &mut body, bytes: 0, limit: self.settings.max_stored };
        let read = self.read_records(&mut stored, &mut pace, modified, lanes, broken).await;
        if matches!(
            &read,
            Err(Failure::Record(_)
                | Failure::Decode {
                    error: DecodeError::Corrupt { .. }
                        | DecodeError::WindowTooLarge { .. }
                        | DecodeError::Dictionary { .. },
                    ..
                })
        ) {
            // Was it stored like that, or did it break on its way? What is not read yet may tell.
            while stored.body.has_check_ahead()
                && let Some(chunk) = stored.chunk().await?
            {
                if pace.is_over(chunk.len()) {
                    pace.pause().await;
                }
            }
        }
        read
    }

    async fn read_records<'a>(
        &self,
        stored: &mut Stored<'_, TrailedBody<O::Body>>,
        pace: &mut Pace,
        modified: Timestamp,
        lanes: &mut Lanes<'a, S::Sink, L>,
        broken: &mut BrokenLanes<'a, S::Sink, L>,
    ) -> Result<u64, Failure> {
        let object_time = modified.as_millisecond().max(0);
        let form = |form| self.metrics.object_bytes.get_or_create_owned(&Form::new(form));
        let (bytes_stored, bytes_decompressed) = (form("stored"), form("decompressed"));
        // Declared first: it is given back when the decoder is gone.
        let mut share = None;
        let mut decoder = Decoder::new(self.settings.max_object, self.windows.largest());
        let mut window = Window::default();
        // Ours may be slow: what S3 stored then is no later than now.
        let now = modified.max(Timestamp::now());
        let mut reader = RecordReader::new(self.settings.max_record, now);
        if self.ports.quarantine.is_some() {
            reader = reader.stepping_over_bad_lines();
        }
        loop {
            let chunk = stored.chunk().await?;
            let (mut input, ended) = (chunk.as_deref().unwrap_or_default(), chunk.is_none());
            bytes_stored.inc_by(input.len() as u64);
            loop {
                let (before, unread) = (input.len(), window.unread().len());
                let decoded = match ended {
                    false => decoder.decode(&mut input, &mut window),
                    true => decoder.finish(&mut window).map(|()| Decoded::Step),
                };
                if let Ok(Decoded::NeedsWindow(bytes)) = decoded {
                    drop(share.take());
                    share = Some(self.windows.share(bytes).await.ok_or(Failure::NoWindow)?);
                    decoder.allow(bytes);
                    continue;
                }
                let decompressed = window.unread().len() - unread;
                bytes_decompressed.inc_by(decompressed as u64);
                if pace.is_over(STEP_WORK + before - input.len() + decompressed) {
                    pace.pause().await;
                }
                // What came out before a break is good; a record that is cut by it is not read.
                let more = match (&decoded, ended) {
                    (Err(_), _) => More::Never,
                    (Ok(_), true) => More::Ended,
                    (Ok(_), false) => More::Coming,
                };
                loop {
                    let text = window.unread();
                    let step = without_pause(text.len(), || reader.next(text, more));
                    let step = step.map_err(Failure::Record)?;
                    let consumed = step.consumed();
                    match &step {
                        Step::Record { .. } | Step::Unreadable { .. } => {}
                        Step::More { .. } => {
                            window.consume(consumed);
                            break;
                        }
                        Step::End => return Ok(reader.count()),
                    }
                    let work = (consumed + RECORD_WORK) * lanes.len();
                    let mut index = 0;
                    while let Some((_, lane)) = lanes.get_mut(index) {
                        let pushed = match &step {
                            Step::Record { record, .. } => lane.push(record, object_time).await,
                            Step::Unreadable { unreadable, .. } => lane.push_unreadable(unreadable).await,
                            Step::More { .. } | Step::End => Ok(()),
                        };
                        match pushed {
                            Ok(()) => index += 1,
                            Err(error) => {
                                let (delivery, lane) = lanes.remove(index);
                                broken.push((delivery, lane, error));
                            }
                        }
                    }
                    window.consume(consumed);
                    if lanes.is_empty() {
                        return Ok(reader.count());
                    }
                    if pace.is_over(work) {
                        pace.pause().await;
                    }
                }
                if let Err(error) = decoded {
                    return Err(Failure::Decode { records: reader.count(), error });
                }
                if input.is_empty() {
                    break;
                }
            }
        }
    }
}
