//! What the tests of single files are made of.

use jiff::Timestamp;

use crate::{
    domain::{Architecture, BlockVariant, ClassList, ModelId, ModelSpec, Normalisation, Sha256},
    store::Model,
};

/// A model that nobody has stored.
pub(super) fn model() -> Model {
    let spec = ModelSpec {
        architecture: Architecture::SimpleCnn,
        block_variant: BlockVariant::V1,
        classes: ClassList::default(),
        image_size: 32,
        normalisation: Normalisation { scale: 1.0, mean: [0.0; 3], std: [1.0; 3] },
        dropout: 0.5,
    };
    Model {
        id: ModelId::new(),
        run_id: None,
        stage: None,
        name: "a model".into(),
        sha256: Sha256::of(b"its file"),
        byte_length: 8,
        spec,
        synthetic: false,
        aliases: Vec::new(),
        created_at: Timestamp::now(),
    }
}
