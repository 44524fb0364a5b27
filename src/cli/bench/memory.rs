//! The most memory that was held.

use burn::tensor::Device;

use crate::metrics::process_memory;

/// On the CPU the largest resident set of the process so far, where the system tells it; on a GPU the most that the device's pools
/// had reserved after any run, where Burn tells it.
pub(super) struct Peak<'a> {
    device: &'a Device,
    reserved: Option<u64>,
}

impl<'a> Peak<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        Self { device, reserved: None }
    }

    /// Comes after each run: pools are given back when they are no longer used.
    pub(super) fn look(&mut self) {
        let now = self.device.memory_pool_usage().map(|usage| usage.bytes_reserved);
        self.reserved = self.reserved.max(now);
    }

    pub(super) fn bytes(&self) -> Option<u64> {
        if *self.device == Device::flex() { process_memory("VmHWM:") } else { self.reserved }
    }
}
