//! Scores of evaluations that earlier versions stored without them.

use tokio_util::sync::CancellationToken;

use super::{Error, Stores};
use crate::{evaluation, store};

/// Number of evaluations that are read at once.
const BATCH: u32 = 16;

/// Computes and stores the scores that are missing, until `shutdown`. Logs an error; the next start tries again.
pub async fn complete_scores(stores: Stores, shutdown: CancellationToken) {
    if let Err(error) = complete(&stores, &shutdown).await {
        tracing::warn!(%error, "scores of earlier evaluations cannot be completed");
    }
}

async fn complete(stores: &Stores, shutdown: &CancellationToken) -> Result<(), Error> {
    let db = &stores.db;
    loop {
        let evaluations = store::evaluations::without_scores(db, BATCH).await?;
        if evaluations.is_empty() {
            return Ok(());
        }
        for evaluation in evaluations {
            if shutdown.is_cancelled() {
                return Ok(());
            }
            let (id, classes) = (evaluation.id, evaluation.classes);
            let images = store::outcomes::of_evaluation(db, id).await?;
            let scores = tokio::task::spawn_blocking(move || evaluation::scores(&images, &classes)).await?;
            store::evaluations::set_scores(db, id, &scores).await?;
        }
    }
}
