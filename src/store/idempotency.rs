//! Responses by idempotency key.

use jiff::Timestamp;

use super::{Db, StoreError, columns};
use crate::domain::Sha256;

/// Response of a request with an idempotency key.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredResponse {
    /// Identifies the request.
    pub request_sha256: Sha256,
    /// HTTP status code.
    pub status: u16,
    /// Names and values of the headers.
    pub headers: Vec<(String, String)>,
    /// Encrypted body.
    pub sealed_body: Vec<u8>,
}

/// Outcome of [`reserve`].
#[derive(Clone, Debug, PartialEq)]
pub enum KeyState {
    /// The key was free and is reserved now.
    Reserved,
    /// A request reserved the key, and no response was stored.
    Pending,
    /// The response is known.
    Answered(StoredResponse),
}

/// Reserves a key, unless it is in use, and removes keys from before `expired`.
pub async fn reserve(db: &Db, key_hash: &str, expired: Timestamp) -> Result<KeyState, StoreError> {
    let mut tx = db.begin().await?;
    let (now, expired) = (columns::time(Timestamp::now()), columns::time(expired));
    sqlx::query!("delete from idempotency_keys where created_at < ?", expired).execute(&mut *tx).await?;
    let row = sqlx::query!(
        "select request_sha256, status, headers_json, sealed_body from idempotency_keys where key_hash = ?",
        key_hash
    );
    let state = match row.fetch_optional(&mut *tx).await? {
        None => {
            sqlx::query!("insert into idempotency_keys (key_hash, created_at) values (?, ?)", key_hash, now)
                .execute(&mut *tx)
                .await?;
            KeyState::Reserved
        }
        Some(row) => match (row.request_sha256, row.status, row.headers_json, row.sealed_body) {
            (Some(request), Some(status), Some(headers), Some(sealed_body)) => KeyState::Answered(StoredResponse {
                request_sha256: columns::hash("idempotency_keys.request_sha256", request)?,
                status: columns::number("idempotency_keys.status", status)?,
                headers: columns::from_json("idempotency_keys.headers_json", &headers)?,
                sealed_body,
            }),
            _ => KeyState::Pending,
        },
    };
    tx.commit().await?;
    Ok(state)
}

/// Stores the response of a reserved key.
pub async fn complete(db: &Db, key_hash: &str, response: &StoredResponse) -> Result<(), StoreError> {
    let (request, status) = (response.request_sha256.as_str(), i64::from(response.status));
    let headers = columns::to_json("idempotency_keys.headers_json", &response.headers)?;
    sqlx::query!(
        "update idempotency_keys set request_sha256 = ?, status = ?, headers_json = ?, sealed_body = ? where key_hash = ?",
        request,
        status,
        headers,
        response.sealed_body,
        key_hash,
    )
    .execute(db.write()?)
    .await?;
    Ok(())
}

/// Frees a reserved key whose request failed.
pub async fn release(db: &Db, key_hash: &str) -> Result<(), StoreError> {
    sqlx::query!("delete from idempotency_keys where key_hash = ? and request_sha256 is null", key_hash)
        .execute(db.write()?)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;
    use crate::store::fixtures;

    #[tokio::test]
    async fn a_key_is_reserved_once_answered_once_and_expires() {
        let (_dir, db) = fixtures::db().await;
        let key = "0123456789abcdef0123456789abcdef";
        let yesterday = Timestamp::now() - 24.hours();
        assert_eq!(reserve(&db, key, yesterday).await.unwrap(), KeyState::Reserved);
        assert_eq!(reserve(&db, key, yesterday).await.unwrap(), KeyState::Pending);
        release(&db, key).await.unwrap();
        assert_eq!(reserve(&db, key, yesterday).await.unwrap(), KeyState::Reserved);
        let response = StoredResponse {
            request_sha256: Sha256::of(b"request"),
            status: 201,
            headers: vec![("location".into(), "/v1/datasets/x".into())],
            sealed_body: vec![0, 159, 255],
        };
        complete(&db, key, &response).await.unwrap();
        release(&db, key).await.unwrap();
        assert_eq!(reserve(&db, key, yesterday).await.unwrap(), KeyState::Answered(response));
        assert_eq!(reserve(&db, key, Timestamp::now()).await.unwrap(), KeyState::Reserved, "expired");
    }
}
