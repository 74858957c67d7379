//! Decides which tenants have series of their own in the metrics. Pure.

use std::cmp::Reverse;

/// Rank of a tenant for series of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rank {
    /// Index of the tenant in the caller's list.
    pub(super) index: usize,
    /// How long the tenant has been in trouble, in milliseconds: since its first failure, or since an object began to wait, if
    /// it has waited for more than a minute. `None` if the tenant is not in trouble.
    pub(super) trouble: Option<i64>,
    /// Recent billed bytes, plus one for each delivery.
    pub(super) volume: u64,
    /// Whether it has series of its own now.
    pub(super) is_named: bool,
}

/// Chooses at most `most` tenants, by their `index`: up to half for their trouble, the oldest first, then the largest volumes,
/// then further ones in trouble. The volume of a tenant that has series now counts double, because each change of the choice
/// begins new series in Prometheus.
pub(super) fn choose(mut ranks: Vec<Rank>, most: usize) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(most.min(ranks.len()));
    let mut take = |ranks: &mut Vec<Rank>, places: usize| {
        let rest = ranks.split_off(places.min(ranks.len()));
        chosen.extend(std::mem::replace(ranks, rest).into_iter().map(|rank| rank.index));
    };
    ranks.sort_by_key(|rank| (Reverse(rank.trouble), rank.index));
    let troubled = ranks.iter().filter(|rank| rank.trouble.is_some()).count();
    let for_trouble = troubled.min(most.div_ceil(2));
    take(&mut ranks, for_trouble);
    ranks.sort_by_key(|rank| {
        let weight = if rank.is_named { rank.volume.saturating_mul(2) } else { rank.volume };
        (Reverse(weight), Reverse(rank.trouble), Reverse(rank.is_named), rank.index)
    });
    take(&mut ranks, most - for_trouble);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(index: usize, trouble: Option<i64>, volume: u64, is_named: bool) -> Rank {
        Rank { index, trouble, volume, is_named }
    }

    fn check(ranks: &[Rank], most: usize, expected: &[usize]) {
        let mut chosen = choose(ranks.to_vec(), most);
        chosen.sort();
        assert_eq!(chosen, expected);
    }

    #[test]
    fn half_for_trouble_and_half_for_volume() {
        let ranks = [
            rank(0, None, 100, false),
            rank(1, Some(10), 0, false),
            rank(2, Some(30), 0, false),
            rank(3, Some(20), 0, false),
            rank(4, None, 300, false),
            rank(5, None, 200, false),
            rank(6, Some(40), 1_000, false),
        ];
        check(&ranks, 0, &[]);
        check(&ranks, 1, &[6]);
        check(&ranks, 2, &[4, 6]);
        check(&ranks, 4, &[2, 4, 5, 6]);
        check(&ranks, 7, &[0, 1, 2, 3, 4, 5, 6]);
        check(&ranks, 50, &[0, 1, 2, 3, 4, 5, 6]);
        // If no tenant is in trouble, all places go by volume; if all are, all places go by trouble.
        check(&[rank(0, None, 1, false), rank(1, None, 3, false), rank(2, None, 2, false)], 2, &[1, 2]);
        check(
            &[rank(0, Some(1), 0, false), rank(1, Some(3), 0, false), rank(2, Some(2), 0, false)],
            2,
            &[1, 2],
        );
    }

    #[test]
    fn a_tenant_keeps_its_series_unless_another_has_twice_its_volume() {
        check(&[rank(0, None, 60, true), rank(1, None, 100, false)], 1, &[0]);
        check(&[rank(0, None, 40, true), rank(1, None, 100, false)], 1, &[1]);
        check(&[rank(0, None, 0, false), rank(1, None, 0, true)], 1, &[1]);
    }
}
