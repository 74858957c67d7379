//! Compares what was uploaded with what every account received, record by record.

use std::collections::HashMap;

use logferry_testbed::provision::ReceivedEvent;

use super::samples::Record;

/// A place where records belong or were found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LogGroup {
    pub(super) account: String,
    pub(super) log_group: String,
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The record did not arrive where it belongs.
    Missing,
    /// The record arrived in a log group where it does not belong.
    Misplaced,
    /// The record arrived once more than it was uploaded.
    Twice,
    /// No uploaded record has this timestamp and message.
    Altered,
    /// The record is older than the record before it in its stream.
    OutOfOrder,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) flaw: Flaw,
    pub(super) group: LogGroup,
    pub(super) record: Record,
}

#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Number of records that had to arrive.
    pub(super) expected: usize,
    /// Number of records that arrived where they belong.
    pub(super) delivered: usize,
    pub(super) faults: Vec<Fault>,
}

impl Comparison {
    pub(super) fn of(&self, flaw: Flaw) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(move |fault| fault.flaw == flaw)
    }

    pub(super) fn count(&self, flaw: Flaw) -> usize {
        self.of(flaw).count()
    }
}

/// Matches each received record with an expected record of its place. Each received or expected record without a match is a
/// fault.
///
/// In `received`, the events of each stream are consecutive, in the order of CloudWatch Logs.
pub(super) fn compare(
    expected: &[(LogGroup, Vec<Record>)],
    received: &[(LogGroup, Vec<ReceivedEvent>)],
) -> Comparison {
    let mut left: HashMap<&LogGroup, HashMap<Record, usize>> = HashMap::new();
    for (group, records) in expected {
        let here = left.entry(group).or_default();
        for record in records {
            *here.entry(record.clone()).or_default() += 1;
        }
    }
    let mut comparison = Comparison {
        expected: expected.iter().map(|(_, records)| records.len()).sum(),
        ..Comparison::default()
    };
    for (group, events) in received {
        for event in events {
            let record = Record { timestamp: event.timestamp, message: event.message.clone() };
            let flaw = match left.get_mut(group).and_then(|here| here.get_mut(&record)) {
                Some(count @ 1..) => {
                    *count -= 1;
                    comparison.delivered += 1;
                    continue;
                }
                Some(0) => Flaw::Twice,
                None => match left.values().any(|there| there.contains_key(&record)) {
                    true => Flaw::Misplaced,
                    false => Flaw::Altered,
                },
            };
            comparison.faults.push(Fault { flaw, group: group.clone(), record });
        }
        for pair in events.windows(2) {
            let [before, event] = pair else { continue };
            if before.stream == event.stream && before.timestamp > event.timestamp {
                let record = Record { timestamp: event.timestamp, message: event.message.clone() };
                comparison.faults.push(Fault { flaw: Flaw::OutOfOrder, group: group.clone(), record });
            }
        }
    }
    for (group, records) in left {
        for (record, count) in records {
            let fault = Fault { flaw: Flaw::Missing, group: group.clone(), record };
            comparison.faults.extend(std::iter::repeat_n(fault, count));
        }
    }
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(account: &str) -> LogGroup {
        LogGroup { account: account.to_owned(), log_group: format!("/logs/{account}") }
    }

    fn record((timestamp, message): (i64, &str)) -> Record {
        Record { timestamp, message: message.to_owned() }
    }

    fn event((timestamp, message): (i64, &str)) -> ReceivedEvent {
        // The stream is the message's first letter, so that a test can tell streams apart.
        let stream = message[..1].to_owned();
        ReceivedEvent { stream, timestamp, message: message.to_owned(), ingestion_time: 0 }
    }

    /// Two tenants' records: `a 1` exists twice, and both tenants have `b 9`.
    const ACME: [(i64, &str); 4] = [(1, "a 1"), (1, "a 1"), (2, "a 2"), (9, "b 9")];
    const GLOBEX: [(i64, &str); 2] = [(1, "c 1"), (9, "b 9")];

    #[track_caller]
    fn check(acme: &[(i64, &str)], globex: &[(i64, &str)], delivered: usize, flaws: &[(Flaw, &str, &str)]) {
        let records = |sent: &[_]| sent.iter().copied().map(record).collect();
        let events = |arrived: &[_]| arrived.iter().copied().map(event).collect();
        let expected = [(group("acme"), records(&ACME)), (group("globex"), records(&GLOBEX))];
        let received = [(group("acme"), events(acme)), (group("globex"), events(globex))];
        let comparison = compare(&expected, &received);
        assert_eq!((comparison.expected, comparison.delivered), (6, delivered));
        let mut found: Vec<_> = comparison
            .faults
            .iter()
            .map(|fault| (fault.flaw, &*fault.group.account, &*fault.record.message))
            .collect();
        found.sort_by_key(|(_, account, message)| (*account, *message));
        assert_eq!(found, flaws);
        for (flaw, ..) in flaws {
            let count = flaws.iter().filter(|(other, ..)| other == flaw).count();
            assert_eq!(comparison.count(*flaw), count);
        }
    }

    #[test]
    fn the_same_records_have_no_flaw() {
        check(&ACME, &GLOBEX, 6, &[]);
        // The order matters only inside a stream.
        check(&[(9, "b 9"), (1, "a 1"), (1, "a 1"), (2, "a 2")], &GLOBEX, 6, &[]);
    }

    #[test]
    fn a_missing_record_is_found() {
        check(&ACME[1..], &GLOBEX, 5, &[(Flaw::Missing, "acme", "a 1")]);
        check(&ACME, &[], 4, &[(Flaw::Missing, "globex", "b 9"), (Flaw::Missing, "globex", "c 1")]);
    }

    #[test]
    fn a_record_that_arrives_too_often_is_found() {
        let thrice = [(1, "a 1"), (1, "a 1"), (1, "a 1"), (2, "a 2"), (9, "b 9")];
        check(&thrice, &GLOBEX, 6, &[(Flaw::Twice, "acme", "a 1")]);
        check(&ACME, &[(1, "c 1"), (9, "b 9"), (9, "b 9")], 6, &[(Flaw::Twice, "globex", "b 9")]);
    }

    #[test]
    fn a_record_in_the_wrong_account_is_misplaced_there_and_missing_where_it_belongs() {
        let flaws = [(Flaw::Missing, "acme", "a 2"), (Flaw::Misplaced, "globex", "a 2")];
        check(&[(1, "a 1"), (1, "a 1"), (9, "b 9")], &[(2, "a 2"), (1, "c 1"), (9, "b 9")], 5, &flaws);
    }

    #[test]
    fn a_record_in_an_account_or_group_without_tenant_is_found() {
        let other_group = LogGroup { log_group: "/other".to_owned(), ..group("acme") };
        for nowhere in [group("provider"), other_group] {
            let sent = [(group("acme"), vec![record((1, "a"))])];
            let arrived = [(group("acme"), vec![event((1, "a"))]), (nowhere.clone(), vec![event((1, "a"))])];
            let comparison = compare(&sent, &arrived);
            let fault = Fault { flaw: Flaw::Misplaced, group: nowhere, record: record((1, "a")) };
            assert_eq!((comparison.delivered, comparison.faults), (1, vec![fault]));
        }
    }

    #[test]
    fn a_changed_text_or_time_is_found() {
        let text = [(1, "a 1"), (1, "a 1"), (2, "a 2!"), (9, "b 9")];
        check(&text, &GLOBEX, 5, &[(Flaw::Missing, "acme", "a 2"), (Flaw::Altered, "acme", "a 2!")]);
        let time = [(1, "c 1"), (8, "b 9")];
        check(&ACME, &time, 5, &[(Flaw::Altered, "globex", "b 9"), (Flaw::Missing, "globex", "b 9")]);
    }

    #[test]
    fn a_wrong_order_inside_a_stream_is_found() {
        let late = [(1, "a 1"), (2, "a 2"), (1, "a 1"), (9, "b 9")];
        check(&late, &GLOBEX, 6, &[(Flaw::OutOfOrder, "acme", "a 1")]);
    }
}
