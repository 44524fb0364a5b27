//! What tiles of products read: columns as they are, or images with zeros around them.

use super::{around::Around, columns::Columns, simd::Lane};

/// Rows of a product's left side, or of a weight's gradient.
#[derive(Clone, Copy)]
pub(super) enum Reading<'a> {
    /// What each pixel looks at, side by side.
    Columns(Columns<'a>),
    /// What nine places of a kernel look at.
    Around(Around<'a>),
}

impl<'a> Reading<'a> {
    pub(super) fn new(columns: Columns<'a>) -> Self {
        // With an odd number of lanes the places of the kernel would share pairs.
        let around = columns.around().filter(|around| around.images.channel_lanes().is_multiple_of(2));
        around.map_or(Self::Columns(columns), Self::Around)
    }

    /// Lanes that are gathered.
    pub(super) fn lanes(&self) -> usize {
        match self {
            Self::Columns(columns) => columns.lanes(),
            Self::Around(around) => around.images.channel_lanes(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Columns(columns) => columns.pixels(),
            Self::Around(around) => around.outputs(),
        }
    }

    /// Where the rows begin that it looks at: at nine places, or as they lie.
    pub(super) fn places(&self) -> Vec<usize> {
        match self {
            Self::Columns(_) => vec![0],
            Self::Around(around) => around.places(),
        }
    }

    /// Rows before the first of a block, and as many after the last, that it looks at.
    pub(super) fn halo(&self) -> usize {
        match self {
            Self::Columns(_) => 0,
            Self::Around(around) => around.halo(),
        }
    }

    /// One lane of the rows from `first` on, the halo of the first one before it.
    pub(super) fn gather(&self, lane: usize, first: usize, gathered: &mut [Lane]) {
        match self {
            Self::Columns(columns) => columns.gather(lane, first, gathered),
            Self::Around(around) => around.gather(lane, first, gathered),
        }
    }

    /// Which of the output's pixels a row becomes, or none, and how many from it on are the next ones, or none either.
    pub(super) fn pixels_from(&self, row: usize) -> (Option<usize>, usize) {
        match self {
            Self::Columns(columns) => (Some(row), columns.pixels() - row),
            Self::Around(around) => around.pixels_from(row),
        }
    }
}
