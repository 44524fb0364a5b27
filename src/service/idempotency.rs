//! Idempotency keys: the response to a request is stored under a key that the client chose, so that a retry gets the same response and
//! creates nothing twice, also after a restart.
//!
//! A response may echo what must not be stored, such as the name of a DICOM file or the UIDs of its study. Its body is therefore encrypted
//! with a key that is derived from the request. The server does not have that key; a retry brings it.

use std::{collections::HashSet, sync::Arc};

use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, aead::Aead};
use jiff::{Timestamp, ToSpan};
use parking_lot::Mutex;
use rand::TryRngCore;
use sha2::{Digest, Sha256 as Sha256Hasher};

use super::Error;
use crate::{
    dataset::PatientIds,
    domain::Sha256,
    store::{
        Db,
        idempotency::{self, KeyState, StoredResponse},
    },
};

/// Time in hours for which a key and its response are stored.
const RETENTION_HOURS: i64 = 24;

/// Length of the random nonce before the encrypted body, in bytes.
const NONCE_BYTES: usize = 12;

/// SHA-256 of a request: of its path, media type and body.
pub type RequestDigest = [u8; 32];

/// A response, as it is stored and repeated.
#[derive(Clone, Debug, PartialEq)]
pub struct RepeatableResponse {
    /// HTTP status code.
    pub status: u16,
    /// Names and values of the headers.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

/// The idempotency keys of a data folder; cheap to clone.
#[derive(Clone, Debug)]
pub struct IdempotencyKeys {
    db: Db,
    /// Hashes the keys: a client may take a file name, or a patient id, for a key.
    hash: PatientIds,
    /// Keys whose requests are being handled.
    in_progress: Arc<Mutex<HashSet<String>>>,
}

/// Next step of a request with a key.
pub enum Attempt {
    /// Do the work, then store the response.
    First(Reservation),
    /// Return the stored response, if the request is the same.
    Retry(PreviousResponse),
}

/// A key whose request is being handled. If it is dropped, the outcome of the request remains unknown.
pub struct Reservation {
    keys: IdempotencyKeys,
    key_hash: String,
}

/// The encrypted response to an earlier request with the same key.
pub struct PreviousResponse {
    key_hash: String,
    stored: StoredResponse,
    _reservation: Reservation,
}

impl IdempotencyKeys {
    /// The keys in a database.
    pub fn new(db: Db, hash: PatientIds) -> Self {
        Self { db, hash, in_progress: Arc::default() }
    }

    /// Reserves a key, or finds the response to the earlier request.
    ///
    /// # Errors
    /// [`Error::Conflict`] while a request with the key is being handled, and if it was interrupted.
    pub async fn begin(&self, key: &str) -> Result<Attempt, Error> {
        let key_hash = self.hash.stored(&format!("idempotency key {key}"));
        if !self.in_progress.lock().insert(key_hash.clone()) {
            return Err(Error::Conflict("a request with this Idempotency-Key is in progress: retry later".into()));
        }
        let reservation = Reservation { keys: self.clone(), key_hash: key_hash.clone() };
        let expired = Timestamp::now() - RETENTION_HOURS.hours();
        match idempotency::reserve(&self.db, &key_hash, expired).await? {
            KeyState::Reserved => Ok(Attempt::First(reservation)),
            KeyState::Answered(stored) => {
                Ok(Attempt::Retry(PreviousResponse { key_hash, stored, _reservation: reservation }))
            }
            KeyState::Pending => Err(Error::Conflict(
                "the server stopped while it handled the request with this Idempotency-Key: check whether it took effect, and \
                 retry with a new key"
                    .into(),
            )),
        }
    }
}

impl Reservation {
    /// Stores the response to the request.
    pub async fn complete(self, request: &RequestDigest, response: &RepeatableResponse) -> Result<(), Error> {
        let mut sealed_body = vec![0; NONCE_BYTES];
        rand::rngs::OsRng.try_fill_bytes(&mut sealed_body).map_err(Error::internal)?;
        let nonce = Nonce::clone_from_slice(&sealed_body);
        let cipher = cipher(request, &self.key_hash);
        let encrypted = cipher.encrypt(&nonce, response.body.as_slice());
        sealed_body.extend(encrypted.map_err(|_| Error::internal("a response cannot be encrypted"))?);
        let stored = StoredResponse {
            request_sha256: fingerprint(request),
            status: response.status,
            headers: response.headers.clone(),
            sealed_body,
        };
        Ok(idempotency::complete(&self.keys.db, &self.key_hash, &stored).await?)
    }

