//! Shared memory of Vulkan adapters.
//!
//! cubecl-spirv 0.11.3 writes invalid SPIR-V for kernels with shared memory where the driver lacks VK_KHR_workgroup_memory_explicit_layout:
//! `lower_shared_implicit` in its `src/ops/memory.rs` swaps the type of a value and the type of its pointer. Such kernels return zeros
//! (SwiftShader) or end the process inside the driver (Mesa), so that the adapter must be refused before any kernel runs. The drivers of
//! NVIDIA, AMD and Intel GPUs have the extension.

use vulkano::{
    VulkanLibrary,
    instance::{Instance, InstanceCreateFlags, InstanceCreateInfo},
};

/// Checks that kernels with shared memory can run on the adapter of this name.
///
/// # Errors
/// The reason why they cannot, in one sentence.
pub(super) fn check(adapter: &str) -> Result<(), String> {
    if has_explicit_layout(adapter)? {
        return Ok(());
    }
    let lacks =
        "its driver lacks VK_KHR_workgroup_memory_explicit_layout, without which kernels are compiled incorrectly";
    // CI builds with a copy of the crate in which the two types are not swapped.
    if cfg!(corrected_shared_memory) {
        tracing::warn!(adapter, "{lacks} by the released cubecl-spirv; this build has a corrected copy");
        return Ok(());
    }
    Err(format!("{lacks}: use the CPU, or build with `--no-default-features --features gpu`"))
}

fn has_explicit_layout(adapter: &str) -> Result<bool, String> {
    let unknown = |error: String| format!("the extensions of its driver cannot be listed ({error})");
    let library = VulkanLibrary::new().map_err(|error| unknown(error.to_string()))?;
    let info = InstanceCreateInfo { flags: InstanceCreateFlags::ENUMERATE_PORTABILITY, ..Default::default() };
    let instance = Instance::new(library, info).map_err(|error| unknown(error.to_string()))?;
    let mut devices = instance.enumerate_physical_devices().map_err(|error| unknown(error.to_string()))?;
    let device = devices.find(|device| device.properties().device_name == adapter);
    let device = device.ok_or_else(|| unknown("Vulkan does not list it".to_owned()))?;
    Ok(device.supported_extensions().khr_workgroup_memory_explicit_layout
        && device.supported_features().workgroup_memory_explicit_layout)
}
