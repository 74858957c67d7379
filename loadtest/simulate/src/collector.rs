//! The customers' pods, and the objects that the collectors write for them.
//!
//! A pod's object ends when it is full or [`FLUSH_AFTER`] old. The pods are many and their timers independent, so their
//! objects together arrive as a Poisson process: no pod needs a timer of its own. Pods with the same share of all pods form a
//! class, which has a rate of bytes.

use crate::{
    chance::{Chance, Weighted, normal_distribution, normal_quantile},
    clock::{Time, in_seconds, seconds},
    settings::{FLUSH_AFTER, LARGEST_OBJECT, Load, MEDIAN_OBJECT, OBJECT_SPREAD, POD_LIFE},
};

/// Number of classes of pods.
const CLASSES: usize = 1024;

/// Writes objects.
#[derive(Debug)]
pub(crate) struct Collector {
    tenants: Weighted,
    classes: Vec<Class>,
    /// Chooses a class by its rate of objects.
    by_objects: Weighted,
    /// Objects per second of all pods.
    pub(crate) rate: f64,
}

/// Pods that write at the same rate.
#[derive(Clone, Copy, Debug)]
struct Class {
    /// Time between two objects of a pod.
    interval: Time,
    /// JSON of an object in bytes.
    bytes: f64,
}

impl Class {
    /// Pods that write so many bytes of JSON per second.
    fn writing(rate: f64) -> Self {
        let full_after = LARGEST_OBJECT / rate;
        let interval = full_after.min(in_seconds(FLUSH_AFTER));
        Self { interval: seconds(interval), bytes: rate * interval }
    }
}

/// An object that a collector has just closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) tenant: usize,
    pub(crate) bytes: f64,
    /// Whether no earlier object went into the same log stream.
    pub(crate) needs_stream: bool,
}

impl Collector {
    /// The pods of `load`, writing at `factor` times their usual rate.
    pub(crate) fn new(load: &Load, factor: f64) -> Self {
        let sizes = mean_sizes();
        let classes: Vec<Class> =
            sizes.iter().map(|size| Class::writing(factor * size / in_seconds(FLUSH_AFTER))).collect();
        let rates: Vec<f64> = classes.iter().map(|class| 1.0 / in_seconds(class.interval)).collect();
        let pods = (load.clusters * load.pods_per_cluster) as f64;
        Self {
            tenants: Weighted::new(&shares(load)),
            by_objects: Weighted::new(&rates),
            rate: pods * rates.iter().sum::<f64>() / CLASSES as f64,
            classes,
        }
    }

    /// The next object, `since_midnight` after the date changed; `None` if streams have no date.
    pub(crate) fn write(&self, since_midnight: Option<Time>, chance: &mut Chance) -> Written {
        let Class { interval, bytes } = self.classes[self.by_objects.choose(chance)];
        let of_new_pod = chance.fraction() < interval as f64 / POD_LIFE as f64;
        Written {
            tenant: self.tenants.choose(chance),
            bytes,
            needs_stream: of_new_pod || since_midnight.is_some_and(|since| since < interval),
        }
    }

    /// Mean size of an object in bytes.
    pub(crate) fn mean_bytes(&self) -> f64 {
        let rates = self.classes.iter().map(|class| 1.0 / in_seconds(class.interval));
        let (bytes, objects) =
            self.classes.iter().zip(rates).fold((0.0, 0.0), |(bytes, objects), (class, rate)| {
                (bytes + rate * class.bytes, objects + rate)
            });
        bytes / objects
    }
}

/// Mean bytes that the pods of each class write in [`FLUSH_AFTER`]. Each class has the same number of pods.
fn mean_sizes() -> Vec<f64> {
    let end = |class: usize| normal_quantile(class as f64 / CLASSES as f64);
    // Part of all bytes that the pods below the quantile `z` write.
    let part = |z: f64| normal_distribution(z - OBJECT_SPREAD);
    let mean = MEDIAN_OBJECT * (OBJECT_SPREAD.powi(2) / 2.0).exp();
    (0..CLASSES).map(|class| mean * CLASSES as f64 * (part(end(class + 1)) - part(end(class)))).collect()
}

