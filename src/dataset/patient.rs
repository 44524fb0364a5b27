//! Patient identifiers: kept as they are, or replaced by keyed hashes.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Turns patient ids into what is stored. The same id gives the same result, so grouping by patient still works.
#[derive(Clone, Default)]
pub struct PatientIds {
    key: Option<Vec<u8>>,
}

impl PatientIds {
    /// Without a key ids are kept; with one they become the first 32 hexadecimal digits of HMAC-SHA-256 (RFC 2104).
    pub fn new(key: Option<Vec<u8>>) -> Self {
        Self { key }
    }

    /// What is stored for `patient_id`.
    pub fn stored(&self, patient_id: &str) -> String {
        let Some(key) = &self.key else { return patient_id.to_owned() };
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(patient_id.as_bytes());
        let digest = mac.finalize().into_bytes();
        digest[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for PatientIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.key.is_some() { "PatientIds(keyed)" } else { "PatientIds(kept)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_key_ids_are_kept() {
        assert_eq!(PatientIds::default().stored("COVID 1"), "COVID 1");
    }

    #[test]
    fn with_a_key_ids_become_the_start_of_their_hmac() {
        // RFC 4231, test case 2.
        let ids = PatientIds::new(Some(b"Jefe".to_vec()));
        assert_eq!(ids.stored("what do ya want for nothing?"), "5bdcc146bf60754e6a042426089575c7");
        assert_ne!(PatientIds::new(Some(b"other".to_vec())).stored("COVID 1"), ids.stored("COVID 1"));
    }

    #[test]
    fn the_key_is_never_printed() {
        assert_eq!(format!("{:?}", PatientIds::new(Some(b"Jefe".to_vec()))), "PatientIds(keyed)");
    }
}
