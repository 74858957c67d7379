//! Processor cores and the work that waits for them.

use std::collections::VecDeque;

use crate::clock::Time;

/// Cores that take turns with the work of several tasks: a task that needs longer than a slice goes back behind the others.
#[derive(Debug)]
pub(crate) struct Cpu<T> {
    cores: usize,
    busy: usize,
    slice: Time,
    waiting: VecDeque<(T, Time)>,
    /// Processor time that was used.
    pub(crate) used: Time,
}

/// What a core does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slice<T> {
    /// The task.
    pub(crate) task: T,
    /// How long the core works on the task now.
    pub(crate) length: Time,
    /// What the task still needs after the slice.
    pub(crate) left: Time,
}

impl<T> Cpu<T> {
    pub(crate) fn new(cores: usize, slice: Time) -> Self {
        Self { cores, busy: 0, slice, waiting: VecDeque::new(), used: 0 }
    }

    /// Adds work. Returns a slice if a core is free. The caller reports the slice's end by [`Cpu::ended`].
    pub(crate) fn add(&mut self, task: T, work: Time) -> Option<Slice<T>> {
        if self.busy == self.cores {
            self.waiting.push_back((task, work));
            return None;
        }
        self.busy += 1;
        Some(self.cut(task, work))
    }

    /// Ends a slice. Returns the next slice of the same core. A task with work left waits behind the others.
    pub(crate) fn ended(&mut self, task: T, left: Time) -> Option<Slice<T>> {
        if left > 0 {
            self.waiting.push_back((task, left));
        }
        match self.waiting.pop_front() {
            Some((task, work)) => Some(self.cut(task, work)),
            None => {
                self.busy -= 1;
                None
            }
        }
    }

    fn cut(&mut self, task: T, work: Time) -> Slice<T> {
        let length = work.min(self.slice);
        self.used += length;
        Slice { task, length, left: work - length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chance::Chance,
        clock::{Clock, MILLISECOND, SECOND, in_seconds, seconds},
    };

    /// Mean wait in seconds of tasks that arrive at random and need `service` each, and the mean number of tasks.
    fn simulated(cores: usize, rate: f64, service: impl Fn(&mut Chance) -> Time) -> (f64, f64) {
        #[derive(Clone, Copy)]
        enum Event {
            Arrive,
            End(Time),
        }
        let (mut clock, mut chance, mut cpu) = (Clock::new(), Chance::new(7), Cpu::new(cores, Time::MAX));
        let end = seconds(300_000.0 / rate);
        let (mut waited, mut served, mut present, mut area, mut last) = (0.0, 0.0_f64, 0.0, 0.0, 0);
        clock.at(0, Event::Arrive);
        while let Some(event) = clock.next_before(end) {
            let now = clock.now();
            area += present * in_seconds(now - last);
            last = now;
            let slice = match event {
                Event::Arrive => {
                    clock.after(chance.interval(rate), Event::Arrive);
                    present += 1.0;
                    cpu.add(now, service(&mut chance))
                }
                Event::End(left) => {
                    present -= 1.0;
                    cpu.ended(0, left)
                }
            };
            if let Some(Slice { task: arrived, length, left }) = slice {
                waited += in_seconds(now - arrived);
                served += 1.0;
                clock.after(length, Event::End(left));
            }
        }
        (waited / served, area / in_seconds(end))
    }

    fn near(found: f64, expected: f64, what: &str) {
        assert!((found / expected - 1.0).abs() < 0.04, "{what}: {found} instead of {expected}");
    }

    /// Erlang's formula for the mean wait in an M/M/c queue.
    fn erlang(cores: u32, rate: f64, mean: f64) -> f64 {
        let load = rate * mean;
        let (mut sum, mut term) = (0.0, 1.0);
        for k in 0..cores {
            sum += term;
            term *= load / f64::from(k + 1);
        }
        let spare = f64::from(cores) - load;
        let busy = term * f64::from(cores) / spare;
        busy / (sum + busy) * mean / spare
    }

    #[test]
    fn waits_are_those_of_m_d_1() {
        for load in [0.3, 0.6, 0.9] {
            let (wait, _) = simulated(1, load / 0.01, |_| 10 * MILLISECOND);
            near(wait, load * 0.01 / (2.0 * (1.0 - load)), "Pollaczek and Khinchine");
        }
    }

    #[test]
    fn waits_are_those_of_m_m_c() {
        for cores in [1, 2, 8] {
            let rate = 0.8 * f64::from(cores) / 0.01;
            let (wait, _) = simulated(cores as usize, rate, |chance| chance.interval(100.0));
            near(wait, erlang(cores, rate, 0.01), "Erlang");
        }
    }

    #[test]
    fn waits_are_those_of_m_d_c() {
        // Half of M/M/c's wait, corrected by the approximation of Cosmetatos, which is within 1 % here.
        let (cores, load) = (4_u32, 0.8);
        let c = f64::from(cores);
        let rate = load * c / 0.01;
        let correction = 1.0 + (1.0 - load) * (c - 1.0) * ((4.0 + 5.0 * c).sqrt() - 2.0) / (16.0 * load * c);
        let (wait, _) = simulated(4, rate, |_| 10 * MILLISECOND);
        near(wait, erlang(cores, rate, 0.01) / 2.0 * correction, "Cosmetatos");
    }

    #[test]
    fn the_number_of_tasks_obeys_littles_law() {
        let rate = 160.0;
        let (wait, present) = simulated(2, rate, |_| 10 * MILLISECOND);
        near(present, rate * (wait + 0.01), "Little");
    }

    #[test]
    fn a_long_task_lets_others_pass_after_each_slice() {
        let mut cpu = Cpu::new(1, 10);
        assert_eq!(cpu.add('a', 25), Some(Slice { task: 'a', length: 10, left: 15 }));
        assert_eq!(cpu.add('b', 5), None);
        assert_eq!(cpu.ended('a', 15), Some(Slice { task: 'b', length: 5, left: 0 }));
        assert_eq!(cpu.ended('b', 0), Some(Slice { task: 'a', length: 10, left: 5 }));
        assert_eq!(cpu.ended('a', 5), Some(Slice { task: 'a', length: 5, left: 0 }));
        assert_eq!((cpu.ended('a', 0), cpu.used), (None, 30));
        assert_eq!(cpu.add('c', SECOND).map(|slice| slice.length), Some(10), "the core is free again");
    }
}
