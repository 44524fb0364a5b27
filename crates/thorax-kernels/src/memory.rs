//! Buffers that are used again.
//!
//! A step of training needs gigabytes of buffers, the same ones in each step. Given back to the system and asked for anew they would
//! cost a page fault for each 4 KiB and the zeroing of it, which takes as long as the step's arithmetic. So a buffer that is dropped
//! waits here for the next one that is little smaller. What waits and is in use together never exceeds by more than half what was
//! once in use at a time: with less room, steps that are all alike throw out what their next layer needs.

use std::ops::{Deref, DerefMut};

use parking_lot::Mutex;

use super::simd::{Lane, WIDTH};

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), waiting: 0, used: 0, most: 0 });

/// Buffers that wait, and how much there is of everything, in lanes.
struct Pool {
    /// The longest waiting first.
    idle: Vec<Vec<Lane>>,
    /// In `idle` altogether.
    waiting: usize,
    /// In use now.
    used: usize,
    /// In use at most since [`release`].
    most: usize,
}

/// Smaller ones are left to the allocator, which keeps them itself.
const SMALLEST: usize = (64 << 10) / size_of::<Lane>();

/// A buffer serves for another one that is smaller by at most this part of it: were it much smaller, the next one of the full size would
/// come from the system although there was one.
const SPARE: usize = 8;

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

    /// The same lanes as numbers.
    pub fn into_numbers(self) -> Numbers {
        Numbers { count: self.count * WIDTH, buffer: self }
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
            POOL.lock().put(std::mem::take(&mut self.lanes));
        }
    }
}

/// A row of numbers in such a buffer.
#[derive(Debug)]
pub struct Numbers {
    pub(crate) buffer: Buffer,
    pub(crate) count: usize,
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
    let mut pool = POOL.lock();
    (pool.idle, pool.waiting, pool.most) = (Vec::new(), 0, pool.used);
}

fn reused(count: usize) -> Option<Vec<Lane>> {
    if count < SMALLEST { None } else { POOL.lock().take(count) }
}

impl Pool {
    /// The smallest of the buffers that wait and are large enough, though not much too large. If there is none, so much goes back to the
    /// system that there is room for a new one: first what waited longest, such as an epoch's last and smaller batch had.
    fn take(&mut self, count: usize) -> Option<Vec<Lane>> {
        let sizes = count..=count + count / SPARE;
        let fitting = self.idle.iter().enumerate().rev().filter(|(_, buffer)| sizes.contains(&buffer.len()));
        let found = fitting.min_by_key(|(_, buffer)| buffer.len()).map(|(found, _)| found);
        let buffer = found.map(|found| self.idle.remove(found));
        self.waiting -= buffer.as_ref().map_or(0, Vec::len);
        self.used += buffer.as_ref().map_or(count, Vec::len);
        self.most = self.most.max(self.used);
        while self.waiting + self.used > self.most + self.most / 2 {
            self.waiting -= self.idle.remove(0).len();
        }
        buffer
    }

    fn put(&mut self, buffer: Vec<Lane>) {
        self.used -= buffer.len();
        self.waiting += buffer.len();
        self.idle.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_serves_a_request_with_an_idle_buffer_that_is_little_larger() {
        let mut pool = Pool { idle: Vec::new(), waiting: 0, used: 0, most: 0 };
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
    fn numbers_have_the_length_that_was_requested() {
        let numbers = Numbers::new(WIDTH + 1);
        assert_eq!(numbers.len(), WIDTH + 1);
    }
}
