//! Accepted events, grouped by the call that sent them. CloudWatch Logs has no call that shows this grouping; tests read it
//! from the sandbox.

use std::collections::HashMap;

use super::store::AccountLogs;

/// Accepted events of one PutLogEvents call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// Account id.
    pub account: String,
    /// Region.
    pub region: String,
    /// Log group.
    pub log_group: String,
    /// Log stream.
    pub log_stream: String,
    /// Time in milliseconds since 1970 and message of each event, in the order of the call, without rejected events.
    pub events: Vec<(i64, String)>,
}

/// Returns all batches. Those of one group are in the order of their acceptance.
pub(super) fn of(accounts: &HashMap<String, AccountLogs>) -> Vec<Put> {
    let mut all = Vec::new();
    for (account, logs) in accounts {
        for (region, groups) in &logs.regions {
            for (log_group, group) in groups {
                let mut of_group = Vec::new();
                for (log_stream, stream) in &group.streams {
                    let mut events: Vec<_> = stream.events.iter().collect();
                    events.sort_by_key(|event| event.serial);
                    for (at, first) in stream.puts.iter().enumerate() {
                        let end = stream.puts.get(at + 1).copied().unwrap_or(u64::MAX);
                        let (from, to) = (serial_at(&events, *first), serial_at(&events, end));
                        let events = events[from..to].iter();
                        let events = events.map(|event| (event.timestamp, event.message.to_string()));
                        of_group.push((
                            *first,
                            Put {
                                account: account.clone(),
                                region: region.clone(),
                                log_group: log_group.clone(),
                                log_stream: log_stream.clone(),
                                events: events.collect(),
                            },
                        ));
                    }
                }
                of_group.sort_by_key(|(first, _)| *first);
                all.extend(of_group.into_iter().map(|(_, put)| put));
            }
        }
    }
    all
}

fn serial_at(events: &[&super::store::Event], serial: u64) -> usize {
    events.partition_point(|event| event.serial < serial)
}
