//! The loss of a run's batches, thinned as it grows: a run of any length costs so many points, and its extremes stay.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most points that a curve keeps, however long the run.
pub const MAX_LOSS_POINTS: usize = 2000;

/// Two points each, beside the first and the last of the run.
const MOST_BUCKETS: usize = (MAX_LOSS_POINTS - 2) / 2;

/// The loss of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LossPoint {
    /// Batches trained in the run up to this one, from 1.
    pub step: u64,
    /// The stage it was trained in, from 1.
    pub stage: u32,
    /// Mean cross-entropy over the batch, in nats.
    pub loss: f64,
}

/// A run's losses in buckets of so many steps, of which each keeps its lowest and its highest point. When there would be
/// too many buckets they are joined two by two, so that a step costs the same however many came before it.
#[derive(Clone, Debug)]
pub struct LossCurve {
    steps: u64,
    width: u64,
    buckets: Vec<Bucket>,
    first: Option<LossPoint>,
    last: Option<LossPoint>,
}

/// Of equal points the earlier one is kept.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    low: LossPoint,
    high: LossPoint,
}

impl LossCurve {
    /// Of a run that has not trained yet.
    pub fn new() -> Self {
        Self { steps: 0, width: 1, buckets: Vec::new(), first: None, last: None }
    }

    /// Goes on from points that were kept of the first `steps` batches, in their order.
    pub fn restore(points: &[LossPoint], steps: u64) -> Self {
        let mut curve = Self::new();
        points.iter().for_each(|point| curve.insert(*point));
        curve.steps = steps;
        curve
    }

    /// Adds the next batch; how many there are now.
    pub fn push(&mut self, stage: u32, loss: f64) -> u64 {
        self.steps += 1;
        self.insert(LossPoint { step: self.steps, stage, loss });
        self.steps
    }

    /// Batches trained so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// What is kept, in order. Of the first `n` steps there is never a point that was not there after `n` steps.
    pub fn points(&self) -> Vec<LossPoint> {
        let extremes = self.buckets.iter().flat_map(|bucket| [bucket.low, bucket.high]);
        let mut points: Vec<_> = self.first.into_iter().chain(extremes).chain(self.last).collect();
        points.sort_by_key(|point| point.step);
        points.dedup_by_key(|point| point.step);
        points
    }

    fn insert(&mut self, point: LossPoint) {
        while place(point, self.width) >= MOST_BUCKETS as u64 {
            self.join();
        }
        self.first.get_or_insert(point);
        self.last = Some(point);
        match self.buckets.last_mut() {
            Some(bucket) if place(bucket.low, self.width) == place(point, self.width) => bucket.add(point),
            _ => self.buckets.push(Bucket { low: point, high: point }),
        }
    }

    /// Doubles the width.
    fn join(&mut self) {
        self.width *= 2;
        self.buckets.dedup_by(|later, earlier| {
            let same = place(later.low, self.width) == place(earlier.low, self.width);
            if same {
                earlier.add(later.low);
                earlier.add(later.high);
            }
            same
        });
    }
}

impl Default for LossCurve {
    fn default() -> Self {
        Self::new()
    }
}

impl Bucket {
    fn add(&mut self, point: LossPoint) {
        if point.loss < self.low.loss {
            self.low = point;
        }
        if point.loss > self.high.loss {
            self.high = point;
        }
    }
}

/// The bucket that a point belongs to.
fn place(point: LossPoint, width: u64) -> u64 {
    (point.step - 1) / width
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falls, and is restless; no two alike.
    fn loss(step: u64) -> f64 {
        let noise = (step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24);
        2.0 / (step as f64).sqrt() + noise
    }

    fn curve(steps: u64) -> LossCurve {
        let mut curve = LossCurve::new();
        (1..=steps).for_each(|step| assert_eq!(curve.push(1, loss(step)), step));
        curve
    }

    #[test]
    fn a_run_of_any_length_keeps_its_ends_its_extremes_and_its_order_in_2000_points() {
        for steps in [1, 2, 999, 1000, 1999, 2000, 2001, 50_000, 1_000_003] {
            let curve = curve(steps);
            let points = curve.points();
            assert!(points.len() <= MAX_LOSS_POINTS, "{steps}: {}", points.len());
            assert!(points.iter().all(|point| point.loss == loss(point.step)), "{steps}: a loss that never was");
            assert!(points.is_sorted_by(|a, b| a.step < b.step), "{steps}");
            assert_eq!((points[0].step, points[points.len() - 1].step, curve.steps()), (1, steps, steps));
            let extreme = |pick: fn(f64, f64) -> f64, losses: &mut dyn Iterator<Item = f64>| losses.reduce(pick);
            for pick in [f64::min, f64::max] {
                let (all, kept) = (&mut (1..=steps).map(loss), &mut points.iter().map(|point| point.loss));
                assert_eq!(extreme(pick, all), extreme(pick, kept), "{steps}");
            }
        }
    }

    #[test]
    fn a_long_run_is_still_drawn_finely_and_held_in_bounded_memory() {
        let curve = curve(50_000);
        assert!(curve.points().len() > MAX_LOSS_POINTS / 4, "{}", curve.points().len());
        let steps: Vec<u64> = curve.points().iter().map(|point| point.step).collect();
        let widest = steps.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest < 2 * 64, "50,000 steps in 999 buckets of 64: a gap of {widest}");
        assert!(curve.buckets.capacity() <= 2 * MOST_BUCKETS, "{}", curve.buckets.capacity());
    }

    #[test]
    fn a_spike_that_lasts_one_batch_is_never_thinned_away() {
        let mut curve = LossCurve::new();
        for step in 1..=100_000 {
            curve.push(1, if step == 777 { 50.0 } else { 1.0 });
        }
        assert!(curve.points().contains(&LossPoint { step: 777, stage: 1, loss: 50.0 }));
    }

    #[test]
    fn it_goes_on_from_what_was_kept_as_if_it_had_never_stopped() {
        for stop in [1, 500, 1500, 40_000] {
            let mut restored = LossCurve::restore(&curve(stop).points(), stop);
            (stop + 1..=50_000).for_each(|step| assert_eq!(restored.push(1, loss(step)), step));
            let (points, whole) = (restored.points(), curve(50_000).points());
            // The last point before the stop may have stayed; nothing else differs.
            assert!(whole.iter().all(|point| points.contains(point)), "{stop}");
            assert!(points.len() <= MAX_LOSS_POINTS && points.is_sorted_by(|a, b| a.step < b.step), "{stop}");
        }
    }

    #[test]
    fn what_is_kept_of_the_steps_before_only_becomes_less() {
        let mut curve = curve(3000);
        let before = curve.points();
        for step in 3001..=9000 {
            curve.push(1, loss(step));
        }
        assert!(curve.points().iter().filter(|point| point.step <= 3000).all(|point| before.contains(point)));
    }

    #[test]
    fn after_a_cut_the_next_batch_follows_the_cut_even_where_its_point_was_not_kept() {
        let mut points = curve(50_000).points();
        points.retain(|point| point.step <= 20_001);
        let mut cut = LossCurve::restore(&points, 20_001);
        assert_eq!(cut.push(2, 0.5), 20_002);
        assert_eq!(cut.points().last().unwrap(), &LossPoint { step: 20_002, stage: 2, loss: 0.5 });
        assert!(LossCurve::restore(&[], 7).points().is_empty());
    }
}
