//! Loss curve of a run, downsampled as it grows: a run of any length has a bounded number of points, and minima and maxima survive.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Maximum number of points of a curve, whatever the length of the run.
pub const MAX_LOSS_POINTS: usize = 2000;

/// Each bucket has two points; the first and the last batch of the run have one each.
const MAX_BUCKETS: usize = (MAX_LOSS_POINTS - 2) / 2;

/// Point of a loss curve: the loss of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LossPoint {
    /// Global batch index: number of batches trained in the run including this one, from 1. (Not a step of the training plan.)
    pub step: u64,
    /// Number of the stage in which the batch was trained, from 1.
    pub stage: u32,
    /// Mean cross-entropy of the batch, in nats.
    pub loss: f64,
}

/// Downsampled loss curve. Batches fall into buckets of equal width, each of which keeps its lowest and its highest point. When there
/// are too many buckets, neighbours are merged and the width doubles, so that the amortised cost of a batch is constant.
///
/// In this module, a step is a global batch index.
#[derive(Clone, Debug)]
pub struct LossCurve {
    steps: u64,
    width: u64,
    buckets: Vec<Bucket>,
    first: Option<LossPoint>,
    last: Option<LossPoint>,
}

/// The lowest and the highest point of a bucket; the earlier one of equal losses.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    low: LossPoint,
    high: LossPoint,
}

impl LossCurve {
    /// An empty curve.
    pub fn new() -> Self {
        Self { steps: 0, width: 1, buckets: Vec::new(), first: None, last: None }
    }

    /// Restores a curve from the stored `points` of its first `steps` batches, in order.
    pub fn restore(points: &[LossPoint], steps: u64) -> Self {
        let mut curve = Self::new();
        points.iter().for_each(|point| curve.insert(*point));
        curve.steps = steps;
        curve
    }

    /// Adds the loss of the next batch and returns its step.
    pub fn push(&mut self, stage: u32, loss: f64) -> u64 {
        self.steps += 1;
        self.insert(LossPoint { step: self.steps, stage, loss });
        self.steps
    }

    /// The number of batches so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The points in order. Points only ever disappear: a later curve has no point up to step `n` that it did not have at step `n`.
    pub fn points(&self) -> Vec<LossPoint> {
        let extremes = self.buckets.iter().flat_map(|bucket| [bucket.low, bucket.high]);
        let mut points: Vec<_> = self.first.into_iter().chain(extremes).chain(self.last).collect();
        points.sort_by_key(|point| point.step);
        points.dedup_by_key(|point| point.step);
        points
    }

    fn insert(&mut self, point: LossPoint) {
        while bucket_index(point, self.width) >= MAX_BUCKETS as u64 {
            self.merge();
        }
        self.first.get_or_insert(point);
        self.last = Some(point);
        match self.buckets.last_mut() {
            Some(bucket) if bucket_index(bucket.low, self.width) == bucket_index(point, self.width) => {
                bucket.add(point)
            }
            _ => self.buckets.push(Bucket { low: point, high: point }),
        }
    }

    /// Doubles the bucket width and merges neighbouring buckets.
    fn merge(&mut self) {
        self.width *= 2;
        self.buckets.dedup_by(|later, earlier| {
            let same = bucket_index(later.low, self.width) == bucket_index(earlier.low, self.width);
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

/// The index of the bucket of a point.
fn bucket_index(point: LossPoint, width: u64) -> u64 {
    (point.step - 1) / width
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A falling, noisy loss without repeated values.
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
    fn a_curve_of_any_length_keeps_ends_extremes_and_order_within_the_limit() {
        for steps in [1, 2, 999, 1000, 1999, 2000, 2001, 50_000, 1_000_003] {
            let curve = curve(steps);
            let points = curve.points();
            assert!(points.len() <= MAX_LOSS_POINTS, "{steps}: {}", points.len());
            assert!(points.iter().all(|point| point.loss == loss(point.step)), "{steps}: a point that was not pushed");
            assert!(points.is_sorted_by(|a, b| a.step < b.step), "{steps}");
            assert_eq!((points[0].step, points[points.len() - 1].step, curve.steps()), (1, steps, steps));
            let extreme = |pick: fn(f64, f64) -> f64, losses: &mut dyn Iterator<Item = f64>| losses.reduce(pick);
            for pick in [f64::min, f64::max] {
                let (all, points) = (&mut (1..=steps).map(loss), &mut points.iter().map(|point| point.loss));
                assert_eq!(extreme(pick, all), extreme(pick, points), "{steps}");
            }
        }
    }

    #[test]
    fn a_long_curve_keeps_its_resolution_in_bounded_memory() {
        let curve = curve(50_000);
        assert!(curve.points().len() > MAX_LOSS_POINTS / 4, "{}", curve.points().len());
        let steps: Vec<u64> = curve.points().iter().map(|point| point.step).collect();
        let widest = steps.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(widest < 2 * 64, "50,000 steps in 999 buckets of 64: a gap of {widest}");
        assert!(curve.buckets.capacity() <= 2 * MAX_BUCKETS, "{}", curve.buckets.capacity());
    }

    #[test]
    fn a_spike_of_one_batch_survives_downsampling() {
        let mut curve = LossCurve::new();
        for step in 1..=100_000 {
            curve.push(1, if step == 777 { 50.0 } else { 1.0 });
        }
        assert!(curve.points().contains(&LossPoint { step: 777, stage: 1, loss: 50.0 }));
    }

    #[test]
    fn a_restored_curve_continues_like_an_uninterrupted_one() {
        for stop in [1, 500, 1500, 40_000] {
            let mut restored = LossCurve::restore(&curve(stop).points(), stop);
            (stop + 1..=50_000).for_each(|step| assert_eq!(restored.push(1, loss(step)), step));
            let (points, whole) = (restored.points(), curve(50_000).points());
            // The last point before the interruption may be kept in addition.
            assert!(whole.iter().all(|point| points.contains(point)), "{stop}");
            assert!(points.len() <= MAX_LOSS_POINTS && points.is_sorted_by(|a, b| a.step < b.step), "{stop}");
        }
    }

    #[test]
    fn later_batches_never_add_earlier_points() {
        let mut curve = curve(3000);
        let before = curve.points();
        for step in 3001..=9000 {
            curve.push(1, loss(step));
        }
        assert!(curve.points().iter().filter(|point| point.step <= 3000).all(|point| before.contains(point)));
    }

    #[test]
    fn a_truncated_curve_continues_after_the_cut_even_without_a_point_there() {
        let mut points = curve(50_000).points();
        points.retain(|point| point.step <= 20_001);
        let mut cut = LossCurve::restore(&points, 20_001);
        assert_eq!(cut.push(2, 0.5), 20_002);
        assert_eq!(cut.points().last().unwrap(), &LossPoint { step: 20_002, stage: 2, loss: 0.5 });
        assert!(LossCurve::restore(&[], 7).points().is_empty());
    }
}
