//! Patient identifiers: only keyed hashes of them are stored.

use std::{fmt, sync::Arc};

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Before a hash in an exported label file: it is stored again as it is, so that the patient stays the same.
const EXPORTED: &str = "hmac:";

/// Turns patient ids into what is stored. The same id gives the same result, so grouping by patient still works.
#[derive(Clone)]
pub struct PatientIds {
    key: Arc<[u8]>,
}

impl PatientIds {
    /// Ids become the first 32 hexadecimal digits of HMAC-SHA-256 (RFC 2104) under `key`.
    pub fn new(key: impl Into<Arc<[u8]>>) -> Self {
        Self { key: key.into() }
    }

    /// What is stored for `patient_id`; of one that was exported, the very hash.
    pub fn stored(&self, patient_id: &str) -> String {
        if let Some(hash) = patient_id.strip_prefix(EXPORTED).filter(|hash| Self::is_hash(hash)) {
            return hash.to_owned();
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(patient_id.as_bytes());
        let digest = mac.finalize().into_bytes();
        digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What an export writes for a stored id.
    pub fn exported(stored: &str) -> String {
        format!("{EXPORTED}{stored}")
    }

    /// Whether a text looks like what [`Self::stored`] returns.
    pub fn is_hash(text: &str) -> bool {
        text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    }
}

impl fmt::Debug for PatientIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PatientIds(keyed)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_the_start_of_their_hmac() {
        // RFC 4231, test case 2.
        let ids = PatientIds::new(*b"Jefe");
        let hash = ids.stored("what do ya want for nothing?");
        assert_eq!(hash, "5bdcc146bf60754e6a042426089575c7");
        assert_ne!(PatientIds::new(*b"other").stored("COVID 1"), ids.stored("COVID 1"));
        assert!(PatientIds::is_hash(&hash));
        assert!(!PatientIds::is_hash("COVID 1") && !PatientIds::is_hash(&hash.to_uppercase()));
    }

    #[test]
    fn what_was_exported_is_stored_as_it_was() {
        let ids = PatientIds::new(*b"Jefe");
        let stored = ids.stored("COVID 1");
        assert_eq!(PatientIds::new(*b"other").stored(&PatientIds::exported(&stored)), stored);
        assert_ne!(ids.stored(&stored), stored, "without the mark it is an id like any other");
        assert_eq!(ids.stored("hmac:COVID 1").len(), 32);
    }

    #[test]
    fn the_key_is_never_printed() {
        assert_eq!(format!("{:?}", PatientIds::new(*b"Jefe")), "PatientIds(keyed)");
    }
}
