//! Takes one object's records and writes them into a customer's lake, one file for each hour.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    FileSpec, LakeAccount, LakeWay,
    file::{Encoder, LakeFile, content_type, ending},
    ndjson::Members,
    parts::MIN_PART,
    record::{Columns, is_undated, timestamp},
    shares::ObjectShare,
    stem::{file_name, stem},
};
use crate::{
    copy::{self, CopyError},
    delivery::LaneError,
    fairness::cpu::without_pause,
    ledger::{Ledger, Position, claim::Claim},
    name::LakeLayout,
    quarantine::{FileName, QuarantineFile, QuarantineReason, Shelf},
    records::{Record, RecordError, RecordProblem, Unreadable},
    route::Route,
    tenant::{Format, Lock},
};

/// Most files of one object that are open at once. An object usually has records of one hour or two. More hours come from
/// timestamps that programs wrote.
const MOST_OPEN: usize = 4;
/// After this many files of one object, records of further hours go into the files of the object's own hour. The limit bounds the
/// cost of an object with odd timestamps, because each file is a request.
const MOST_FILES: u32 = 100;
/// When the open row groups of all files have this many bytes of rows, the largest group ends.
const MOST_PENDING: usize = 4 << 20;
/// A lane becomes large if its rows and encoded bytes, or one record, have more bytes.
const SMALL: usize = 1 << 20;
/// A lane becomes large if it has more open files.
const SMALL_OPEN: usize = 2;

/// Longest wait for a share. Meanwhile, the object's slot is not free for other tenants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Length of an hour in milliseconds.
const HOUR: i64 = 3_600_000;
/// Longest key in bytes. Source: S3 User Guide, "Naming Amazon S3 objects".
const MAX_KEY: usize = 1024;

/// Number of records that one lake was given, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LakeTally {
    /// Records given to the lane.
    pub read: u64,
    /// Records in files that were written.
    pub written: u64,
    /// Records that were skipped, because their format gives them no message.
    pub skipped: u64,
    /// Records that an earlier attempt has written before it ended at a broken part of the object.
    pub resumed: u64,
    /// Unreadable records that were put into quarantine.
    pub quarantined: u64,
    /// Records without a usable timestamp; they get the object's time.
    pub undated: u64,
    /// Records whose text was not legal JSON or UTF-8, and was mended.
    pub mended: u64,
    /// Files that were written.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
}

impl LakeTally {
    /// Records whose outcome is known. After a successful delivery, these are all records read.
    pub fn accounted(&self) -> u64 {
        self.written + self.skipped + self.quarantined + self.resumed
    }
}

/// What all files of one object have in common.
#[derive(Debug)]
struct FilePlan {
    /// `bucket_prefix`.
    prefix: String,
    layout: LakeLayout,
    route: Route,
    stem: String,
    /// Records that an earlier attempt has written. Its files stay, and may have been compacted.
    from: u64,
    format: Format,
    lock: Option<Lock>,
    metadata: HashMap<String, String>,
}

impl FilePlan {
    /// The next file of an hour. `number` counts the hour's files from 0.
    fn spec(&self, hour: i64, number: u32) -> Result<FileSpec, CopyError> {
        let at = Timestamp::from_millisecond(hour)
            .map_err(|error| CopyError::Unwritable(format!("hour {hour} has no date: {error}")))?;
        let name = file_name(&self.stem, self.from, number, ending(&self.format));
        let key = format!("{}{}{name}", self.prefix, self.layout.folder(&self.route, at));
        if key.len() > MAX_KEY {
            return Err(CopyError::KeyTooLong(key.len()));
        }
        let lock = self.lock.map(|lock| lock.until(Timestamp::now()));
        Ok(FileSpec { key, content_type: content_type(&self.format), metadata: self.metadata.clone(), lock })
    }
}

