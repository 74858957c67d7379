//! Dead letters: one for each message about what is damaged or missing, and for nothing else.

use std::collections::BTreeMap;

/// What a dead letter says.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) reason: String,
    /// Of the first object that is to blame.
    pub(crate) key: String,
    pub(crate) record_offset: Option<usize>,
    /// How many things are wrong.
    pub(crate) failures: usize,
    pub(crate) body: String,
}

/// An object about which there are to be letters.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    pub(crate) key: String,
    pub(crate) reason: &'static str,
    /// Records in front of the damage; none where there is no object at all.
    pub(crate) record_offset: Option<usize>,
}

/// Everything that messages told of and that cannot be delivered.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) bad: Vec<Bad>,
    /// Messages that tell of at least one of them: the most letters that there may be.
    pub(crate) messages: u64,
}

/// What may double a letter, or the message that it is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excuses {
    /// Workers that were killed or paused, perhaps between a letter and the delete of its message.
    pub(crate) blows: u64,
    /// Sends whose answer was lost: what was sent is in the queue, and nobody knows.
    pub(crate) lost_answers: u64,
}

/// Says what is wrong with the letters, a line each.
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
            problems.push(format!("{key} is {reason} at {record_offset:?}: dead letters say {said:?}"));
        }
        // A message of several objects names the first that is to blame, and counts the others.
        let beside = |letter: &Letter| letter.failures > 1 && letter.body.contains(key.as_str());
        if about.is_empty() && !letters.iter().any(beside) {
            problems.push(format!("{key} is {reason} and no dead letter is about it"));
        }
    }
    for (key, letters) in by_key {
        let reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
        problems.push(format!("dead letters that should not be: {key} {reasons:?}"));
    }
    let (count, most) = (letters.len() as u64, told.messages + excuses.blows + excuses.lost_answers);
    if count > most {
        problems.push(format!(
            "{count} dead letters about {} messages: {} kills and pauses and {} lost answers excuse {most}",
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
    fn every_flaw_is_seen() {
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
    fn a_letter_names_the_first_and_counts_the_others() {
        let both = Letter { failures: 2, body: "a b".to_owned(), ..letter("a", "corrupt_object", Some(3)) };
        check(std::slice::from_ref(&both), [0; 2], 0);
        check(&[Letter { failures: 1, ..both }], [0; 2], 1);
    }

    #[test]
    fn a_letter_too_many_needs_an_excuse() {
        let (a, b) = (letter("a", "corrupt_object", Some(3)), letter("b", "object_missing", None));
        let four = [a.clone(), a.clone(), a, b];
        check(&four, [0; 2], 1);
        check(&four, [1, 0], 0);
        check(&four, [0, 1], 0);
    }
}
