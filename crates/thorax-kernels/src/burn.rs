//! Conversion of pooled buffers into the storage of Burn's tensors, without a copy.
//!
//! It lives in this crate because it cannot be written without `unsafe`: [`AllocationController::memory_mut`] is an unsafe method, and
//! [`Bytes::from_controller`] an unsafe function. Burn's safe constructors do not serve: `Bytes::from_elems` takes no element that is
//! aligned to 64 bytes and frees the buffer instead of returning it to the pool, and `Bytes::from_shared` copies on the first write, while
//! the backward passes write their gradients in place.

use std::mem::MaybeUninit;

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};

use crate::{
    ChannelBlock,
    memory::{Buffer, FloatBuffer},
};

impl From<Buffer> for Bytes {
    /// The buffer returns to the pool when the last tensor that uses it is dropped.
    fn from(buffer: Buffer) -> Self {
        buffer.into_numbers().into()
    }
}

impl From<FloatBuffer> for Bytes {
    /// The buffer returns to the pool when the last tensor that uses it is dropped.
    fn from(numbers: FloatBuffer) -> Self {
        let length = numbers.count * size_of::<f32>();
        // SAFETY: the buffer has at least `length` bytes, and all of them are initialised.
        unsafe { Self::from_controller(Box::new(numbers.buffer), length) }
    }
}

impl AllocationController for Buffer {
    fn alloc_align(&self) -> usize {
        align_of::<ChannelBlock>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(self);
        // SAFETY: `u8` and `MaybeUninit<u8>` have the same layout, and the caller writes initialised bytes only.
        Ok(unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(self);
        // SAFETY: `u8` and `MaybeUninit<u8>` have the same layout, and a shared slice is only read.
        Ok(unsafe { &*(std::ptr::from_ref(bytes) as *const [MaybeUninit<u8>]) })
    }

    fn duplicate(&self) -> Option<Box<dyn AllocationController>> {
        let mut copy = Self::new(self.len());
        copy.copy_from_slice(self);
        Some(Box::new(copy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BLOCK;

    /// 64 KiB and a bit: large enough for the pool, and a size that no other test uses.
    const COUNT: usize = (64 << 10) / size_of::<ChannelBlock>() + 7;

    #[test]
    fn a_buffer_returns_to_the_pool_with_its_last_tensor_and_a_clone_is_a_copy() {
        let mut buffer = Buffer::new(COUNT);
        buffer.fill(ChannelBlock([5.0; BLOCK]));
        let address = buffer.as_ptr() as usize;
        let bytes = Bytes::from(buffer);
        assert_eq!((bytes.as_ptr() as usize, bytes.len()), (address, size_of::<ChannelBlock>() * COUNT));
        let copy = bytes.clone();
        assert!(copy == bytes && copy.as_ptr() as usize != address);
        assert_eq!(copy.as_ptr() as usize % align_of::<ChannelBlock>(), 0);
        drop(bytes);
        let again = Buffer::zeros(COUNT);
        assert_eq!(again.as_ptr() as usize, address);
        assert!(again.iter().all(|block| *block == ChannelBlock::default()));
    }

    #[test]
    fn bytes_of_numbers_end_with_the_last_number() {
        let mut numbers = FloatBuffer::new(COUNT);
        numbers.fill(2.0);
        let bytes = Bytes::from(numbers);
        assert_eq!(bytemuck::cast_slice::<u8, f32>(&bytes), [2.0; COUNT]);
    }
}
