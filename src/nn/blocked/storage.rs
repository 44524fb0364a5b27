//! Between Burn's tensors and the kernels' buffers, without copies where the buffers are the kernels' own.

use std::borrow::Cow;

use burn::{
    backend::flex::{FlexTensor, Layout},
    tensor::{Bytes, DType, Shape},
};

use crate::kernel::{Images, Lane, WIDTH, memory};

/// Lanes as a tensor `[lanes, images, side, side, 16]`.
pub(super) fn blocked(lanes: Vec<Lane>, images: usize, side: usize) -> FlexTensor {
    let planes = images * side * side;
    let shape = [lanes.len() / planes, images, side, side, WIDTH];
    let count = lanes.len() * WIDTH;
    FlexTensor::new(memory::bytes(lanes, count), Layout::contiguous(Shape::new(shape)), DType::F32)
}

/// Numbers as a tensor.
pub(super) fn plain<const D: usize>(numbers: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(Shape::new(shape)), DType::F32)
}

/// The numbers of a tensor, row by row; copied only out of another order.
pub(super) fn numbers(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    match tensor.as_slice() {
        Some(numbers) => Cow::Borrowed(numbers),
        None => Cow::Owned(tensor.to_contiguous().storage().to_vec()),
    }
}

/// The lanes of a blocked tensor; copied only out of a buffer that is not the kernels'.
pub(super) fn lanes(tensor: &FlexTensor) -> Cow<'_, [Lane]> {
    match numbers(tensor) {
        Cow::Borrowed(numbers) => match bytemuck::try_cast_slice(numbers) {
            Ok(lanes) => Cow::Borrowed(lanes),
            Err(_) => Cow::Owned(copied(numbers)),
        },
        Cow::Owned(numbers) => Cow::Owned(copied(&numbers)),
    }
}

/// A blocked tensor in a buffer that is its alone, to be written through [`lanes_mut`]; copied only if it is not so already.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    let [_, images, side, _, _] = tensor.layout().shape().dims();
    let whole = tensor.layout().start_offset() == 0 && matches!(lanes(&tensor), Cow::Borrowed(_));
    if whole && tensor.is_unique() { tensor } else { blocked(lanes(&tensor).into_owned(), images, side) }
}

/// The lanes of a tensor from [`owned`].
pub(super) fn lanes_mut(tensor: &mut FlexTensor) -> &mut [Lane] {
    bytemuck::cast_slice_mut(tensor.try_storage_mut::<f32>().expect("a buffer that is this tensor's alone"))
}

/// Lanes as the kernels take images.
pub(super) fn images(lanes: &[Lane], [_, images, side]: [usize; 3]) -> Images<'_> {
    Images { lanes, images, side }
}

fn copied(numbers: &[f32]) -> Vec<Lane> {
    let mut lanes = memory::lanes(numbers.len() / WIDTH);
    bytemuck::cast_slice_mut(&mut lanes).copy_from_slice(numbers);
    lanes
}
