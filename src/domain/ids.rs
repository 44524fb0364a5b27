//! Identifiers. Each resource has its own id type, so that the compiler rejects a run id where a model id is expected.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::Digest;
use utoipa::ToSchema;
use uuid::Uuid;

/// The text is not a valid identifier of the expected kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a valid {kind} identifier")]
pub struct InvalidId {
    kind: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = String, format = Uuid)]
        pub struct $name(Uuid);

        impl $name {
            /// Creates an identifier: a UUIDv7, so that identifiers sort by creation time.
            #[allow(clippy::new_without_default)]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text).map(Self).map_err(|_| InvalidId { kind: $kind })
            }
        }
    };
}

id!(/// Id of a data set.
    DatasetId, "data set");
id!(/// Id of a radiograph in a data set.
    RadiographId, "radiograph");
id!(/// Id of a background import.
    ImportId, "import");
id!(/// Id of a training run.
    RunId, "training run");
id!(/// Id of a model, which is the best epoch of a stage or an upload.
    ModelId, "model");
id!(/// Id of a background job that classifies many images.
    PredictionJobId, "prediction job");
id!(/// Id of an evaluation of a model on a split.
    EvaluationId, "evaluation");
id!(/// Id of a prediction.
    PredictionId, "prediction");

/// SHA-256 digest in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
pub struct Sha256(String);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(&sha2::Sha256::digest(bytes))
    }

    /// Encodes a 32-byte digest.
    pub fn from_digest(digest: &[u8]) -> Self {
        Self(hex::encode(digest))
    }

    /// The 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Sha256 {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid { Ok(Self(text)) } else { Err(InvalidId { kind: "SHA-256" }) }
    }
}

impl FromStr for Sha256 {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::try_from(text.to_owned())
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> Self {
        hash.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
