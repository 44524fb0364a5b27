//! The explanations that are kept: the last few, in memory, and never on disk.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    domain::{ActivationMap, PredictionId},
    imaging::{GreyImage, overlay_png},
};

/// How many explanations are kept. One more pushes the oldest out.
const HEATMAPS_KEPT: usize = 128;

/// Longest side of the image that an explanation is drawn over, in pixels: 128 of them take 32 MiB at most.
pub(super) const HEATMAP_SIDE: u32 = 512;

/// The explanations that `GET /v1/predictions/{id}/heatmap` draws; cheap to clone.
///
/// Predictions are recorded, their images are not. An overlay needs the image, so it lives as long as it is among the last ones.
#[derive(Clone, Debug, Default)]
pub struct Heatmaps(Arc<Mutex<Kept>>);

/// From the oldest to the newest.
type Kept = VecDeque<(PredictionId, Arc<Explained>)>;

/// An image, at most [`HEATMAP_SIDE`] long, and what of it moved the score.
#[derive(Debug)]
pub(super) struct Explained {
    pub(super) image: GreyImage,
    pub(super) activation: ActivationMap,
}

impl Explained {
    /// The one laid over the other.
    pub(super) fn png(&self) -> Vec<u8> {
        overlay_png(&self.image, &self.activation)
    }
}

impl Heatmaps {
    pub(super) fn keep(&self, id: PredictionId, explained: Explained) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == HEATMAPS_KEPT {
            kept.pop_front();
        }
        kept.push_back((id, Arc::new(explained)));
    }

    pub(super) fn get(&self, id: PredictionId) -> Option<Arc<Explained>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(of, _)| *of == id).map(|(_, explained)| Arc::clone(explained))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_there_is_no_room() {
        let heatmaps = Heatmaps::default();
        let ids: Vec<PredictionId> = (0..=HEATMAPS_KEPT).map(|_| PredictionId::new()).collect();
        for id in &ids {
            let image = GreyImage { width: 1, height: 1, pixels: vec![0] };
            let activation = ActivationMap { rows: 1, columns: 1, values: vec![1.0] };
            heatmaps.keep(*id, Explained { image, activation });
        }
        assert!(heatmaps.get(ids[0]).is_none());
        assert!(ids[1..].iter().all(|id| heatmaps.get(*id).is_some()));
    }
}
