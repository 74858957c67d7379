//! Records that a delivery owes to the quarantine: the delivery read them and went on, although the quarantine could not be
//! written. No I/O.

use crate::batch::Rejection;

/// Why a record is in quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuarantineReason {
    /// CloudWatch Logs rejected the record.
    Rejected(Rejection),
    /// Longer than the limit of one event, and the tenant does not want it split.
    Oversize,
    /// Not a record.
    Malformed,
    /// Longer than `source.max_record`. The line has the record's place in the object instead of its text.
    TooLong,
}

impl QuarantineReason {
    /// Whether the record counts as quarantined once its file is written. Rejected records counted as rejected when CloudWatch
    /// Logs answered.
    pub fn counts_in_quarantine(self) -> bool {
        match self {
            Self::Rejected(_) => false,
            Self::Oversize | Self::Malformed | Self::TooLong => true,
        }
    }

    /// Name of the reason in the lines of quarantine files and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Rejected(Rejection::Refused) => "refused",
            Self::Rejected(Rejection::TooOld) => "too_old",
            Self::Rejected(Rejection::TooNew) => "too_new",
            Self::Rejected(Rejection::Expired) => "expired",
            Self::Oversize => "oversize",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
        }
    }
}

/// Records with the reason why each is owed, stored as runs of neighbours with the same reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// In order, without overlaps.
    runs: Vec<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u64,
    /// The position after the last record.
    end: u64,
    reason: QuarantineReason,
}

/// Number of bits that hold the reason in a run's first number.
const REASON_BITS: u32 = 3;

impl Owed {
    /// Makes a list of these records, which may come in any order. If a record is named twice, its first reason counts.
    pub fn of(mut records: Vec<(u64, QuarantineReason)>) -> Self {
        records.sort_by_key(|(record, _)| *record);
        let mut owed = Self::default();
        for (record, reason) in records {
            owed.append(Run { first: record, end: record + 1, reason });
        }
        owed
    }

    /// Whether no record is owed.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The first record that is owed for this reason.
    pub fn first(&self, reason: QuarantineReason) -> Option<u64> {
        self.runs.iter().find(|run| run.reason == reason).map(|run| run.first)
    }

    /// Whether one of the records counts only once it is in the quarantine, because it was never sent to CloudWatch Logs.
    pub fn counts_in_quarantine(&self) -> bool {
        self.runs.iter().any(|run| run.reason.counts_in_quarantine())
    }

    /// Adds the records that another batch owes. If a record is in both lists, one of its two reasons is kept.
    pub fn add(&mut self, more: Self) {
        let mut runs = std::mem::take(&mut self.runs);
        runs.extend(more.runs);
        runs.sort_by_key(|run| run.first);
        runs.into_iter().for_each(|run| self.append(run));
    }

    /// Adds a run that begins at the first record of the last run or later.
    fn append(&mut self, mut run: Run) {
        if let Some(last) = self.runs.last_mut() {
            run.first = run.first.max(last.end);
            if run.first == last.end && run.reason == last.reason {
                last.end = last.end.max(run.end);
                return;
            }
        }
        if run.first < run.end {
            self.runs.push(run);
        }
    }

    /// Forgets every record before `record`, because the quarantine has them.
    pub fn paid_before(&mut self, record: u64) {
        self.runs.retain_mut(|run| {
            run.first = run.first.max(record);
            run.first < run.end
        });
    }

    /// The first owed record at or after `record`, with its reason.
    pub fn next(&self, record: u64) -> Option<(u64, QuarantineReason)> {
        let run = self.runs.get(self.runs.partition_point(|run| run.end <= record))?;
        Some((run.first.max(record), run.reason))
    }

    /// Encodes the runs in few bytes, as two numbers per run in base 128 (least significant digit first; the high bit is set
    /// on all but the last digit). The first number is the distance from the end of the previous run, with the reason in its
    /// lowest three bits. The second is the number of records.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut end = 0;
        for run in &self.runs {
            write(&mut bytes, (run.first - end) << REASON_BITS | code(run.reason));
            write(&mut bytes, run.end - run.first);
            end = run.end;
        }
        bytes
    }

    /// Decodes the bytes of [`Owed::encode`]. `None` for other bytes.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut owed = Self::default();
        let mut end = 0_u64;
        while !bytes.is_empty() {
            let head = read(&mut bytes)?;
            let first = end.checked_add(head >> REASON_BITS)?;
            let count = read(&mut bytes)?;
            end = first.checked_add(count).filter(|end| *end > first)?;
            owed.runs.push(Run { first, end, reason: reason(head & ((1 << REASON_BITS) - 1))? });
        }
        Some(owed)
    }
}

