//! Baseline of input statistics: the images that a model was trained on, as a reference for drift.

use super::Error;
use crate::{
    domain::{InputHistograms, ModelId},
    imaging,
    store::{self, Db},
};

/// Planes in memory at once.
const PAGE: u32 = 1000;

/// Input statistics of a model's training images: computed on the first call and stored, because the images may be deleted later. Empty
/// where none of them are known.
///
/// # Errors
/// When the database fails.
pub async fn input_baseline(db: &Db, model: ModelId) -> Result<InputHistograms, Error> {
    if let Some(known) = store::prediction_stats::baseline(db, model).await? {
        return Ok(known);
    }
    let (mut counts, mut after) = (InputHistograms::default(), String::new());
    loop {
        let (planes, last) = store::prediction_stats::training_thumbnails(db, model, &after, PAGE).await?;
        let Some(last) = last else { break };
        after = last;
        let count = move || {
            for of in planes {
                counts.record(&imaging::statistics_of_plane(&of.plane, of.width, of.height));
            }
            counts
        };
        counts = tokio::task::spawn_blocking(count).await?;
    }
    if counts.images() > 0 {
        store::prediction_stats::put_baseline(db, model, &counts).await?;
    }
    Ok(counts)
}
