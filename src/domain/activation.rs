//! Class activation maps.

use serde::Serialize;
use utoipa::ToSchema;

/// Class activation map: a coarse grid over the whole image that shows which regions raised the score of a class.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ActivationMap {
    /// Number of rows, from top to bottom.
    pub rows: usize,
    /// Number of columns, from left to right.
    pub columns: usize,
    /// Cells in row-major order, 0 to 1. The strongest cell is 1; all cells are 0 if no region raises the score.
    pub values: Vec<f32>,
}

impl ActivationMap {
    /// Divides the `rows * columns` non-negative `values` by their maximum. NaN becomes 0.
    ///
    /// # Panics
    /// If the number of values is not `rows * columns`.
    pub fn normalised(rows: usize, columns: usize, values: &[f32]) -> Self {
        assert_eq!(values.len(), rows * columns, "one value per cell");
        let largest = values.iter().copied().fold(0.0, f32::max);
        let scaled = |value: &f32| if largest > 0.0 { (value / largest).clamp(0.0, 1.0) } else { 0.0 };
        let values = values.iter().map(|value| if value.is_nan() { 0.0 } else { scaled(value) }).collect();
        Self { rows, columns, values }
    }

    /// Bilinear interpolation between cell centres, constant beyond the outermost centres. `down` and `right` are fractions of the image's
    /// height and width, 0 to 1.
    pub fn sample(&self, down: f32, right: f32) -> f32 {
        let (top, bottom, row_weight) = neighbours(down, self.rows);
        let (left, right, column_weight) = neighbours(right, self.columns);
        let row = |row: usize| {
            let cell = |column: usize| self.values[row * self.columns + column];
            cell(left) + (cell(right) - cell(left)) * column_weight
        };
        row(top) + (row(bottom) - row(top)) * row_weight
    }
}

/// The two cells whose centres enclose a position, and the interpolation weight of the second.
fn neighbours(fraction: f32, cells: usize) -> (usize, usize, f32) {
    let position = (fraction * cells as f32 - 0.5).clamp(0.0, (cells - 1) as f32);
    let first = position as usize;
    (first, (first + 1).min(cells - 1), position - first as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalising_makes_the_largest_value_one_and_keeps_zeros() {
        assert_eq!(ActivationMap::normalised(1, 4, &[0.0, 1.0, 4.0, f32::NAN]).values, [0.0, 0.25, 1.0, 0.0]);
        assert_eq!(ActivationMap::normalised(2, 1, &[0.0; 2]).values, [0.0; 2]);
    }

    #[test]
    fn sampling_interpolates_between_centres_and_is_constant_beyond_them() {
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
