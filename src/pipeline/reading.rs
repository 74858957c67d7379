//! Gives the records of one object to every delivery that wants them.

use super::{
    grown::Growing,
    lanes::{BrokenLanes, Lanes},
    object_reader::{BytesRead, Ceilings, ObjectReader},
    windows::TenantWindows,
    *,
};
use crate::{
    decode::DecodeError,
    fairness::cpu::Pace,
    lake::LakeAccount,
    metrics::Form,
    object::trail::TrailedBody,
    records::{RecordFormat, RecordReader, Step},
};

/// Work that a record makes for each delivery besides its bytes. The unit is the work of one byte.
const RECORD_WORK: usize = 64;

impl<O: ObjectStore, D: Directory, S: LogSinks, C: Buckets, L: Ledger> Pipeline<O, D, S, C, L> {
    /// Reads all records, gives each to every lane, and returns their number. Waits for a whole slot if the object does not fit
    /// into its place. A lane that fails moves to `broken`. Reading ends early when no lane is left.
    pub(super) async fn read<'a>(
        &self,
        body: TrailedBody<O::Body>,
        mut pace: Pace,
        (growing, windows): (Growing<'_>, TenantWindows<'_>),
        (modified, format): (Timestamp, &RecordFormat),
        lanes: &mut Lanes<'a, S::Sink, C::Account, L>,
        broken: &mut BrokenLanes<'a, S::Sink, C::Account, L>,
    ) -> Result<u64, Failure> {
        // The reader ignores timestamps that lie too far after the current time. If the worker's clock is slow, the time at
        // which S3 stored the object is closer to the current time.
        let records = RecordReader::new(self.settings.max_record, modified.max(Timestamp::now()));
        let object_time = modified.as_millisecond().max(0);
        let mut records = records.of_format(format, object_time);
        if self.ports.quarantine.is_some() {
            records = records.stepping_over_bad_lines();
        }
        let PipelineSettings { max_stored, max_object, .. } = self.settings;
        let form = |form| self.metrics.object_bytes.get_or_create_owned(&Form::new(form));
        let bytes = BytesRead { stored: form("stored"), decompressed: form("decompressed") };
        let ceilings = Ceilings { max_stored, max_object };
        let mut object = ObjectReader::new(body, records, ceilings, windows, bytes);
        let read = give_records(&mut object, &mut pace, growing, object_time, lanes, broken).await;
        if read.as_ref().is_err_and(is_of_content) {
            // The checksum at the end shows whether the object was stored with these bytes, or whether they were altered on
            // their way.
            object.into_rest().check(&mut pace).await?;
        }
        read
    }
}

/// Gives every record to every lane.
async fn give_records<'a, B: ObjectBody, S: LogSink, A: LakeAccount, L: Ledger>(
    object: &mut ObjectReader<'_, B>,
    pace: &mut Pace,
    growing: Growing<'_>,
    object_time: i64,
    lanes: &mut Lanes<'a, S, A, L>,
    broken: &mut BrokenLanes<'a, S, A, L>,
) -> Result<u64, Failure> {
    loop {
        let step = object.next().map_err(Failure::Record)?;
        let work = (step.consumed() + RECORD_WORK) * lanes.len();
        match &step {
            Step::Record { .. } | Step::Unreadable { .. } | Step::Skipped { .. } => {}
            Step::More { .. } => {
                object.fill(pace).await?;
                growing.fit_decompressed(object.decompressed()).await;
                continue;
            }
            Step::End => return Ok(object.count()),
        }
        let mut index = 0;
        while let Some((_, lane)) = lanes.get_mut(index) {
            let pushed = match &step {
                Step::Record { record, .. } => lane.push(record, object_time, growing).await,
                Step::Unreadable { unreadable, .. } => lane.push_unreadable(unreadable).await,
                Step::Skipped { .. } => lane.push_skipped().await,
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
        if lanes.is_empty() {
            return Ok(object.count());
        }
        if pace.is_over(work) {
            pace.pause().await;
        }
    }
}

/// Whether the object's content is to blame, unless it was altered on its way.
fn is_of_content(failure: &Failure) -> bool {
    use DecodeError::{Corrupt, Dictionary, WindowTooLarge};
    matches!(
        failure,
        Failure::Record(_)
            | Failure::Decode { error: Corrupt { .. } | WindowTooLarge { .. } | Dictionary { .. }, .. }
    )
}
