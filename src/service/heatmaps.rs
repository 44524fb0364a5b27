//! Heat maps of the latest explained predictions, in memory only.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    domain::{ActivationMap, PredictionId},
    imaging::{GreyImage, overlay_png},
};

/// Maximum number of explanations in memory; a new one evicts the oldest.
const MAX_HEATMAPS: usize = 128;

/// Longest side of the image below an overlay, in pixels: 128 of them take at most 32 MiB.
pub(super) const HEATMAP_SIDE: u32 = 512;

/// Explanations of the latest predictions; cheap to clone.
///
/// Predictions are recorded, their images are not. An overlay needs the image, so it exists only while it is among the latest.
#[derive(Clone, Debug, Default)]
pub struct Heatmaps(Arc<Mutex<Entries>>);

/// Oldest first.
type Entries = VecDeque<(PredictionId, Arc<Explained>)>;

/// An image of at most `HEATMAP_SIDE` pixels a side and its activation map.
#[derive(Debug)]
pub struct Explained {
    pub(super) image: GreyImage,
    pub(super) activation: ActivationMap,
}

impl Explained {
    /// The activation map over the image, as PNG.
    pub fn png(&self) -> Vec<u8> {
        overlay_png(&self.image, &self.activation)
    }
}

impl Heatmaps {
    pub(super) fn insert(&self, id: PredictionId, explained: Explained) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == MAX_HEATMAPS {
            entries.pop_front();
        }
        entries.push_back((id, Arc::new(explained)));
    }

    /// The explanation of a prediction, while it is stored.
    pub fn get(&self, id: PredictionId) -> Option<Arc<Explained>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|(of, _)| *of == id).map(|(_, explained)| Arc::clone(explained))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_heat_map_evicts_the_oldest() {
        let heatmaps = Heatmaps::default();
        let ids: Vec<PredictionId> = (0..=MAX_HEATMAPS).map(|_| PredictionId::new()).collect();
        for id in &ids {
            let image = GreyImage { width: 1, height: 1, pixels: vec![0] };
            let activation = ActivationMap { rows: 1, columns: 1, values: vec![1.0] };
            heatmaps.insert(*id, Explained { image, activation });
        }
        assert!(heatmaps.get(ids[0]).is_none());
        assert!(ids[1..].iter().all(|id| heatmaps.get(*id).is_some()));
    }
}
