//! Between Burn's tensors and the kernels' buffers, without copies where the buffers are the kernels' own.

use std::{borrow::Cow, ops::Deref};

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{Bytes, DType, Shape},
};
use thorax_kernels::{Images, Lane, WIDTH, memory::Buffer};

/// Lanes as a tensor `[lanes, images, side, side, 16]`.
pub(super) fn blocked(lanes: Buffer, images: usize, side: usize) -> FlexTensor {
    let shape = [lanes.len() / (images * side * side), images, side, side, WIDTH];
    plain(lanes, shape)
}

/// Numbers as a tensor.
pub(super) fn plain<const D: usize>(numbers: impl Into<Bytes>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(numbers.into(), Layout::contiguous(Shape::new(shape)), DType::F32)
}

/// The numbers of a tensor, row by row; copied only out of another order.
pub(super) fn numbers(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    match tensor.as_slice() {
        Some(numbers) => Cow::Borrowed(numbers),
        None => Cow::Owned(tensor.to_contiguous().storage().to_vec()),
    }
}

/// The lanes of a blocked tensor.
pub(super) enum Lanes<'a> {
    /// As they lie.
    Borrowed(&'a [Lane]),
    /// Out of a buffer that is not the kernels', and so not aligned.
    Copied(Buffer),
}

impl Deref for Lanes<'_> {
    type Target = [Lane];

    fn deref(&self) -> &[Lane] {
        match self {
            Self::Borrowed(lanes) => lanes,
            Self::Copied(lanes) => lanes,
        }
    }
}

/// The lanes of a blocked tensor; copied only out of a buffer that is not the kernels'.
pub(super) fn lanes(tensor: &FlexTensor) -> Lanes<'_> {
    match numbers(tensor) {
        Cow::Borrowed(numbers) => match bytemuck::try_cast_slice(numbers) {
            Ok(lanes) => Lanes::Borrowed(lanes),
            Err(_) => Lanes::Copied(copied(numbers)),
        },
        Cow::Owned(numbers) => Lanes::Copied(copied(&numbers)),
    }
}

/// A blocked tensor in a buffer that is its alone, to be written through [`lanes_mut`]; copied only if it is not so already.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.layout().start_offset() == 0 && matches!(lanes(&tensor), Lanes::Borrowed(_));
    if whole && tensor.is_unique() {
        return tensor;
    }
    let [_, images, side, _, _] = tensor.layout().shape().dims();
    blocked(copied(&numbers(&tensor)), images, side)
}

/// The lanes of a tensor from [`owned`].
pub(super) fn lanes_mut(tensor: &mut FlexTensor) -> &mut [Lane] {
    bytemuck::cast_slice_mut(tensor.try_storage_mut::<f32>().expect("a buffer that is this tensor's alone"))
}

/// Lanes as the kernels take images.
pub(super) fn images(lanes: &[Lane], [_, images, side]: [usize; 3]) -> Images<'_> {
    Images { lanes, images, side }
}

fn copied(numbers: &[f32]) -> Buffer {
    let mut lanes = Buffer::new(numbers.len() / WIDTH);
    bytemuck::cast_slice_mut(&mut lanes).copy_from_slice(numbers);
    lanes
}
