//! Compares the events that every account received with those that it should receive, event by event and batch by batch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use logferry_sandbox::Put;

/// Largest number of reported flaws of one kind. Further flaws are only counted.
pub(crate) const TOLD: usize = 5;
/// Number of characters of a message that a reported flaw shows.
pub(crate) const SHOWN: usize = 60;

/// One event that should arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Position of its record in the object.
    pub(crate) record: usize,
    /// Milliseconds since 1970; `None` if the record has no usable timestamp, so that the event has its object's.
    pub(crate) timestamp: Option<i64>,
    /// Unique within the run.
    pub(crate) message: String,
}

/// One object on its way into one delivery's log stream.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) name: String,
    pub(crate) account: String,
    pub(crate) log_group: String,
    /// Prefix of the stream's name; a date follows.
    pub(crate) stream: String,
    /// Events of all records, in the object's order. Those of the record at index `readable` and of later ones should not
    /// arrive.
    pub(crate) events: Arc<[Event]>,
    /// Number of records before the object's damage.
    pub(crate) readable: usize,
    /// When S3 stored the object, in milliseconds since 1970.
    pub(crate) object_time: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Events that should arrive.
    pub(crate) expected: u64,
    /// Expected events that did not arrive.
    pub(crate) lost: u64,
    /// Events that no object contains, or that arrived with another time or in another group or stream.
    pub(crate) altered: u64,
    /// Events that arrived in a wrong account.
    pub(crate) wrong_account: u64,
    /// Events that arrived after a later event of their object.
    pub(crate) out_of_order: u64,
    /// Batches with an event that an earlier batch contained.
    pub(crate) repeated_batches: u64,
    /// The most repeated batches of one object in one stream.
    pub(crate) most_in_one_lane: u64,
    /// The first few flaws of each kind.
    pub(crate) told: Vec<String>,
}

/// Compares the accepted batches with the expected events. The batches of one group must be in the order of their acceptance.
pub(crate) fn compare(lanes: &[Lane], puts: &[Put]) -> Comparison {
    let mut known: HashMap<&str, Vec<(usize, usize)>> = HashMap::new();
    let mut comparison = Comparison::default();
    for (lane_at, lane) in lanes.iter().enumerate() {
        for (at, event) in lane.wanted().enumerate() {
            known.entry(&event.message).or_default().push((lane_at, at));
            comparison.expected += 1;
        }
    }
    let mut seen: Vec<Vec<bool>> = lanes.iter().map(|lane| vec![false; lane.wanted().count()]).collect();
    let mut furthest: Vec<Option<usize>> = vec![None; lanes.len()];
    let mut repeats: BTreeMap<usize, u64> = BTreeMap::new();
    let mut flaws = Flaws::default();
    for put in puts {
        let (mut repeated, mut newest) = (None, BTreeMap::new());
        let mut before: Option<(i64, usize, usize)> = None;
        for (timestamp, message) in &put.events {
            let places = known.get(message.as_str()).map(Vec::as_slice).unwrap_or_default();
            let Some(&(lane_at, at)) = places.iter().find(|(lane, _)| lanes[*lane].is_in_account(put)) else {
                match places.is_empty() {
                    true => flaws.tell(&mut comparison.altered, "not an event of any object", put, message),
                    false => flaws.tell(&mut comparison.wrong_account, "in a wrong account", put, message),
                }
                continue;
            };
            let lane = &lanes[lane_at];
            if lane.events[at].timestamp.unwrap_or(lane.object_time) != *timestamp || !lane.is_its_stream(put)
            {
                flaws.tell(&mut comparison.altered, "with another time, group or stream", put, message);
                continue;
            }
            // CloudWatch Logs sorts events by time; events with the same time must keep the object's order.
            if let Some((time, other, position)) = before
                && time == *timestamp
                && other == lane_at
                && position > at
            {
                flaws.tell(&mut comparison.out_of_order, "out of order in its batch", put, message);
            }
            before = Some((*timestamp, lane_at, at));
            if std::mem::replace(&mut seen[lane_at][at], true) {
                repeated = Some(lane_at);
                continue;
            }
            if furthest[lane_at].is_some_and(|furthest| at < furthest) {
                flaws.tell(&mut comparison.out_of_order, "after a later event of its object", put, message);
            }
            let newest = newest.entry(lane_at).or_insert(at);
            *newest = at.max(*newest);
        }
        for (lane_at, newest) in newest {
            furthest[lane_at] = furthest[lane_at].max(Some(newest));
        }
        if let Some(lane_at) = repeated {
            *repeats.entry(lane_at).or_default() += 1;
        }
    }
    for (lane, seen) in lanes.iter().zip(&seen) {
        for (event, _) in lane.wanted().zip(seen).filter(|(_, seen)| !**seen) {
            flaws.count(&mut comparison.lost, "lost", &lane.name, &event.message);
        }
    }
    comparison.repeated_batches = repeats.values().sum();
    comparison.most_in_one_lane = repeats.values().copied().max().unwrap_or_default();
    comparison.told = flaws.0.into_values().flatten().collect();
    comparison
}

impl Lane {
    fn wanted(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().take_while(|event| event.record < self.readable)
    }

    fn is_in_account(&self, put: &Put) -> bool {
        self.account == put.account
    }

    fn is_its_stream(&self, put: &Put) -> bool {
        let date = put.log_stream.strip_prefix(&self.stream);
        self.log_group == put.log_group && date.is_some_and(|date| date.parse::<jiff::civil::Date>().is_ok())
    }
}