fn code(reason: QuarantineReason) -> u64 {
    match reason {
        QuarantineReason::Rejected(Rejection::TooOld) => 0,
        QuarantineReason::Rejected(Rejection::TooNew) => 1,
        QuarantineReason::Rejected(Rejection::Expired) => 2,
        QuarantineReason::Oversize => 3,
        QuarantineReason::Malformed => 4,
        QuarantineReason::Rejected(Rejection::Refused) => 5,
        QuarantineReason::TooLong => 6,
    }
}

fn reason(code: u64) -> Option<QuarantineReason> {
    let all = [
        QuarantineReason::Rejected(Rejection::TooOld),
        QuarantineReason::Rejected(Rejection::TooNew),
        QuarantineReason::Rejected(Rejection::Expired),
        QuarantineReason::Oversize,
        QuarantineReason::Malformed,
        QuarantineReason::Rejected(Rejection::Refused),
        QuarantineReason::TooLong,
    ];
    usize::try_from(code).ok().and_then(|code| all.get(code).copied())
}

fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let digit = u64::from(byte & 0x7f);
        number |= digit << shift;
        if digit << shift >> shift != digit {
            return None;
        }
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn any_reason() -> impl Strategy<Value = QuarantineReason> {
        (0_u64..7).prop_map(|code| reason(code).expect("there are seven reasons"))
    }

    fn records(owed: &Owed) -> Vec<(u64, QuarantineReason)> {
        std::iter::successors(owed.next(0), |(record, _)| owed.next(record + 1)).collect()
    }

    #[test]
    fn every_other_record_takes_two_bytes_and_a_long_run_takes_five() {
        let too_old = QuarantineReason::Rejected(Rejection::TooOld);
        let every_other = Owed::of((0..5_000).map(|index| (2 * index, too_old)).collect());
        assert_eq!(every_other.encode().len(), 10_000);
        let run = Owed::of((70..1_000_000).map(|index| (index, QuarantineReason::Malformed)).collect());
        assert_eq!(run.encode().len(), 5);
    }

    #[test]
    fn other_bytes_are_refused() {
        let too_far = [&[0xff; 9][..], &[0x7f, 1]].concat();
        for bytes in [&[0][..], &[0x80], &[0, 0], &[7, 1], &[0x80; 11], &too_far] {
            assert_eq!(Owed::decode(bytes), None, "{bytes:?}");
        }
        assert_eq!(Owed::decode(&[]), Some(Owed::default()));
    }

    proptest! {
        #[test]
        fn a_list_holds_the_records_that_were_added(
            batches in prop::collection::vec(prop::collection::vec((0_u64..60, any_reason()), 0..20), 0..4),
            paid in 0_u64..60,
        ) {
            let (mut owed, mut expected) = (Owed::default(), BTreeMap::<_, HashSet<_>>::new());
            for batch in batches {
                owed.add(Owed::of(batch.clone()));
                for (record, reason) in batch {
                    expected.entry(record).or_default().insert(reason);
                }
            }
            prop_assert_eq!(Owed::decode(&owed.encode()), Some(owed.clone()));
            let matches = |owed: &Owed, expected: &BTreeMap<u64, HashSet<QuarantineReason>>| {
                let found = records(owed);
                found.iter().map(|(record, _)| record).eq(expected.keys())
                    && found.iter().all(|(record, reason)| expected[record].contains(reason))
            };
            prop_assert!(matches(&owed, &expected), "{:?} of {:?}", owed, expected);
            owed.paid_before(paid);
            expected.retain(|record, _| *record >= paid);
            prop_assert!(matches(&owed, &expected), "{:?} of {:?}", owed, expected);
            prop_assert_eq!(owed.is_empty(), owed.encode().is_empty());
        }
    }
}