    /// Frees the key after a failure, so that it can be used again.
    pub async fn release(self) -> Result<(), Error> {
        Ok(idempotency::release(&self.keys.db, &self.key_hash).await?)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.keys.in_progress.lock().remove(&self.key_hash);
    }
}

impl PreviousResponse {
    /// The response, for the same request.
    ///
    /// # Errors
    /// [`Error::Unusable`] for another request.
    pub fn open(&self, request: &RequestDigest) -> Result<RepeatableResponse, Error> {
        if fingerprint(request) != self.stored.request_sha256 {
            return Err(Error::Unusable(
                "this Idempotency-Key was used for another request (path, media type or body differ): use a new key"
                    .into(),
            ));
        }
        let broken = || Error::internal("a stored response cannot be decrypted");
        let (nonce, encrypted) = self.stored.sealed_body.split_at_checked(NONCE_BYTES).ok_or_else(broken)?;
        let body =
            cipher(request, &self.key_hash).decrypt(Nonce::from_slice(nonce), encrypted).map_err(|_| broken())?;
        Ok(RepeatableResponse { status: self.stored.status, headers: self.stored.headers.clone(), body })
    }
}

/// Stored part of a request. The cipher's key cannot be computed from it.
fn fingerprint(request: &RequestDigest) -> Sha256 {
    Sha256::of(&[&b"request"[..], request].concat())
}

fn cipher(request: &RequestDigest, key_hash: &str) -> ChaCha20Poly1305 {
    let key = Sha256Hasher::new().chain_update(b"response").chain_update(request).chain_update(key_hash).finalize();
    ChaCha20Poly1305::new(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn keys() -> (tempfile::TempDir, IdempotencyKeys) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(folder.path()).await.unwrap();
        (folder, IdempotencyKeys::new(db, PatientIds::new(*b"a key")))
    }

    #[tokio::test]
    async fn a_response_is_encrypted_and_opened_by_the_same_request_only() {
        let (folder, keys) = keys().await;
        let response =
            RepeatableResponse { status: 201, headers: Vec::new(), body: b"the name Zyxwander.dcm".to_vec() };
        let Attempt::First(reservation) = keys.begin("Zyxwander").await.unwrap() else { panic!("reserved") };
        assert!(matches!(keys.begin("Zyxwander").await, Err(Error::Conflict(_))), "in progress");
        reservation.complete(&[1; 32], &response).await.unwrap();
        let Attempt::Retry(previous) = keys.begin("Zyxwander").await.unwrap() else { panic!("answered") };
        assert_eq!(previous.open(&[1; 32]).unwrap(), response);
        assert!(matches!(previous.open(&[2; 32]), Err(Error::Unusable(_))));
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(9).any(|window| window == b"Zyxwander"));
        }
    }

    #[tokio::test]
    async fn a_failed_request_frees_its_key_and_an_interrupted_one_does_not() {
        let (_folder, keys) = keys().await;
        let Attempt::First(failed) = keys.begin("a").await.unwrap() else { panic!("reserved") };
        failed.release().await.unwrap();
        let Attempt::First(interrupted) = keys.begin("a").await.unwrap() else { panic!("reserved") };
        drop(interrupted);
        let error = keys.begin("a").await.err().unwrap();
        assert!(matches!(&error, Error::Conflict(detail) if detail.contains("new key")), "{error}");
    }
}
