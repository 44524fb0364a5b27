//! Memory that the members of a team write at the same time, each its own part.

use std::marker::PhantomData;

use super::simd::Lane;

/// A slice of lanes that several threads may write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<'a> {
    start: *mut Lane,
    length: usize,
    borrowed: PhantomData<&'a mut [Lane]>,
}

// SAFETY: a `Shared` only hands out what its unsafe methods are asked for, and their callers vouch that no two threads use the same lane
// while one writes it.
unsafe impl Send for Shared<'_> {}
// SAFETY: as above.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(lanes: &'a mut [Lane]) -> Self {
        Self { start: lanes.as_mut_ptr(), length: lanes.len(), borrowed: PhantomData }
    }

    /// `length` lanes from `start` on, to write.
    ///
    /// # Safety
    /// Until the slice is gone nobody else may have any of these lanes.
    ///
    /// # Panics
    /// If there are not that many.
    #[inline(always)]
    #[expect(clippy::mut_from_ref, reason = "that is what it is for; the caller vouches")]
    pub(super) unsafe fn part(&self, start: usize, length: usize) -> &mut [Lane] {
        self.check(start, length);
        // SAFETY: the lanes are there (above), and the caller vouches that nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }

    /// `length` lanes from `start` on, to read.
    ///
    /// # Safety
    /// Until the slice is gone nobody may write any of these lanes.
    ///
    /// # Panics
    /// If there are not that many.
    #[inline(always)]
    pub(super) unsafe fn read(&self, start: usize, length: usize) -> &[Lane] {
        self.check(start, length);
        // SAFETY: the lanes are there (above), and the caller vouches that nobody writes them.
        unsafe { std::slice::from_raw_parts(self.start.add(start), length) }
    }

    #[inline(always)]
    fn check(&self, start: usize, length: usize) {
        assert!(start <= self.length && length <= self.length - start, "inside the buffer");
    }
}
