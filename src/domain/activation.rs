//! Where in an image the score of a class came from, by a network's own account.

use serde::Serialize;
use utoipa::ToSchema;

/// A coarse grid over a whole image.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ActivationMap {
    /// Cells from top to bottom.
    pub rows: usize,
    /// Cells from left to right.
    pub columns: usize,
    /// Row by row, 0 to 1 with 1 at the strongest; all 0 where nothing speaks for the class.
    pub values: Vec<f32>,
}

impl ActivationMap {
    /// Scales `values`, `rows * columns` of them and none negative, so that the largest becomes 1. What is not a number becomes 0.
    pub fn normalised(rows: usize, columns: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * columns, "a value for each cell");
        let largest = values.iter().copied().fold(0.0, f32::max);
        let share = |value: &f32| if largest > 0.0 { (value / largest).clamp(0.0, 1.0) } else { 0.0 };
        let values = values.iter().map(|value| if value.is_nan() { 0.0 } else { share(value) }).collect();
        Self { rows, columns, values }
    }

    /// Between the centres of the cells, linearly; `down` and `right` are shares of the image's height and width, 0 to 1.
    pub fn sample(&self, down: f32, right: f32) -> f32 {
        let (top, bottom, below) = between(down, self.rows);
        let (left, right, beside) = between(right, self.columns);
        let row = |row: usize| {
            let cell = |column: usize| self.values[row * self.columns + column];
            cell(left) + (cell(right) - cell(left)) * beside
        };
        row(top) + (row(bottom) - row(top)) * below
    }
}

/// The cells whose centres are before and behind a place, and how far it is from the one to the other.
fn between(share: f32, cells: usize) -> (usize, usize, f32) {
    let place = (share * cells as f32 - 0.5).clamp(0.0, (cells - 1) as f32);
    let before = place as usize;
    (before, (before + 1).min(cells - 1), place - before as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_is_one_and_nothing_stays_nothing() {
        assert_eq!(ActivationMap::normalised(1, 4, &[0.0, 1.0, 4.0, f32::NAN]).values, [0.0, 0.25, 1.0, 0.0]);
        assert_eq!(ActivationMap::normalised(2, 1, &[0.0; 2]).values, [0.0; 2]);
    }

    #[test]
    fn between_the_centres_it_is_linear_and_beyond_them_flat() {
        let map = ActivationMap { rows: 2, columns: 2, values: vec![0.0, 1.0, 0.5, 0.5] };
        for (down, right, expected) in [
            (0.25, 0.25, 0.0),
            (0.25, 0.75, 1.0),
            (0.25, 0.5, 0.5),
            (0.0, 0.0, 0.0),
            (0.0, 1.0, 1.0),
            (0.5, 0.75, 0.75),
        ] {
            assert!((map.sample(down, right) - expected).abs() < 1e-6, "{down}, {right}");
        }
        assert_eq!(ActivationMap { rows: 1, columns: 1, values: vec![0.3] }.sample(0.9, 0.1), 0.3);
    }
}
