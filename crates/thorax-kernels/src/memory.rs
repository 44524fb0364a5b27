//! Pool of buffers.
//!
//! A training step needs gigabytes of buffers, and each step needs the same ones. If they were returned to the system
//! and allocated again, each 4 KiB would cost a page fault and zeroing, which takes as long as the arithmetic of the
//! step. So a dropped buffer stays in the pool and serves the next request that is equal or slightly smaller. Idle
//! and used buffers together are limited to 1.5 times the peak in use: with less room, identical steps would evict
//! what their next layer needs.

use std::{
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::simd::{BLOCK, ChannelBlock};

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), idle_blocks: 0, used: 0, peak: 0 });

/// True if buffers with unspecified contents are filled with NaN.
static POISONED: AtomicBool = AtomicBool::new(cfg!(any(test, debug_assertions)));

/// Fills buffers with unspecified contents with NaN from now on, new ones as well as reused ones. A kernel that reads what it has
/// not written then computes NaN. For tests of programs that use the kernels; the tests of the kernels always do this.
pub fn poison_buffers() {
    POISONED.store(true, Ordering::Relaxed);
}

/// Fills blocks whose contents are unspecified with NaN, in tests.
pub(crate) fn poison(blocks: &mut [ChannelBlock]) {
    if POISONED.load(Ordering::Relaxed) {
        blocks.fill(ChannelBlock([f32::NAN; BLOCK]));
    }
}

/// Idle buffers, and statistics in blocks.
struct Pool {
    /// Oldest first.
    idle: Vec<Vec<ChannelBlock>>,
    /// Total size of `idle`.
    idle_blocks: usize,
    /// Total size of the buffers in use.
    used: usize,
    /// Peak of `used` since [`release`].
    peak: usize,
}

/// Smaller buffers are left to the allocator, which caches them.
const MIN_POOLED: usize = (64 << 10) / size_of::<ChannelBlock>();

/// An idle buffer serves a request if at most this fraction of the request (1/8) stays unused. A much smaller request
/// would take a buffer whose next full-size user must then allocate.
const MAX_SPARE: usize = 8;

/// Buffer of blocks that returns to the pool when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    blocks: Vec<ChannelBlock>,
    /// Requested length; `blocks` may be longer.
    count: usize,
}

impl Buffer {
    /// Buffer of `count` blocks with unspecified (but initialised) contents.
    pub fn new(count: usize) -> Self {
        let blocks = take_pooled(count).unwrap_or_else(|| bytemuck::allocation::zeroed_vec(count));
        let mut buffer = Self { blocks, count };
        poison(&mut buffer);
        buffer
    }

    /// Buffer of `count` blocks of zeros.
    pub fn zeros(count: usize) -> Self {
        let Some(blocks) = take_pooled(count) else {
            return Self { blocks: bytemuck::allocation::zeroed_vec(count), count };
        };
        let mut buffer = Self { blocks, count };
        buffer.fill(ChannelBlock::default());
        buffer
    }

    /// Reinterprets the blocks as numbers.
    pub fn into_numbers(self) -> FloatBuffer {
        FloatBuffer { count: self.count * BLOCK, buffer: self }
    }
}

impl Deref for Buffer {
    type Target = [ChannelBlock];

    fn deref(&self) -> &[ChannelBlock] {
        &self.blocks[..self.count]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [ChannelBlock] {
        &mut self.blocks[..self.count]
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.blocks.len() >= MIN_POOLED {
            POOL.lock().put(std::mem::take(&mut self.blocks));
        }
    }
}

/// Numbers in such a buffer.
#[derive(Debug)]
pub struct FloatBuffer {
    pub(crate) buffer: Buffer,
    pub(crate) count: usize,
}

impl PartialEq for FloatBuffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl FloatBuffer {
    /// Buffer of `count` numbers with unspecified (but initialised) contents.
    pub fn new(count: usize) -> Self {
        Self { buffer: Buffer::new(count.div_ceil(BLOCK)), count }
    }
}

impl Deref for FloatBuffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.buffer)[..self.count]
    }
}

impl DerefMut for FloatBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.buffer)[..self.count]
    }
}

/// Returns all idle buffers to the system.
pub fn release() {
    let mut pool = POOL.lock();
    (pool.idle, pool.idle_blocks, pool.peak) = (Vec::new(), 0, pool.used);
}

fn take_pooled(count: usize) -> Option<Vec<ChannelBlock>> {
    if count < MIN_POOLED { None } else { POOL.lock().take(count) }
}

impl Pool {
    /// Takes the smallest idle buffer that fits. If there is none, evicts idle buffers until there is room for a new
    /// one: the oldest first, such as those of the smaller last batch of an epoch.
    fn take(&mut self, count: usize) -> Option<Vec<ChannelBlock>> {
        let sizes = count..=count + count / MAX_SPARE;
        let fitting = self.idle.iter().enumerate().rev().filter(|(_, buffer)| sizes.contains(&buffer.len()));
        let found = fitting.min_by_key(|(_, buffer)| buffer.len()).map(|(found, _)| found);
        let buffer = found.map(|found| self.idle.remove(found));
        self.idle_blocks -= buffer.as_ref().map_or(0, Vec::len);
        self.used += buffer.as_ref().map_or(count, Vec::len);
        self.peak = self.peak.max(self.used);
        while self.idle_blocks + self.used > self.peak + self.peak / 2 {
            self.idle_blocks -= self.idle.remove(0).len();
        }
        buffer
    }

    fn put(&mut self, buffer: Vec<ChannelBlock>) {
        self.used -= buffer.len();
        self.idle_blocks += buffer.len();
        self.idle.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_serves_a_request_with_an_idle_buffer_that_is_little_larger() {
        let mut pool = Pool { idle: Vec::new(), idle_blocks: 0, used: 0, peak: 0 };
        assert!(pool.take(1000).is_none());
        let buffer = bytemuck::allocation::zeroed_vec(1000);
        let address = buffer.as_ptr();
        pool.put(buffer);
        let buffer = pool.take(900).expect("the idle buffer");
        assert_eq!((buffer.as_ptr(), buffer.len()), (address, 1000));
        pool.put(buffer);
        assert!(pool.take(800).is_none(), "a fifth of the buffer would be unused");
    }

    #[test]
    fn new_and_reused_buffers_are_poisoned_in_tests() {
        const COUNT: usize = MIN_POOLED + 11;
        for _ in 0..2 {
            let mut buffer = Buffer::new(COUNT);
            assert!(buffer.iter().all(|block| block.0.iter().all(|number| number.is_nan())));
            buffer.fill(ChannelBlock::default());
        }
        assert!(Buffer::zeros(COUNT).iter().all(|block| *block == ChannelBlock::default()));
    }

    #[test]
    fn numbers_have_the_length_that_was_requested() {
        let numbers = FloatBuffer::new(BLOCK + 1);
        assert_eq!(numbers.len(), BLOCK + 1);
    }
}
