//! Metadata of tensors.

use serde::Serialize;
use utoipa::ToSchema;

/// Metadata of an input or output tensor.
#[derive(Serialize, ToSchema)]
pub(super) struct TensorMetadata {
    /// Name of the tensor in requests and responses.
    pub(super) name: &'static str,
    /// Data type of the elements.
    pub(super) datatype: &'static str,
    /// Shape; -1 is a dimension of any size.
    pub(super) shape: Vec<i64>,
}
