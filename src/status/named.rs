//! Decides which tenants have series of their own in the metrics. Pure.

use std::cmp::Reverse;

/// What decides whether a tenant gets series of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Claim {
    /// Place of the tenant in the caller's list.
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
pub(super) fn choose(mut claims: Vec<Claim>, most: usize) -> Vec<usize> {
    let mut chosen = Vec::with_capacity(most.min(claims.len()));
    let mut take = |claims: &mut Vec<Claim>, places: usize| {
        let rest = claims.split_off(places.min(claims.len()));
        chosen.extend(std::mem::replace(claims, rest).into_iter().map(|claim| claim.index));
    };
    claims.sort_by_key(|claim| (Reverse(claim.trouble), claim.index));
    let troubled = claims.iter().filter(|claim| claim.trouble.is_some()).count();
    let for_trouble = troubled.min(most.div_ceil(2));
    take(&mut claims, for_trouble);
    claims.sort_by_key(|claim| {
        let weight = if claim.is_named { claim.volume.saturating_mul(2) } else { claim.volume };
        (Reverse(weight), Reverse(claim.trouble), Reverse(claim.is_named), claim.index)
    });
    take(&mut claims, most - for_trouble);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(index: usize, trouble: Option<i64>, volume: u64, is_named: bool) -> Claim {
        Claim { index, trouble, volume, is_named }
    }

    fn check(claims: &[Claim], most: usize, expected: &[usize]) {
        let mut chosen = choose(claims.to_vec(), most);
        chosen.sort();
        assert_eq!(chosen, expected);
    }

    #[test]
    fn half_for_trouble_and_half_for_volume() {
        let claims = [
            claim(0, None, 100, false),
            claim(1, Some(10), 0, false),
            claim(2, Some(30), 0, false),
            claim(3, Some(20), 0, false),
            claim(4, None, 300, false),
            claim(5, None, 200, false),
            claim(6, Some(40), 1_000, false),
        ];
        check(&claims, 0, &[]);
        check(&claims, 1, &[6]);
        check(&claims, 2, &[4, 6]);
        check(&claims, 4, &[2, 4, 5, 6]);
        check(&claims, 7, &[0, 1, 2, 3, 4, 5, 6]);
        check(&claims, 50, &[0, 1, 2, 3, 4, 5, 6]);
        // If no tenant is in trouble, all places go by volume; if all are, all places go by trouble.
        check(&[claim(0, None, 1, false), claim(1, None, 3, false), claim(2, None, 2, false)], 2, &[1, 2]);
        check(
            &[claim(0, Some(1), 0, false), claim(1, Some(3), 0, false), claim(2, Some(2), 0, false)],
            2,
            &[1, 2],
        );
    }

    #[test]
    fn a_tenant_keeps_its_series_unless_another_has_twice_its_volume() {
        check(&[claim(0, None, 60, true), claim(1, None, 100, false)], 1, &[0]);
        check(&[claim(0, None, 40, true), claim(1, None, 100, false)], 1, &[1]);
        check(&[claim(0, None, 0, false), claim(1, None, 0, true)], 1, &[1]);
    }
}
