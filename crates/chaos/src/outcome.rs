//! The outcome of a run, the rules that judge it, and the summary of many runs.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{comparison::Comparison, lake::Laked, plan::Kind, quarantine::Kept};

/// Largest number of batches of one object's delivery that may arrive again after a kill or a pause: those that the worker
/// had sent and not yet recorded in the ledger.
const REPEATS_PER_BLOW: u64 = 2;

/// Outcome of one finished run.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub(crate) kind: Kind,
    /// Whether there was a ledger. Without a ledger, repeated batches are counted but do not fail the run.
    pub(crate) ledger: bool,
    pub(crate) took: Duration,
    pub(crate) kills: u64,
    pub(crate) pauses: u64,
    /// Deliveries of objects that one worker can work on at the same time.
    pub(crate) deliveries_at_once: u64,
    /// Number of calls that a fault hit, by `service:Operation effect`.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Answers of PutLogEvents that were lost after the call took effect.
    pub(crate) lost_answers: u64,
    pub(crate) objects: u64,
    pub(crate) records: u64,
    pub(crate) messages: u64,
    /// Messages about objects that an earlier message had named.
    pub(crate) again: u64,
    pub(crate) dead_letters: u64,
    pub(crate) unaccounted: u64,
    /// How often workers logged that they go on without the ledger. If they did, repeated batches do not fail the run.
    pub(crate) without_ledger: u64,
    pub(crate) comparison: Comparison,
    pub(crate) kept: Kept,
    pub(crate) laked: Laked,
    /// CompleteMultipartUpload calls.
    pub(crate) uploads: u64,
    /// Number of copies in customers' buckets that were checked.
    pub(crate) copies: u64,
    /// SendMessageBatch calls of the workers. They send messages anew, or test whether sending is allowed.
    pub(crate) sent_anew: u64,
    /// All other problems.
    pub(crate) problems: Vec<String>,
}

impl Outcome {
    /// Lists everything that is wrong, one line each. Empty if the run was good.
    pub fn complaints(&self) -> Vec<String> {
        let Comparison {
            lost, altered, wrong_account, out_of_order, repeated_batches, most_in_one_lane, ..
        } = self.comparison;
        let mut complaints = self.problems.clone();
        let counts = [
            (lost, "events lost"),
            (altered, "events altered, or in another group or stream"),
            (wrong_account, "events in a wrong account"),
            (out_of_order, "events out of order"),
            (self.unaccounted, "records unaccounted for"),
            (self.kept.missing, "records missing in quarantine"),
            (self.kept.foreign, "records wrongly in quarantine, or with wrong content"),
            (self.laked.lost, "records missing in a lake"),
            (self.laked.again, "records in a lake twice"),
            (self.laked.foreign, "records or files wrongly in a lake, or with wrong content"),
        ];
        complaints.extend(
            counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")),
        );
        if self.without_ledger > 0 && self.kind != Kind::NoLedger {
            complaints.push("a worker went on without the ledger although it was within reach".to_owned());
        }
        if self.ledger && self.without_ledger == 0 {
            let of_one = REPEATS_PER_BLOW * self.blows() + self.lost_answers;
            let of_all = REPEATS_PER_BLOW * self.blows() * self.deliveries_at_once + self.lost_answers;
            let excuse = format!(
                "{} kills, {} pauses and {} lost answers",
                self.kills, self.pauses, self.lost_answers
            );
            if most_in_one_lane > of_one {
                complaints.push(format!(
                    "{most_in_one_lane} batches of one delivery repeated, {of_one} allowed by {excuse}"
                ));
            }
            if repeated_batches > of_all {
                complaints.push(format!("{repeated_batches} batches repeated, {of_all} allowed by {excuse}"));
            }
        }
        if !complaints.is_empty() {
            complaints
                .extend(self.comparison.told.iter().chain(&self.kept.told).chain(&self.laked.told).cloned());
        }
        complaints
    }

    fn blows(&self) -> u64 {
        self.kills + self.pauses
    }

    /// Duration of the run.
    pub fn took(&self) -> Duration {
        self.took
    }
}

