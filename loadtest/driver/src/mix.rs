//! The everyday load of a staging bucket: objects of very different sizes, from many tenants and applications, most of them
//! small.

use crate::{
    generate::Size,
    plan::{Pick, Plan},
};

/// Number of tenants, unless another one is asked for.
pub(crate) const TENANTS: u64 = 500;
/// Median of the objects' JSON, in bytes: a pod's logs of a few minutes.
const MEDIAN: f64 = 40e3;
/// Standard deviation of the natural logarithm of an object's size. 1 % of the objects are above 5 MB: that is 4.83 above the
/// median's logarithm (ln(5 MB / 40 kB)), and 1 % of a normal distribution is above 2.326 standard deviations.
const SIGMA: f64 = 4.83 / 2.326;
/// Largest size: half as large again as the largest objects that Vector writes with `batch.max_bytes` of 64 MiB. Such an object
/// is 0.3 % of the JSON of 20,000 objects. 0.15 % of the objects would be larger. The cap takes 10 % of the JSON away.
const LARGEST: f64 = 20e6;
/// Smallest size. An object has at least one record, of about 1.3 kB.
const SMALLEST: f64 = 1e3;
/// Sizes per doubling. Objects of the same size are copies of one body, so a run needs at most 59 bodies, 128 MB of JSON.
const PER_DOUBLING: i32 = 4;
/// How far from the median sizes are looked at, in doublings: more than seven standard deviations.
const DOUBLINGS: i32 = 24;
/// Number of applications of a tenant.
const APPLICATIONS: u64 = 20;
/// Number of pods of an application, which have equal shares.
const PODS: u64 = 3;

/// Chooses size, tenant, application and pod of each object. The same seed gives the same objects.
///
/// How many objects there are of each size depends on their number alone; the seed decides their order. So runs with different
/// numbers of objects have the same mean size.
pub(crate) fn plan(objects: u64, tenants: u64, seed: u64) -> Plan {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (tenant_shares, application_shares) = (Zipf::new(tenants), Zipf::new(APPLICATIONS));
    let (mut sizes, mut bodies) = (Vec::new(), Vec::new());
    for (size, count) in counts(objects) {
        bodies.resize(bodies.len() + count, sizes.len());
        sizes.push(Size::Plain(size));
    }
    rng.shuffle(&mut bodies);
    let picks = bodies.into_iter().map(|body| Pick {
        tenant: tenant_shares.choose(&mut rng),
        application: application_shares.choose(&mut rng) as u64,
        pod: rng.u64(..PODS),
        body,
    });
    Plan { picks: picks.collect(), sizes }
}

/// Sizes in bytes, in ascending order, and the share of the objects that have each. The shares are the density of the log-normal
/// distribution at points with equal distances on the logarithmic axis.
fn sizes() -> Vec<(f64, f64)> {
    let mut sizes: Vec<(f64, f64)> = Vec::new();
    for (size, weight) in points() {
        let size = size.clamp(SMALLEST, LARGEST);
        match sizes.last_mut() {
            Some((last, share)) if *last >= size => *share += weight,
            _ => sizes.push((size, weight)),
        }
    }
    sizes
}

/// The points of the distribution without its limits, and the share of the objects at each.
fn points() -> impl Iterator<Item = (f64, f64)> {
    let numbers = || -PER_DOUBLING * DOUBLINGS..=PER_DOUBLING * DOUBLINGS;
    let deviation =
        |number: i32| f64::from(number) / f64::from(PER_DOUBLING) * std::f64::consts::LN_2 / SIGMA;
    let weight = move |number| (-deviation(number).powi(2) / 2.0).exp();
    let all: f64 = numbers().map(weight).sum();
    numbers().map(move |number| {
        (MEDIAN * (f64::from(number) / f64::from(PER_DOUBLING)).exp2(), weight(number) / all)
    })
}

/// How many of the objects have each size. Sizes of no object are left out.
fn counts(objects: u64) -> Vec<(usize, usize)> {
    let (mut share_so_far, mut so_far) = (0.0, 0);
    let mut counts = Vec::new();
    for (size, share) in sizes() {
        share_so_far += share;
        // Rounding the sum instead of each share keeps the total.
        let until = (share_so_far * objects as f64).round() as usize;
        if until > so_far {
            counts.push((size as usize, until - so_far));
        }
        so_far = until;
    }
    counts
}