/// Writes one object's records into one customer's lake.
#[derive(Debug)]
pub struct LakeLane<A, L> {
    account: A,
    claim: Arc<Claim<L>>,
    plan: FilePlan,
    columns: Columns,
    /// `None`: the lane has ended.
    share: Option<ObjectShare>,
    /// Whether the lane has its share.
    is_large: bool,
    /// Whether all records so far are in written files or in the quarantine.
    is_flushed: bool,
    /// The object's time in milliseconds since 1970.
    object_time: i64,
    open: Vec<LakeFile>,
    /// Number of files so far, by hour.
    files: HashMap<i64, u32>,
    /// `None`: there is no quarantine.
    shelf: Option<Shelf>,
    aside: QuarantineFile,
    /// The first unreadable record, if there is no quarantine.
    first_unkept: Option<RecordError>,
    /// Members of the records in files that were written.
    members: Members,
    tally: LakeTally,
    putting: Duration,
}

impl<A: LakeAccount, L: Ledger> LakeLane<A, L> {
    /// Opens a lane for the object of `way`, which was stored at `modified`. Unreadable records go onto `shelf`. A lane that
    /// becomes large takes the object's `share`. If an earlier attempt ended at a broken part of the object, `claim` has the
    /// position, and the lane goes on there with further files.
    ///
    /// # Errors
    /// The key of a file would be too long.
    pub fn new(
        account: A,
        claim: Arc<Claim<L>>,
        way: &LakeWay<'_>,
        modified: Timestamp,
        shelf: Option<Shelf>,
        share: ObjectShare,
    ) -> Result<Self, CopyError> {
        let LakeWay { delivery, destination, lake, route, object } = *way;
        let metadata = copy::metadata(object, route, object.version_id.as_deref());
        let metadata = metadata.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let from = claim.from().position.records;
        let members = match &lake.format {
            Format::Ndjson(fields) => Members::new(fields),
            Format::Parquet(_) => Members::default(),
        };
        let plan = FilePlan {
            prefix: destination.bucket_prefix.clone(),
            layout: lake.layout.clone(),
            route: route.clone(),
            stem: stem(route, object, &delivery.name),
            from,
            format: lake.format.clone(),
            lock: lake.lock,
            metadata,
        };
        let object_time = modified.as_millisecond();
        // All keys are equally long, but for the number of a further file.
        plan.spec(hour(object_time), MOST_FILES)?;
        Ok(Self {
            account,
            claim,
            columns: Columns::new(route, object_time),
            share: Some(share),
            is_large: false,
            is_flushed: false,
            plan,
            object_time,
            open: Vec::new(),
            files: HashMap::new(),
            shelf,
            aside: QuarantineFile::default(),
            first_unkept: None,
            members,
            tally: LakeTally::default(),
            putting: Duration::ZERO,
        })
    }

    /// Takes a record. Every record of the object must be pushed.
    ///
    /// # Errors
    /// A file could not be written, or another worker has the object. After an error the lane can only be abandoned.
    ///
    /// # Cancel safety
    /// A call that is dropped while it waits leaves a lane that can only be abandoned.
    pub async fn push(&mut self, record: &Record<'_>) -> Result<(), LaneError> {
        if !self.start_record() {
            return Ok(());
        }
        self.tally.undated += u64::from(is_undated(record, self.object_time));
        self.tally.mended += u64::from(record.mended);
        let timestamp = timestamp(record, self.object_time);
        let index = self.file_of(hour(timestamp)).await?;
        let length = length(record);
        let file = &mut self.open[index];
        if length > SMALL
            && let Some(share) = &self.share
        {
            let permit = share.long_record().await;
            let columns = &mut self.columns;
            // The record's copies are freed with its row group, and before the permit.
            without_pause(length, || {
                file.push(record, timestamp, columns);
                columns.free();
                file.end_group()
            })?;
            drop(permit);
        } else {
            file.push(record, timestamp, &mut self.columns);
        }
        if self.pending() >= MOST_PENDING {
            let largest = self.open.iter_mut().max_by_key(|file| file.pending()).expect("a file is open");
            without_pause(largest.pending(), || largest.end_group())?;
        }
        self.write_parts().await
    }

