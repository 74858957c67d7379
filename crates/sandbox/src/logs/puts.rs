//! What was accepted, batch by batch: which events came in one call is nothing that CloudWatch Logs would tell.

use std::collections::HashMap;

use super::store::AccountLogs;

/// The accepted events of one PutLogEvents call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// The account that it went to.
    pub account: String,
    /// The Region.
    pub region: String,
    /// The group.
    pub log_group: String,
    /// The stream.
    pub log_stream: String,
    /// Milliseconds since 1970, and the message: as they stood in the call, without those that were rejected.
    pub events: Vec<(i64, String)>,
}

/// Reads them all; those of one group in the order in which they were accepted.
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
