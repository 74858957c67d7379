//! Checks the dead letters: one for each message about a damaged or missing object, and no others.

use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) reason: String,
    /// Key of the first object that failed.
    pub(crate) key: String,
    pub(crate) record_offset: Option<usize>,
    /// Number of objects that failed.
    pub(crate) failures: usize,
    pub(crate) body: String,
}

/// An object that must have dead letters.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    pub(crate) key: String,
    pub(crate) reason: &'static str,
    /// Number of records before the damage; `None` if the object does not exist.
    pub(crate) record_offset: Option<usize>,
}

/// The objects that messages named and that cannot be delivered.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) bad: Vec<Bad>,
    /// Number of messages that name at least one of these objects. Without excuses, this is also the highest allowed number
    /// of letters.
    pub(crate) messages: u64,
}

/// Numbers of incidents that may have duplicated a letter, or the message that a letter is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuses {
    /// Kills and pauses of workers. After a blow between the send of a letter and the deletion of its message, the letter is
    /// sent again.
    pub(crate) blows: u64,
    /// Sends that took effect, but whose answer was lost.
    pub(crate) lost_answers: u64,
}

/// Lists the problems of the letters, one line each.
pub(crate) fn judge(told: &Told, letters: &[Letter], excuses: Excuses) -> Vec<String> {
    let mut problems = Vec::new();
    let mut by_key: BTreeMap<&str, Vec<&Letter>> = BTreeMap::new();
    for letter in letters {
        by_key.entry(&letter.key).or_default().push(letter);
    }
    for Bad { key, reason, record_offset } in &told.bad {
        let about = by_key.remove(key.as_str()).unwrap_or_default();
        let right = |letter: &&Letter| letter.reason == *reason && letter.record_offset == *record_offset;
        if !about.iter().all(right) {
            let said: Vec<_> =
                about.iter().map(|letter| (letter.reason.as_str(), letter.record_offset)).collect();
            problems
                .push(format!("{key} is {reason} at {record_offset:?}, but its dead letters say {said:?}"));
        }
        // The letter of a message with several objects names the first failed object and only counts the others.
        let beside = |letter: &Letter| letter.failures > 1 && letter.body.contains(key.as_str());
        if about.is_empty() && !letters.iter().any(beside) {
            problems.push(format!("{key} is {reason}, but has no dead letter"));
        }
    }
    for (key, letters) in by_key {
        let reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
        problems.push(format!("unexpected dead letters: {key} {reasons:?}"));
    }
    let (count, most) = (letters.len() as u64, told.messages + excuses.blows + excuses.lost_answers);
    if count > most {
        problems.push(format!(
            "{count} dead letters about {} messages; {} kills and pauses and {} lost answers allow at most {most}",
            told.messages, excuses.blows, excuses.lost_answers
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(key: &str, reason: &str, record_offset: Option<usize>) -> Letter {
        let (key, reason) = (key.to_owned(), reason.to_owned());
        Letter { reason, key, record_offset, failures: 1, body: String::new() }
    }

    #[track_caller]
    fn check(letters: &[Letter], excuses: [u64; 2], problems: usize) {
        let bad = |key: &str, reason, record_offset| Bad { key: key.to_owned(), reason, record_offset };
        let bad = vec![bad("a", "corrupt_object", Some(3)), bad("b", "object_missing", None)];
        let [blows, lost_answers] = excuses;
        let found = judge(&Told { bad, messages: 3 }, letters, Excuses { blows, lost_answers });
        assert_eq!(found.len(), problems, "{found:?}");
    }

    #[test]
    fn every_flaw_is_reported() {
        let (a, b) = (letter("a", "corrupt_object", Some(3)), letter("b", "object_missing", None));
        let with = |more: Letter| [a.clone(), b.clone(), more];
        check(&[a.clone(), b.clone()], [0; 2], 0);
        check(&with(a.clone()), [0; 2], 0);
        check(std::slice::from_ref(&a), [0; 2], 1);
        check(&with(letter("a", "corrupt_object", Some(2))), [0; 2], 1);
        check(&with(letter("a", "role_denied", Some(3))), [0; 2], 1);
        check(&with(letter("c", "corrupt_object", Some(3))), [0; 2], 1);
    }

    #[test]
    fn a_letter_names_the_first_failed_object_and_counts_the_others() {
        let both = Letter { failures: 2, body: "a b".to_owned(), ..letter("a", "corrupt_object", Some(3)) };
        check(std::slice::from_ref(&both), [0; 2], 0);
        check(&[Letter { failures: 1, ..both }], [0; 2], 1);
    }

    #[test]
    fn an_additional_letter_needs_an_excuse() {
        let (a, b) = (letter("a", "corrupt_object", Some(3)), letter("b", "object_missing", None));
        let four = [a.clone(), a.clone(), a, b];
        check(&four, [0; 2], 1);
        check(&four, [1, 0], 0);
        check(&four, [0, 1], 0);
    }
}