    /// Counts the next record. Returns whether this attempt has to write it.
    fn start_record(&mut self) -> bool {
        self.is_flushed = false;
        self.tally.read += 1;
        let is_new = self.tally.read > self.plan.from;
        self.tally.resumed += u64::from(!is_new);
        is_new
    }

    /// Whether this record makes the lane large. If so, the caller gets a whole slot for the object, then calls
    /// [`LakeLane::enlarge`], and then pushes the record.
    pub fn becomes_large(&self, record: &Record<'_>) -> bool {
        if self.is_large || self.tally.read < self.plan.from {
            return false;
        }
        let opens = || {
            let hour = hour(timestamp(record, self.object_time));
            self.open.len() == SMALL_OPEN && self.open.iter().all(|file| file.hour != hour)
        };
        length(record) > SMALL || self.pending() + self.encoded() > SMALL || opens()
    }

    /// Waits until the lane may be large.
    ///
    /// # Errors
    /// [`LaneError::NoShare`]: other objects have all shares for ten seconds.
    ///
    /// # Cancel safety
    /// Safe: the next call waits again.
    pub async fn enlarge(&mut self) -> Result<(), LaneError> {
        if let Some(share) = &self.share {
            timeout(PATIENCE, share.enlarge()).await.map_err(|_| LaneError::NoShare)?;
        }
        self.is_large = true;
        Ok(())
    }

    fn pending(&self) -> usize {
        self.open.iter().map(LakeFile::pending).sum()
    }

    fn encoded(&self) -> usize {
        self.open.iter().map(LakeFile::encoded).sum()
    }

    /// Takes an unreadable record, for the quarantine. Without a quarantine, the final [`LakeLane::flush`] fails.
    ///
    /// # Errors
    /// As [`LakeLane::push`].
    ///
    /// # Cancel safety
    /// As [`LakeLane::push`].
    pub async fn push_unreadable(&mut self, unreadable: &Unreadable<'_>) -> Result<(), LaneError> {
        let record = self.tally.read;
        if !self.start_record() {
            return Ok(());
        }
        let Some(shelf) = &self.shelf else {
            self.first_unkept.get_or_insert_with(|| unreadable.error.clone());
            return Ok(());
        };
        let reason = match unreadable.error.problem {
            RecordProblem::TooLong { .. } => QuarantineReason::TooLong,
            _ => QuarantineReason::Malformed,
        };
        let (text, file) = (unreadable.text.as_ref(), &mut self.aside);
        without_pause(text.len(), || shelf.add_line(file, reason, record, text));
        if self.aside.is_full() { self.set_aside().await } else { Ok(()) }
    }

    /// Takes a record without a message.
    pub fn push_skipped(&mut self) {
        let is_new = self.start_record();
        self.tally.skipped += u64::from(is_new);
    }

    /// Finishes all files.
    ///
    /// # Errors
    /// As [`LakeLane::push`]; also if an unreadable record has no quarantine to go to.
    ///
    /// # Cancel safety
    /// As [`LakeLane::push`].
    pub async fn flush(&mut self) -> Result<(), LaneError> {
        self.set_aside().await?;
        while !self.open.is_empty() {
            self.finish(0).await?;
        }
        self.share = None;
        self.account.count(self.tally.written, self.tally.bytes).await?;
        match self.first_unkept.take() {
            Some(error) => Err(LaneError::Unkept(error)),
            None => {
                self.is_flushed = true;
                Ok(())
            }
        }
    }

    /// Records in the ledger that the object is done. Call [`LakeLane::flush`] first.
    ///
    /// # Errors
    /// Another worker has the object.
    pub async fn complete(&self) -> Result<(), LaneError> {
        Ok(self.claim.finish(Position { records: self.tally.read, events: 0 }).await?)
    }