/// Shares that fall with the rank: the second has half of the first one's share, the third a third. Sizes of firms follow this
/// law (Axtell, "Zipf Distribution of U.S. Firm Sizes", Science 293, 2001), and so do many counts of who does how much. Of 500
/// tenants the first has 15 % of the objects and the first ten have 43 %; of 20 applications the first has 28 %.
struct Zipf {
    /// Sum of the shares up to each rank.
    sums: Vec<f64>,
}

impl Zipf {
    fn new(ranks: u64) -> Self {
        let sums = (1..=ranks).scan(0.0, |sum, rank| {
            *sum += 1.0 / rank as f64;
            Some(*sum)
        });
        Self { sums: sums.collect() }
    }

    /// Chooses a rank, from 0.
    fn choose(&self, rng: &mut fastrand::Rng) -> usize {
        let at = rng.f64() * self.sums.last().copied().unwrap_or_default();
        self.sums.partition_point(|sum| *sum <= at)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn size(plan: &Plan, pick: &Pick) -> usize {
        match plan.sizes[pick.body] {
            Size::Plain(size) | Size::Stored(size) => size,
        }
    }

    #[test]
    fn sizes_are_log_normal_and_capped() {
        for objects in [1_000, 20_000] {
            let plan = plan(objects, 10, 1);
            assert!(plan.sizes.len() <= 59);
            let mut sizes: Vec<_> = plan.picks.iter().map(|pick| size(&plan, pick)).collect();
            sizes.sort_unstable();
            assert_eq!(sizes.len() as u64, objects);
            assert_eq!(sizes[sizes.len() / 2], 40_000, "the median");
            let large = sizes.iter().filter(|size| **size > 5_000_000).count() as f64 / objects as f64;
            assert!((0.0095..0.0115).contains(&large), "{large} above 5 MB");
            let mean = sizes.iter().sum::<usize>() as f64 / objects as f64;
            assert!((300e3..320e3).contains(&mean), "{mean}");
            assert_eq!((sizes[0], sizes.last()), (1_000, Some(&20_000_000)));
        }
    }

    #[test]
    fn the_cap_takes_a_tenth_of_the_json() {
        let sum = |sizes: Vec<(f64, f64)>| sizes.iter().map(|(size, share)| size * share).sum::<f64>();
        let (capped, all) = (sum(sizes()), sum(points().collect()));
        assert!((0.09..0.11).contains(&(1.0 - capped / all)), "{capped} of {all}");
        let larger: f64 = points().filter(|(size, _)| *size > LARGEST).map(|(_, share)| share).sum();
        assert!((0.0014..0.0016).contains(&larger), "{larger} of the objects");
        let bodies: f64 = sizes().iter().map(|(size, _)| size).sum();
        assert!((125e6..131e6).contains(&bodies), "{bodies} bytes of JSON");
    }

    #[test]
    fn few_tenants_and_applications_have_most_objects() {
        let plan = plan(20_000, TENANTS, 1);
        let share =
            |of: &dyn Fn(&Pick) -> bool| plan.picks.iter().filter(|pick| of(pick)).count() as f64 / 20e3;
        let first = share(&|pick| pick.tenant == 0);
        assert!((0.14..0.155).contains(&first), "{first}");
        let ten = share(&|pick| pick.tenant < 10);
        assert!((0.42..0.445).contains(&ten), "{ten}");
        let application = share(&|pick| pick.application == 0);
        assert!((0.27..0.29).contains(&application), "{application}");
        assert!(plan.picks.iter().all(|pick| pick.application < APPLICATIONS && pick.pod < PODS));
        let tenants: BTreeSet<_> = plan.picks.iter().map(|pick| pick.tenant).collect();
        assert!(tenants.len() > 490 && tenants.last() < Some(&500), "{} tenants", tenants.len());
        assert!((5_000..12_000).contains(&plan.streams()), "{} streams", plan.streams());
    }

    #[test]
    fn the_seed_decides_the_order() {
        let order = |seed| plan(1_000, 10, seed).picks;
        assert!(order(1) == order(1) && order(1) != order(2));
        let sizes = |seed| order(seed).iter().map(|pick| pick.body).collect::<Vec<_>>();
        assert!(!sizes(1).is_sorted() && sizes(1) != sizes(2));
    }
}
