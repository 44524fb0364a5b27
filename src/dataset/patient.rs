//! Pseudonymisation of patient ids: only keyed hashes are stored.

use std::{fmt, sync::Arc};

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Prefix of a hash in an exported label file. An import stores such a hash unchanged, so that the patient keeps its identity.
const EXPORT_PREFIX: &str = "hmac:";

/// Pseudonymises patient ids. Equal ids have equal hashes, so that grouping by patient works.
#[derive(Clone)]
pub struct PatientIds {
    key: Arc<[u8]>,
}

impl PatientIds {
    /// Hashes ids to the first 32 hexadecimal digits of HMAC-SHA-256 (RFC 2104) with `key`.
    pub fn new(key: impl Into<Arc<[u8]>>) -> Self {
        Self { key: key.into() }
    }

    /// The stored hash of `patient_id`; an exported hash is returned unchanged.
    pub fn stored(&self, patient_id: &str) -> String {
        if let Some(hash) = patient_id.strip_prefix(EXPORT_PREFIX).filter(|hash| Self::is_hash(hash)) {
            return hash.to_owned();
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(patient_id.as_bytes());
        let digest = mac.finalize().into_bytes();
        hex::encode(&digest[..16])
    }

    /// The id in an export for a stored hash.
    pub fn exported(stored: &str) -> String {
        format!("{EXPORT_PREFIX}{stored}")
    }

    /// True if `text` has the form of a stored hash.
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
    fn ids_are_hashed_with_hmac_sha_256() {
        // RFC 4231, test case 2.
        let ids = PatientIds::new(*b"Jefe");
        let hash = ids.stored("what do ya want for nothing?");
        assert_eq!(hash, "5bdcc146bf60754e6a042426089575c7");
        assert_ne!(PatientIds::new(*b"other").stored("COVID 1"), ids.stored("COVID 1"));
        assert!(PatientIds::is_hash(&hash));
        assert!(!PatientIds::is_hash("COVID 1") && !PatientIds::is_hash(&hash.to_uppercase()));
    }

    #[test]
    fn exported_hashes_are_stored_unchanged() {
        let ids = PatientIds::new(*b"Jefe");
        let stored = ids.stored("COVID 1");
        assert_eq!(PatientIds::new(*b"other").stored(&PatientIds::exported(&stored)), stored);
        assert_ne!(ids.stored(&stored), stored, "without the prefix, it is hashed like any id");
        assert_eq!(ids.stored("hmac:COVID 1").len(), 32);
    }

    #[test]
    fn the_key_is_never_printed() {
        assert_eq!(format!("{:?}", PatientIds::new(*b"Jefe")), "PatientIds(keyed)");
    }
}