/// Sums over many runs.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    runs: u64,
    failed: u64,
    kills: u64,
    pauses: u64,
    faults: BTreeMap<String, u64>,
    objects: u64,
    records: u64,
    events: u64,
    quarantined: u64,
    not_quarantined: u64,
    wrongly_quarantined: u64,
    quarantined_again: u64,
    laked: Laked,
    uploads: u64,
    copies: u64,
    sent_anew: u64,
    messages: u64,
    again: u64,
    dead_letters: u64,
    lost: u64,
    altered: u64,
    wrong_account: u64,
    out_of_order: u64,
    unaccounted: u64,
    lost_answers: u64,
    /// Runs, repeated batches, and the most repeated batches of one run; by kind, and by whether the ledger was always
    /// within reach.
    repeats: BTreeMap<(Kind, bool), (u64, u64, u64)>,
    /// The most repeated batches of one delivery of an object, in a run with the ledger.
    most_of_one_delivery: u64,
    /// Runs by the number of repeated batches per kill or pause, rounded up.
    per_blow: BTreeMap<u64, u64>,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, outcome: &Outcome) {
        let Comparison { expected, lost, altered, wrong_account, out_of_order, repeated_batches, .. } =
            outcome.comparison;
        self.runs += 1;
        self.failed += u64::from(!outcome.complaints().is_empty());
        self.kills += outcome.kills;
        self.pauses += outcome.pauses;
        for (fault, count) in &outcome.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        self.objects += outcome.objects;
        self.records += outcome.records;
        self.events += expected;
        self.messages += outcome.messages;
        self.again += outcome.again;
        self.quarantined += outcome.kept.expected;
        self.not_quarantined += outcome.kept.missing;
        self.wrongly_quarantined += outcome.kept.foreign;
        self.quarantined_again += outcome.kept.again;
        self.laked.add(&outcome.laked);
        self.uploads += outcome.uploads;
        self.copies += outcome.copies;
        self.sent_anew += outcome.sent_anew;
        self.dead_letters += outcome.dead_letters;
        self.lost += lost;
        self.altered += altered;
        self.wrong_account += wrong_account;
        self.out_of_order += out_of_order;
        self.unaccounted += outcome.unaccounted;
        self.lost_answers += outcome.lost_answers;
        let always = outcome.ledger && outcome.without_ledger == 0;
        let (runs, batches, most) = self.repeats.entry((outcome.kind, always)).or_default();
        *runs += 1;
        *batches += repeated_batches;
        *most = repeated_batches.max(*most);
        if always {
            self.most_of_one_delivery = self.most_of_one_delivery.max(outcome.comparison.most_in_one_lane);
        }
        if outcome.blows() > 0 && always {
            *self.per_blow.entry(repeated_batches.div_ceil(outcome.blows())).or_default() += 1;
        }
    }

    /// Adds a run that could not be finished.
    pub fn add_failure(&mut self) {
        self.runs += 1;
        self.failed += 1;
    }

    /// Returns whether every run was finished, without complaints.
    pub fn is_good(&self) -> bool {
        self.failed == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: u64 = self.faults.values().sum();
        let rows = [
            ("runs", self.runs),
            ("of them failed", self.failed),
            ("kills", self.kills),
            ("pauses", self.pauses),
            ("faults", faults),
            ("notifications", self.messages),
            ("of them duplicates", self.again),
            ("objects", self.objects),
            ("records put into S3", self.records),
            ("events that should arrive", self.events),
            ("SendMessageBatch calls", self.sent_anew),
            ("records that should be in quarantine", self.quarantined),
            ("copies in customers' buckets", self.copies),
            ("lakes", self.laked.lakes),
            ("records that should be in lakes", self.laked.expected),
            ("files in lakes", self.laked.files),
            ("CompleteMultipartUpload calls", self.uploads),
            ("unfinished uploads left in lakes", self.laked.left),
            ("dead letters", self.dead_letters),
            ("lost", self.lost),
            ("not in quarantine", self.not_quarantined),
            ("wrongly in quarantine", self.wrongly_quarantined),
            ("in quarantine twice", self.quarantined_again),
            ("missing in a lake", self.laked.lost),
            ("in a lake twice", self.laked.again),
            ("wrongly in a lake", self.laked.foreign),
            ("in a wrong account", self.wrong_account),
            ("altered", self.altered),
            ("out of order", self.out_of_order),
            ("unaccounted", self.unaccounted),
            ("answers lost after their effect", self.lost_answers),
        ];
        for (what, count) in rows {
            writeln!(to, "{what:32} {count:>10}")?;
        }
        writeln!(to, "repeated batches:")?;
        for ((kind, always), (runs, batches, most)) in &self.repeats {
            let ledger = if *always { "" } else { ", ledger out of reach at times" };
            let what = format!("{}{ledger}", kind.word());
            writeln!(to, "  {what:44} {batches:>6} in {runs:>4} runs, {most:>3} at most in one")?;
        }
        writeln!(to, "  of one delivery, at most {:25} {:>6}", "", self.most_of_one_delivery)?;
        for (batches, runs) in &self.per_blow {
            writeln!(to, "  up to {batches} for each kill or pause{:11} {runs:>13} runs", "")?;
        }
        writeln!(to, "faults by call and effect:")?;
        for (fault, count) in &self.faults {
            writeln!(to, "  {fault:66} {count:>8}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(kind: Kind) -> Outcome {
        Outcome {
            kind,
            ledger: true,
            took: Duration::ZERO,
            kills: 0,
            pauses: 0,
            deliveries_at_once: 3,
            faults: BTreeMap::new(),
            lost_answers: 0,
            objects: 1,
            records: 1,
            messages: 1,
            again: 0,
            dead_letters: 0,
            unaccounted: 0,
            without_ledger: 0,
            comparison: Comparison { expected: 1, ..Comparison::default() },
            kept: Kept::default(),
            laked: Laked::default(),
            uploads: 0,
            copies: 0,
            sent_anew: 0,
            problems: Vec::new(),
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Outcome), complaints: usize) {
        let mut outcome = outcome(Kind::Kills);
        change(&mut outcome);
        assert_eq!(outcome.complaints().len(), complaints, "{:?}", outcome.complaints());
        let mut summary = Summary::default();
        summary.add(&outcome);
        assert_eq!(summary.is_good(), complaints == 0);
    }

    #[test]
    fn every_flaw_is_a_complaint() {
        check(|_| (), 0);
        check(|o| o.comparison.lost = 1, 1);
        check(|o| o.comparison.altered = 1, 1);
        check(|o| o.comparison.wrong_account = 1, 1);
        check(|o| o.comparison.out_of_order = 1, 1);
        check(|o| o.unaccounted = 1, 1);
        check(|o| o.kept.missing = 1, 1);
        check(|o| o.kept.foreign = 1, 1);
        check(|o| o.kept.again = 1, 0);
        check(|o| o.laked.lost = 1, 1);
        check(|o| o.laked.again = 1, 1);
        check(|o| (o.ledger, o.laked.again) = (false, 1), 1);
        check(|o| o.laked.foreign = 1, 1);
        check(|o| o.without_ledger = 1, 1);
        check(|o| o.problems.push("late".to_owned()), 1);
    }

    #[test]
    fn a_kill_or_a_pause_excuses_two_batches_of_each_delivery_and_a_lost_answer_one() {
        let repeats = |of_one, in_all, change: fn(&mut Outcome), complaints| {
            let repeated = |o: &mut Outcome| {
                (o.comparison.most_in_one_lane, o.comparison.repeated_batches) = (of_one, in_all);
                change(o);
            };
            check(repeated, complaints);
        };
        repeats(1, 1, |_| (), 2);
        repeats(4, 12, |o| o.kills = 2, 0);
        repeats(5, 12, |o| o.kills = 2, 1);
        repeats(4, 13, |o| o.kills = 2, 1);
        repeats(4, 12, |o| (o.kills, o.pauses) = (1, 1), 0);
        repeats(3, 3, |o| o.pauses = 1, 1);
        repeats(3, 3, |o| o.lost_answers = 3, 0);
        repeats(4, 4, |o| o.lost_answers = 3, 2);
        repeats(9, 9, |o| o.ledger = false, 0);
        repeats(9, 9, |o| (o.kind, o.without_ledger) = (Kind::NoLedger, 1), 0);
    }
}
