//! Conversion between Burn's tensors and the kernels' buffers, without a copy where a tensor already uses such a
//! buffer.

use std::{borrow::Cow, ops::Deref};

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{Bytes, DType, Shape},
};
use thorax_kernels::{BLOCK, ChannelBlock, Images, memory::Buffer};

/// A tensor `[blocks, images, side, side, 16]` from blocks.
pub(super) fn blocked(blocks: Buffer, images: usize, side: usize) -> FlexTensor {
    let shape = [blocks.len() / (images * side * side), images, side, side, BLOCK];
    plain(blocks, shape)
}

/// A tensor from numbers.
pub(super) fn plain<const D: usize>(numbers: impl Into<Bytes>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(numbers.into(), Layout::contiguous(Shape::new(shape)), DType::F32)
}

/// Numbers of a tensor in row-major order; copied only if the tensor is not contiguous.
pub(super) fn numbers(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    match tensor.as_slice() {
        Some(numbers) => Cow::Borrowed(numbers),
        None => Cow::Owned(tensor.to_contiguous().storage().to_vec()),
    }
}

/// Blocks of a blocked tensor.
pub(super) enum Blocks<'a> {
    /// Storage of the tensor.
    Borrowed(&'a [ChannelBlock]),
    /// Copy of a storage that is not aligned to blocks.
    Copied(Buffer),
}

impl Deref for Blocks<'_> {
    type Target = [ChannelBlock];

    fn deref(&self) -> &[ChannelBlock] {
        match self {
            Self::Borrowed(blocks) => blocks,
            Self::Copied(blocks) => blocks,
        }
    }
}

/// Blocks of a blocked tensor; copied only if the storage is not aligned.
pub(super) fn blocks(tensor: &FlexTensor) -> Blocks<'_> {
    match numbers(tensor) {
        Cow::Borrowed(numbers) => match bytemuck::try_cast_slice(numbers) {
            Ok(blocks) => Blocks::Borrowed(blocks),
            Err(_) => Blocks::Copied(copied(numbers)),
        },
        Cow::Owned(numbers) => Blocks::Copied(copied(&numbers)),
    }
}

/// A blocked tensor with a unique, aligned storage, for [`blocks_mut`]; copied only if needed.
pub(super) fn make_unique(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.layout().start_offset() == 0 && matches!(blocks(&tensor), Blocks::Borrowed(_));
    if whole && tensor.is_unique() {
        return tensor;
    }
    let [_, images, side, _, _] = tensor.layout().shape().dims();
    blocked(copied(&numbers(&tensor)), images, side)
}

/// Blocks of a tensor from [`make_unique`].
pub(super) fn blocks_mut(tensor: &mut FlexTensor) -> &mut [ChannelBlock] {
    bytemuck::cast_slice_mut(tensor.try_storage_mut::<f32>().expect("a buffer that is this tensor's alone"))
}

/// Blocks as the kernels' image type.
pub(super) fn images(blocks: &[ChannelBlock], [_, images, side]: [usize; 3]) -> Images<'_> {
    Images { blocks, images, side }
}

fn copied(numbers: &[f32]) -> Buffer {
    let mut blocks = Buffer::new(numbers.len() / BLOCK);
    bytemuck::cast_slice_mut(&mut blocks).copy_from_slice(numbers);
    blocks
}