    /// Gives unfinished files up, and the object's lease back to the ledger. A lane that was flushed ended at a broken part of
    /// the object. The next attempt goes on behind the flushed records. It must not write their files again with more records,
    /// because the files may have been compacted. After `stop` is cancelled, unfinished uploads stay, and a lifecycle rule of the
    /// bucket removes them.
    pub async fn abandon(&mut self, stop: &CancellationToken) {
        let (account, open) = (&self.account, std::mem::take(&mut self.open));
        let abort = async {
            for file in open {
                file.abort(account).await;
            }
        };
        tokio::select! {
            () = abort => {}
            () = stop.cancelled() => {}
        }
        self.share = None;
        let mut progress = self.claim.from().clone();
        // If a defect left records unaccounted, the next attempt begins where this one did, and writes the files again.
        if self.is_flushed && self.tally.accounted() == self.tally.read {
            progress.position.records = progress.position.records.max(self.tally.read);
        }
        self.claim.release(&progress).await;
    }

    /// Number of records so far, by outcome.
    pub fn tally(&self) -> &LakeTally {
        &self.tally
    }

    /// The members of the records in files that were written.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// How long the writes of this attempt took.
    pub fn putting(&self) -> Duration {
        self.putting
    }

    /// Finds the open file of an hour, or opens one.
    async fn file_of(&mut self, hour: i64) -> Result<usize, LaneError> {
        let position = |open: &[LakeFile], hour| open.iter().position(|file| file.hour == hour);
        if let Some(index) = position(&self.open, hour) {
            return Ok(index);
        }
        let hour =
            if self.files.values().sum::<u32>() < MOST_FILES { hour } else { self::hour(self.object_time) };
        if let Some(index) = position(&self.open, hour) {
            return Ok(index);
        }
        if self.open.len() == MOST_OPEN {
            // Records come roughly in the order of time, so the file that was opened first is the least likely to get more.
            self.finish(0).await?;
        }
        let number = self.files.entry(hour).or_default();
        let spec = self.plan.spec(hour, *number)?;
        *number += 1;
        self.open.push(LakeFile::new(hour, spec, Encoder::new(&self.plan.format)?));
        Ok(self.open.len() - 1)
    }

    /// Writes a part of the largest file if it has enough bytes.
    async fn write_parts(&mut self) -> Result<(), LaneError> {
        let Some(largest) = (0..self.open.len()).max_by_key(|&index| self.open[index].encoded()) else {
            return Ok(());
        };
        let began = Instant::now();
        if self.open[largest].encoded() >= MIN_PART {
            let written = self.open[largest].write_part(&self.account).await;
            written.inspect_err(|_| self.tell_failure())?;
            self.putting += began.elapsed();
        }
        Ok(())
    }

    /// Tells the object's share that the bucket failed.
    fn tell_failure(&self) {
        self.share.as_ref().map(ObjectShare::failed);
    }

    async fn finish(&mut self, index: usize) -> Result<(), LaneError> {
        let began = Instant::now();
        let mut file = self.open.remove(index);
        without_pause(file.pending(), || file.end_group())?;
        let records = file.records();
        if let Some(members) = file.members() {
            self.members.add(members);
        }
        let bytes = file.finish(&self.account, &self.claim).await.inspect_err(|error| {
            if matches!(error, LaneError::Bucket(_)) {
                self.tell_failure();
            }
        })?;
        self.tally.written += records;
        self.tally.files += 1;
        self.tally.bytes += bytes;
        self.putting += began.elapsed();
        Ok(())
    }

    /// Writes the unreadable records into quarantine.
    async fn set_aside(&mut self) -> Result<(), LaneError> {
        let Some(shelf) = &self.shelf else { return Ok(()) };
        let file = std::mem::take(&mut self.aside);
        let Some(&(first, _)) = file.records().first() else { return Ok(()) };
        let records = file.records().len() as u64;
        self.claim.hold().await?;
        shelf.put(file, FileName::Batch(Position { records: first, events: 0 })).await?;
        self.tally.quarantined += records;
        Ok(())
    }
}

/// Bytes of the record's own text, or of its message if it has no other.
fn length(record: &Record<'_>) -> usize {
    record.text.map_or(record.message.escaped().len(), |text| text.bytes().len())
}

/// Start of the hour of a time, both in milliseconds since 1970.
fn hour(timestamp: i64) -> i64 {
    timestamp.div_euclid(HOUR) * HOUR
}

#[cfg(test)]
mod tests;
