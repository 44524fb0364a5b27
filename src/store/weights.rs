//! Imported ImageNet weights.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Db, StoreError, columns};
use crate::domain::{BlockVariant, Sha256};

/// Imported ImageNet weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Weights {
    /// Hash of the converted file.
    pub sha256: Sha256,
    /// Position of the stride in a block.
    pub variant: BlockVariant,
    /// Name of the file that was imported.
    pub origin: String,
    /// Size of the converted file, in bytes.
    pub byte_length: u64,
    /// Time of the import.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Stores weights. Storing the same file again changes nothing.
pub async fn create(db: &Db, weights: &Weights) -> Result<(), StoreError> {
    let sha256 = weights.sha256.as_str();
    let variant = variant_name(weights.variant);
    let byte_length: i64 = columns::number("weights.byte_length", weights.byte_length)?;
    let created_at = columns::time(weights.created_at);
    sqlx::query!(
        "insert into weights (sha256, variant, origin, byte_length, created_at) values (?, ?, ?, ?, ?)
           on conflict (sha256) do nothing",
        sha256,
        variant,
        weights.origin,
        byte_length,
        created_at,
    )
    .execute(db.write()?)
    .await?;
    Ok(())
}

/// All imported weights, newest first.
pub async fn list(db: &Db) -> Result<Vec<Weights>, StoreError> {
    let rows =
        sqlx::query_as!(Row, "select * from weights order by created_at desc, sha256").fetch_all(db.read()).await?;
    rows.into_iter().map(Row::read).collect()
}

/// Names of `BlockVariant` in the API.
fn variant_name(variant: BlockVariant) -> &'static str {
    match variant {
        BlockVariant::V1 => "resnet50",
        BlockVariant::V1_5 => "resnet50-v1.5",
    }
}

fn variant(name: &str) -> Result<BlockVariant, StoreError> {
    let known = [BlockVariant::V1, BlockVariant::V1_5].into_iter().find(|variant| variant_name(*variant) == name);
    known.ok_or_else(|| StoreError::Row(format!("weights.variant: unknown variant {name:?}")))
}

struct Row {
    sha256: String,
    variant: String,
    origin: String,
    byte_length: i64,
    created_at: String,
}

impl Row {
    fn read(self) -> Result<Weights, StoreError> {
        Ok(Weights {
            sha256: columns::hash("weights.sha256", self.sha256)?,
            variant: variant(&self.variant)?,
            origin: self.origin,
            byte_length: columns::number("weights.byte_length", self.byte_length)?,
            created_at: columns::parse("weights.created_at", &self.created_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::fixtures;

    #[tokio::test]
    async fn lists_weights_newest_first_and_each_file_once() {
        let (_dir, db) = fixtures::db().await;
        let keras = fixtures::weights("keras");
        let torch = Weights { variant: BlockVariant::V1_5, ..fixtures::weights("torch") };
        create(&db, &keras).await.unwrap();
        create(&db, &torch).await.unwrap();
        create(&db, &Weights { origin: "again".into(), ..keras.clone() }).await.unwrap();
        assert_eq!(list(&db).await.unwrap(), [torch, keras]);
    }

    #[test]
    fn the_column_has_the_names_of_the_api() {
        for known in [BlockVariant::V1, BlockVariant::V1_5] {
            assert_eq!(serde_json::to_value(known).unwrap(), variant_name(known));
            assert_eq!(variant(variant_name(known)).unwrap(), known);
        }
        assert!(matches!(variant("resnet18"), Err(StoreError::Row(_))));
    }
}