#[derive(Default)]
struct Flaws(BTreeMap<&'static str, Vec<String>>);

impl Flaws {
    fn tell(&mut self, count: &mut u64, flaw: &'static str, put: &Put, message: &str) {
        let place = format!("{} {} {}", put.account, put.log_group, put.log_stream);
        self.count(count, flaw, &place, message);
    }

    fn count(&mut self, count: &mut u64, flaw: &'static str, place: &str, message: &str) {
        *count += 1;
        let told = self.0.entry(flaw).or_default();
        if told.len() < TOLD {
            let shown: String = message.chars().take(SHOWN).collect();
            told.push(format!("{flaw}: {shown:?} of {place}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(account: &str, messages: &[&str]) -> Lane {
        let event = |(record, message): (usize, &&str)| Event {
            record,
            timestamp: (record != 2).then_some(record as i64 / 2),
            message: (*message).to_owned(),
        };
        Lane {
            name: account.to_owned(),
            account: account.to_owned(),
            log_group: "g".to_owned(),
            stream: "app-pod-".to_owned(),
            events: messages.iter().enumerate().map(event).collect(),
            readable: usize::MAX,
            object_time: 1,
        }
    }

    fn put(account: &str, events: &[(i64, &str)]) -> Put {
        Put {
            account: account.to_owned(),
            region: "us-east-1".to_owned(),
            log_group: "g".to_owned(),
            log_stream: "app-pod-2026-11-22".to_owned(),
            events: events.iter().map(|(at, message)| (*at, (*message).to_owned())).collect(),
        }
    }

    fn lanes() -> Vec<Lane> {
        // One object: `a` and `b` at 0, `d` at 1, and `c` without a time, so that it has the object's.
        vec![lane("1", &["a", "b", "c", "d"]), lane("2", &["a", "b", "c", "d"]), lane("3", &["x"])]
    }

    /// Every event of every lane, in complete batches.
    fn whole() -> Vec<Put> {
        let [first, second] = [&[(0, "a"), (0, "b")], &[(1, "c"), (1, "d")]];
        vec![put("1", first), put("1", second), put("2", first), put("2", second), put("3", &[(0, "x")])]
    }

    #[track_caller]
    fn check(puts: &[Put], expected: Comparison) {
        let found = compare(&lanes(), puts);
        assert_eq!(Comparison { told: Vec::new(), ..found.clone() }, Comparison { expected: 9, ..expected });
        let flaws = found.lost + found.altered + found.wrong_account + found.out_of_order;
        assert_eq!(found.told.len() as u64, flaws, "{:?}", found.told);
    }

    #[test]
    fn complete_batches_have_no_flaw() {
        check(&whole(), Comparison::default());
    }

    #[test]
    fn each_flaw_is_counted() {
        let mut puts = whole();
        puts.remove(1);
        check(&puts, Comparison { lost: 2, ..Comparison::default() });
        let with = |more: Put| [whole(), vec![more]].concat();
        check(&with(put("3", &[(0, "a")])), Comparison { wrong_account: 1, ..Comparison::default() });
        check(&with(put("9", &[(0, "x")])), Comparison { wrong_account: 1, ..Comparison::default() });
        check(&with(put("1", &[(0, "A")])), Comparison { altered: 1, ..Comparison::default() });
        check(&with(put("1", &[(1, "a")])), Comparison { altered: 1, ..Comparison::default() });
        let elsewhere = |change: fn(&mut Put)| {
            let mut put = put("1", &[(0, "a")]);
            change(&mut put);
            put
        };
        let altered = || Comparison { altered: 1, ..Comparison::default() };
        check(&with(elsewhere(|put| put.log_group = "h".to_owned())), altered());
        check(&with(elsewhere(|put| put.log_stream = "app-pod2-2026-11-22".to_owned())), altered());
    }

    #[test]
    fn repeats_are_counted_by_batch() {
        let repeated = |more: &[Put], batches, most| {
            let puts = [whole(), more.to_vec()].concat();
            let expected =
                Comparison { repeated_batches: batches, most_in_one_lane: most, ..Comparison::default() };
            check(&puts, expected);
        };
        repeated(&whole()[..1], 1, 1);
        repeated(&whole(), 5, 2);
        repeated(&[put("1", &[(0, "b"), (1, "c")])], 1, 1);
    }

    #[test]
    fn events_must_arrive_in_the_objects_order() {
        let order = |first: &[Put], out_of_order, repeated_batches| {
            let puts = [first.to_vec(), whole()[2..].to_vec()].concat();
            let most = repeated_batches;
            check(
                &puts,
                Comparison {
                    out_of_order,
                    repeated_batches,
                    most_in_one_lane: most,
                    ..Comparison::default()
                },
            );
        };
        order(&[put("1", &[(1, "c"), (1, "d")]), put("1", &[(0, "a"), (0, "b")])], 2, 0);
        order(&[put("1", &[(0, "b"), (0, "a"), (1, "c"), (1, "d")])], 1, 0);
        // A batch may arrive again. Its events then count as repeated and not as out of order.
        order(&[whole()[0].clone(), whole()[0].clone(), whole()[1].clone()], 0, 1);
    }

    #[test]
    fn events_after_the_damage_should_not_arrive() {
        let damaged = [Lane { readable: 2, ..lane("1", &["a", "b", "c", "d"]) }];
        let found = compare(&damaged, &whole()[..1]);
        assert_eq!((found.expected, found.lost, found.altered), (2, 0, 0));
        let found = compare(&damaged, &whole()[..2]);
        assert_eq!((found.expected, found.altered), (2, 2));
    }
}
