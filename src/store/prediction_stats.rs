//! Hourly statistics of a model's predictions, and the baseline: statistics of its training images.

use std::collections::HashMap;

use jiff::{Timestamp, ToSpan, Unit};
use sqlx::SqliteConnection;

use super::{Db, StoreError, columns, predictions::ObservedPrediction};
use crate::domain::{InputHistograms, ModelId, PredictionStats};

/// Adds predictions to the hourly statistics of their models.
pub(super) async fn count_in(tx: &mut SqliteConnection, observed: &[ObservedPrediction]) -> Result<(), StoreError> {
    let mut fresh: HashMap<(ModelId, String), PredictionStats> = HashMap::new();
    for ObservedPrediction { prediction, milliseconds, image } in observed {
        let confidence = prediction.probabilities.get(&prediction.prediction).copied().unwrap_or_default();
        let counts = fresh.entry((prediction.model_id, hour(prediction.created_at)?)).or_default();
        counts.record(&prediction.prediction, confidence, *milliseconds, image);
    }
    for ((model, hour), counts) in fresh {
        add(tx, &model.to_string(), &hour, counts).await?;
    }
    Ok(())
}

async fn add(
    tx: &mut SqliteConnection,
    model: &str,
    hour: &str,
    mut counts: PredictionStats,
) -> Result<(), StoreError> {
    let before = sqlx::query_scalar!("select counts_json from live_hours where model_id = ? and hour = ?", model, hour)
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(before) = before {
        counts.merge(&columns::from_json("live_hours.counts_json", &before)?);
    }
    let counts = columns::to_json("live_hours.counts_json", &counts)?;
    sqlx::query!(
        "insert or replace into live_hours (model_id, hour, counts_json) values (?, ?, ?)",
        model,
        hour,
        counts
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Start of the hour of a time.
fn hour(at: Timestamp) -> Result<String, StoreError> {
    let begun = (at - 30.minutes()).round(Unit::Hour);
    Ok(columns::time(begun.map_err(|why| StoreError::Row(format!("live_hours.hour: {why}")))?))
}

/// Hourly statistics of a model that end after `since`, in order. Hours without predictions have none.
pub async fn hours(db: &Db, model: ModelId, since: Timestamp) -> Result<Vec<(Timestamp, PredictionStats)>, StoreError> {
    let (model, since) = (model.to_string(), columns::time(since - 1.hour()));
    let rows = sqlx::query!(
        "select hour, counts_json from live_hours where model_id = ? and hour > ? order by hour",
        model,
        since
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter()
        .map(|row| {
            let counts = columns::from_json("live_hours.counts_json", &row.counts_json)?;
            Ok((columns::parse("live_hours.hour", &row.hour)?, counts))
        })
        .collect()
}

/// Baseline of a model, if it was computed.
pub async fn baseline(db: &Db, model: ModelId) -> Result<Option<InputHistograms>, StoreError> {
    let model = model.to_string();
    let found = sqlx::query_scalar!("select inputs_json from baselines where model_id = ?", model)
        .fetch_optional(db.read())
        .await?;
    found.map(|inputs| columns::from_json("baselines.inputs_json", &inputs)).transpose()
}

/// Stores the baseline of a model. A model that was deleted meanwhile is ignored.
pub async fn put_baseline(db: &Db, model: ModelId, inputs: &InputHistograms) -> Result<(), StoreError> {
    let (model, inputs) = (model.to_string(), columns::to_json("baselines.inputs_json", inputs)?);
    sqlx::query!(
        "insert or replace into baselines (model_id, inputs_json) select id, ?2 from models where id = ?1",
        model,
        inputs
    )
    .execute(db.write()?)
    .await?;
    Ok(())
}

/// Thumbnail of a training image, with the size of the image.
pub struct TrainingThumbnail {
    /// [`crate::domain::FINGERPRINT_SIDE`] squared.
    pub plane: Vec<u8>,
    /// Width of the image, in pixels.
    pub width: u32,
    /// Height of the image, in pixels.
    pub height: u32,
}

/// A page of thumbnails of a model's training images, as far as these still exist, in order of their hashes; and the last hash, which is
/// the cursor of the next page.
pub async fn training_thumbnails(
    db: &Db,
    model: ModelId,
    after: &str,
    limit: u32,
) -> Result<(Vec<TrainingThumbnail>, Option<String>), StoreError> {
    let model = model.to_string();
    let rows = sqlx::query!(
        r#"select run_images.sha256, plane as "plane: Vec<u8>", width as "width: i64", height as "height: i64"
             from run_images
             left join radiographs on radiographs.id =
               (select id from radiographs as same where same.sha256 = run_images.sha256 limit 1)
             left join looks on radiograph_id = radiographs.id
             where run_id = (select run_id from models where models.id = ?1) and run_images.split = 'train'
               and run_images.sha256 > ?2
             order by run_images.sha256 limit ?3"#,
        model,
        after,
        limit
    )
    .fetch_all(db.read())
    .await?;
    let last = rows.last().map(|row| row.sha256.clone());
    let mut planes = Vec::with_capacity(rows.len());
    for row in rows {
        if let (Some(plane), Some(width), Some(height)) = (row.plane, row.width, row.height) {
            let (width, height) =
                (columns::number("radiographs.width", width)?, columns::number("radiographs.height", height)?);
            planes.push(TrainingThumbnail { plane, width, height });
        }
    }
    Ok((planes, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_times_down_to_the_hour() {
        for (at, begun) in [
            ("2026-11-26T10:00:00Z", "2026-11-26T10:00:00.000000000Z"),
            ("2026-11-26T10:29:59.9Z", "2026-11-26T10:00:00.000000000Z"),
            ("2026-11-26T10:30:00Z", "2026-11-26T10:00:00.000000000Z"),
            ("2026-11-26T10:59:59.999Z", "2026-11-26T10:00:00.000000000Z"),
        ] {
            assert_eq!(hour(at.parse().unwrap()).unwrap(), begun);
        }
    }
}