/// Each tenant's share of all pods, the largest first.
pub(crate) fn shares(load: &Load) -> Vec<f64> {
    let weights: Vec<f64> = (1..=load.tenants).map(|rank| (rank as f64).powf(-load.skew)).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{room::units, settings::UNITS};

    fn load() -> Load {
        Load::of(1000)
    }

    /// Pod by pod: every pod has a timer of its own.
    fn pod_by_pod(pods: usize, hours: f64) -> (f64, f64) {
        let mut chance = Chance::new(3);
        let (mut objects, mut bytes) = (0.0, 0.0);
        for pod in 0..pods {
            let size =
                MEDIAN_OBJECT * (OBJECT_SPREAD * normal_quantile((pod as f64 + 0.5) / pods as f64)).exp();
            let class = Class::writing(size / in_seconds(FLUSH_AFTER));
            let mut at = chance.fraction() * in_seconds(class.interval);
            while at < hours * 3600.0 {
                (objects, bytes) = (objects + 1.0, bytes + class.bytes);
                at += in_seconds(class.interval);
            }
        }
        (objects / hours / 3600.0 / pods as f64, bytes / objects)
    }

    #[test]
    fn the_objects_are_those_of_pods_with_timers() {
        let collector = Collector::new(&load(), 1.0);
        let (rate, bytes) = pod_by_pod(60_000, 1.0);
        let per_pod = collector.rate / 200_000.0;
        assert!(
            (rate / per_pod - 1.0).abs() < 0.01,
            "{rate} objects per pod and second instead of {per_pod}"
        );
        let mean = collector.mean_bytes();
        assert!((bytes / mean - 1.0).abs() < 0.05, "{bytes} bytes instead of {mean}");
    }

    #[test]
    fn sizes_are_those_of_the_mix() {
        let (collector, mut chance) = (Collector::new(&load(), 1.0), Chance::new(1));
        let mut sizes: Vec<f64> = (0..200_000).map(|_| collector.write(None, &mut chance).bytes).collect();
        sizes.sort_by(f64::total_cmp);
        assert!((sizes[100_000] / MEDIAN_OBJECT - 1.0).abs() < 0.05, "{}", sizes[100_000]);
        let large = sizes.iter().filter(|size| **size > 5e6).count();
        assert!((1900..4500).contains(&large), "1 % of the pods, which write more often: {large}");
        assert!(sizes.iter().all(|size| *size <= LARGEST_OBJECT + 1.0));
    }

    /// docs/scaling.md names these figures.
    #[test]
    fn most_objects_need_an_eighth_of_a_slot() {
        let (collector, mut chance) = (Collector::new(&load(), 1.0), Chance::new(1));
        let units: Vec<usize> =
            (0..200_000).map(|_| units(collector.write(None, &mut chance).bytes)).collect();
        let per_cent = |of: usize| units.iter().filter(|units| **units == of).count() as f64 / 2000.0;
        let found = [1, UNITS].map(|of| per_cent(of).round());
        assert_eq!(found, [77.0, 5.0]);
    }

    #[test]
    fn ten_times_the_logs_are_larger_objects_and_few_more() {
        let (usual, burst) = (Collector::new(&load(), 1.0), Collector::new(&load(), 10.0));
        assert!(burst.rate < 2.0 * usual.rate, "{} instead of {}", burst.rate, usual.rate);
        let bytes = burst.rate * burst.mean_bytes() / usual.rate / usual.mean_bytes();
        assert!((bytes - 10.0).abs() < 0.01, "{bytes}");
    }

    #[test]
    fn every_pod_needs_one_stream_a_day_and_new_pods_one_more() {
        // Ten times the logs, so that many pods close several objects in 300 s.
        let (collector, mut chance) = (Collector::new(&load(), 10.0), Chance::new(1));
        let pods = 200_000.0;
        // Objects of the first ten minutes after midnight, without those of new pods.
        let (mut at, mut streams) = (0.0, 0.0);
        while at < 600.0 {
            at += in_seconds(chance.interval(collector.rate));
            streams += f64::from(u8::from(collector.write(Some(seconds(at)), &mut chance).needs_stream));
        }
        let new = pods * 600.0 / in_seconds(POD_LIFE);
        assert!((streams / (pods + new) - 1.0).abs() < 0.02, "{streams} streams of {pods} pods");
    }

    #[test]
    fn tenants_have_their_shares() {
        let (collector, shares, mut chance) = (Collector::new(&load(), 1.0), shares(&load()), Chance::new(1));
        let first = (0..100_000).filter(|_| collector.write(None, &mut chance).tenant == 0).count();
        assert!((first as f64 / 1e5 / shares[0] - 1.0).abs() < 0.05, "{first} and {}", shares[0]);
        assert!((0.07..0.09).contains(&shares[0]), "as `Load::skew` says: {}", shares[0]);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
