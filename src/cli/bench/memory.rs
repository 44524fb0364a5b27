//! The most memory that was held.

use std::fs;

use burn::tensor::Device;

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
        if *self.device == Device::flex() { process_peak() } else { self.reserved }
    }
}

/// Linux: `VmHWM` of the process, which it counts in units of 1024 bytes.
fn process_peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}
