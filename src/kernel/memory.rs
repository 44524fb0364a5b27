//! Buffers that are used again.
//!
//! A step of training needs gigabytes of buffers, the same ones in each step. Given back to the system and asked for anew they would
//! cost a page fault for each 4 KiB and the zeroing of it, which takes as long as the step's arithmetic. So a buffer that is dropped
//! waits here for the next one that is not much smaller. What waits and is in use together never exceeds what was once in use at a time.

use std::{
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
};

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};
use parking_lot::Mutex;

use super::simd::{Lane, WIDTH};

/// Buffers that wait, the longest waiting first.
static IDLE: Mutex<Vec<Vec<Lane>>> = Mutex::new(Vec::new());

/// Smaller ones are left to the allocator, which keeps them itself.
const SMALLEST: usize = (64 << 10) / size_of::<Lane>();

/// A buffer serves for another one of at least this part of its size.
const PART: usize = 2;

/// Lanes that go back to where they came from.
#[derive(Debug)]
pub struct Buffer {
    lanes: Vec<Lane>,
    /// How many of them were asked for.
    count: usize,
}

impl Buffer {
    /// `count` lanes. What is in them is anything: zeros, or what somebody left there.
    pub fn new(count: usize) -> Self {
        let lanes = reused(count).unwrap_or_else(|| bytemuck::allocation::zeroed_vec(count));
        let mut buffer = Self { lanes, count };
        if cfg!(test) {
            // No test passes that relies on what is in there.
            buffer.fill(Lane([f32::NAN; WIDTH]));
        }
        buffer
    }

    /// `count` lanes of zeros.
    pub fn zeros(count: usize) -> Self {
        let Some(lanes) = reused(count) else {
            return Self { lanes: bytemuck::allocation::zeroed_vec(count), count };
        };
        let mut buffer = Self { lanes, count };
        buffer.fill(Lane::default());
        buffer
    }

    /// The same as Burn's, without a copy; it comes back when the last tensor of it is gone.
    pub fn into_bytes(self) -> Bytes {
        let numbers = self.count * WIDTH;
        Numbers { buffer: self, count: numbers }.into_bytes()
    }
}

impl Deref for Buffer {
    type Target = [Lane];

    fn deref(&self) -> &[Lane] {
        &self.lanes[..self.count]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [Lane] {
        &mut self.lanes[..self.count]
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.lanes.len() >= SMALLEST {
            IDLE.lock().push(std::mem::take(&mut self.lanes));
        }
    }
}

/// A row of numbers in such a buffer.
#[derive(Debug)]
pub struct Numbers {
    buffer: Buffer,
    count: usize,
}

impl PartialEq for Numbers {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Numbers {
    /// `count` numbers, which may be any.
    pub fn new(count: usize) -> Self {
        Self { buffer: Buffer::new(count.div_ceil(WIDTH)), count }
    }

    /// The same as Burn's, without a copy.
    pub fn into_bytes(self) -> Bytes {
        let length = self.count * size_of::<f32>();
        // SAFETY: the buffer has at least that many bytes, all of them initialised.
        unsafe { Bytes::from_controller(Box::new(self.buffer), length) }
    }
}

impl Deref for Numbers {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.buffer)[..self.count]
    }
}

impl DerefMut for Numbers {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.buffer)[..self.count]
    }
}

/// Gives all that waits back to the system.
pub fn release() {
    IDLE.lock().clear();
}

/// The smallest of the buffers that wait and are large enough, though not much too large. If there is none, as many lanes as are now to
/// come from the system go back to it: those of other sizes, such as an epoch's last and smaller batch had.
fn reused(count: usize) -> Option<Vec<Lane>> {
    if count < SMALLEST {
        return None;
    }
    let mut idle = IDLE.lock();
    let fitting = idle.iter().enumerate().rev().filter(|(_, buffer)| (count..=PART * count).contains(&buffer.len()));
    if let Some((found, _)) = fitting.min_by_key(|(_, buffer)| buffer.len()) {
        return Some(idle.remove(found));
    }
    let mut room = 0;
    while room < count && !idle.is_empty() {
        room += idle.remove(0).len();
    }
    None
}

impl AllocationController for Buffer {
    fn alloc_align(&self) -> usize {
        align_of::<Lane>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(self);
        // SAFETY: the same bytes; the caller promises to write initialised ones only.
        Ok(unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(self);
        // SAFETY: the same bytes, to be read only.
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

    /// Of a size that no other test uses.
    const COUNT: usize = SMALLEST + 7;

    #[test]
    fn a_buffer_comes_back_when_its_last_tensor_is_gone_and_a_copy_is_another() {
        let mut buffer = Buffer::new(COUNT);
        buffer.fill(Lane([5.0; WIDTH]));
        let address = buffer.as_ptr() as usize;
        let bytes = buffer.into_bytes();
        assert_eq!((bytes.as_ptr() as usize, bytes.len()), (address, size_of::<Lane>() * COUNT));
        let copy = bytes.clone();
        assert!(copy == bytes && copy.as_ptr() as usize != address);
        assert_eq!(copy.as_ptr() as usize % align_of::<Lane>(), 0);
        drop(bytes);
        let again = Buffer::zeros(COUNT);
        assert_eq!(again.as_ptr() as usize, address);
        assert!(again.iter().all(|lane| *lane == Lane::default()));
    }

    #[test]
    fn numbers_end_where_they_are_said_to() {
        let mut numbers = Numbers::new(COUNT);
        numbers.fill(2.0);
        let bytes = numbers.into_bytes();
        assert_eq!(bytemuck::cast_slice::<u8, f32>(&bytes), [2.0; COUNT]);
    }
}
