//! Buffers that are used again.
//!
//! A step of training needs gigabytes of buffers, the same ones in each step. Given back to the system and asked for anew they would
//! cost a page fault for each 4 KiB and the zeroing of it, which takes longer than most of what is computed on them. So a buffer that
//! is dropped waits here for the next one of its size. What waits and is in use together never exceeds what was once in use at a time.

use std::{mem::MaybeUninit, sync::Mutex};

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};

use super::simd::{Lane, WIDTH};

/// Buffers that wait, the longest waiting first.
static IDLE: Mutex<Vec<Vec<Lane>>> = Mutex::new(Vec::new());

/// Smaller ones are left to the allocator, which keeps them itself.
const SMALLEST: usize = (64 << 10) / size_of::<Lane>();

/// A buffer of `count` lanes. What is in them is anything: zeros, or what somebody left there.
pub fn lanes(count: usize) -> Vec<Lane> {
    if count < SMALLEST {
        return bytemuck::zeroed_vec(count);
    }
    let mut idle = idle();
    if let Some(found) = idle.iter().rposition(|buffer| buffer.len() == count) {
        return idle.remove(found);
    }
    // What sizes other than these were used before, such as an epoch's last and smaller batch, makes room.
    let mut surplus = 0;
    while surplus < count && !idle.is_empty() {
        surplus += idle.remove(0).len();
    }
    drop(idle);
    bytemuck::zeroed_vec(count)
}

/// Takes a buffer back.
pub fn give(buffer: Vec<Lane>) {
    if buffer.len() >= SMALLEST {
        idle().push(buffer);
    }
}

/// Gives all that waits back to the system.
pub fn release() {
    idle().clear();
}

fn idle() -> std::sync::MutexGuard<'static, Vec<Vec<Lane>>> {
    IDLE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A buffer as Burn's, without a copy; it comes back here when the last tensor of it is gone. Of the numbers in the lanes the first
/// `numbers` count.
///
/// # Panics
/// If there are not that many.
pub fn bytes(buffer: Vec<Lane>, numbers: usize) -> Bytes {
    assert!(numbers <= buffer.len() * WIDTH, "no more numbers than the lanes hold");
    // SAFETY: a `Vec`'s elements are initialised.
    unsafe { Bytes::from_controller(Box::new(Held(buffer)), numbers * size_of::<f32>()) }
}

/// A buffer on loan to Burn.
struct Held(Vec<Lane>);

impl Drop for Held {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

impl AllocationController for Held {
    fn alloc_align(&self) -> usize {
        align_of::<Lane>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.0);
        // SAFETY: the same bytes; the caller promises to write initialised ones only.
        Ok(unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.0);
        // SAFETY: the same bytes, to be read only.
        Ok(unsafe { &*(std::ptr::from_ref(bytes) as *const [MaybeUninit<u8>]) })
    }

    fn duplicate(&self) -> Option<Box<dyn AllocationController>> {
        let mut copy = lanes(self.0.len());
        copy.copy_from_slice(&self.0);
        Some(Box::new(Self(copy)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a size that no other test uses.
    const COUNT: usize = SMALLEST + 7;

    #[test]
    fn a_dropped_buffer_comes_back_and_a_copy_is_another() {
        let mut buffer = lanes(COUNT);
        buffer[3].0[1] = 5.0;
        let address = buffer.as_ptr().cast::<u8>();
        let bytes = bytes(buffer, COUNT * WIDTH - 1);
        assert_eq!((bytes.as_ptr(), bytes.len()), (address, (COUNT * WIDTH - 1) * 4));
        let copy = bytes.clone();
        assert!(copy == bytes && copy.as_ptr() != address);
        assert_eq!(copy.as_ptr() as usize % align_of::<Lane>(), 0);
        drop(bytes);
        let again = lanes(COUNT);
        assert_eq!(again.as_ptr().cast(), address);
    }
}
