//! Peak memory of a benchmark case.

use burn::tensor::Device;

use crate::metrics::process_memory;

/// Peak memory, if known: on the CPU the largest resident set of the process so far, on a GPU the largest size of the device's
/// memory pools after any repetition.
pub(super) struct Peak<'a> {
    device: &'a Device,
    reserved: Option<u64>,
}

impl<'a> Peak<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        Self { device, reserved: None }
    }

    /// To call after each repetition: unused pools are freed later.
    pub(super) fn sample(&mut self) {
        let now = self.device.memory_pool_usage().map(|usage| usage.bytes_reserved);
        self.reserved = self.reserved.max(now);
    }

    pub(super) fn bytes(&self) -> Option<u64> {
        if *self.device == Device::flex() { process_memory("VmHWM:") } else { self.reserved }
    }
}
