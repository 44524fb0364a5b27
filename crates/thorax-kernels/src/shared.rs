//! A buffer that several workers write at the same time, in disjoint parts.

use std::marker::PhantomData;

use super::simd::ChannelBlock;

/// A slice of blocks that several threads may write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<'a> {
    start: *mut ChannelBlock,
    length: usize,
    borrowed: PhantomData<&'a mut [ChannelBlock]>,
}

// SAFETY: a `Shared` gives access only through its unsafe methods, whose callers guarantee that no thread writes a
// block while another thread uses it.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(blocks: &'a mut [ChannelBlock]) -> Self {
        Self { start: blocks.as_mut_ptr(), length: blocks.len(), borrowed: PhantomData }
    }

    /// `length` blocks starting at `start`, for writing.
    ///
    /// # Safety
    /// While the slice lives, nothing else may access these blocks.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "that is what it is for; the caller vouches")]
    pub(super) unsafe fn slice_mut(&self, start: usize, length: usize) -> &mut [ChannelBlock] {
        self.check_range(start, length);
        // SAFETY: the range is in bounds (checked above), and the caller guarantees exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }

    /// `length` blocks starting at `start`, for reading.
    ///
    /// # Safety
    /// While the slice lives, nothing may write these blocks.
    ///
    /// # Panics
    /// If the range is out of bounds.
    #[inline(always)]
    pub(super) unsafe fn slice(&self, start: usize, length: usize) -> &[ChannelBlock] {
        self.check_range(start, length);
        // SAFETY: the range is in bounds (checked above), and the caller guarantees that nothing writes the blocks.
        unsafe { std::slice::from_raw_parts(self.start.add(start), length) }
    }

    #[inline(always)]
    fn check_range(&self, start: usize, length: usize) {
        assert!(start <= self.length && length <= self.length - start, "the range must be inside the buffer");
    }
}
