//! Memory of Vulkan adapters, which wgpu does not report: from NVIDIA's management library, or from `/sys` for amdgpu.

use std::path::Path;

use nvml_wrapper::Nvml;
use wgpu::{AdapterInfo, DeviceType};

/// PCI vendor identifier of NVIDIA.
const NVIDIA: u32 = 0x10de;

/// Name of NVIDIA's management library as drivers install it; the name without version is only in development packages.
const NVML_LIBRARY: &str = "libnvidia-ml.so.1";

/// Memory in bytes: of the machine if the adapter is in the processor or is a software rasteriser, else of the card. `None` if the driver
/// does not report it.
pub(super) fn bytes(adapter: &AdapterInfo) -> Option<u64> {
    let bus_id = adapter.device_pci_bus_id.as_str();
    match adapter.device_type {
        DeviceType::Cpu | DeviceType::IntegratedGpu => super::main_memory(),
        _ if adapter.vendor == NVIDIA => nvidia(bus_id),
        _ => amdgpu(Path::new("/sys/bus/pci/devices"), bus_id),
    }
}

fn nvidia(bus_id: &str) -> Option<u64> {
    let library = Nvml::builder().lib_path(NVML_LIBRARY.as_ref()).init().ok()?;
    let memory = library.device_by_pci_bus_id(bus_id).and_then(|device| device.memory_info());
    memory.map(|memory| memory.total).ok()
}

/// Reads the file in which amdgpu reports the memory of the card at a PCI bus id.
fn amdgpu(devices: &Path, bus_id: &str) -> Option<u64> {
    // An empty bus id would name the folder of all devices.
    let device = devices.join((!bus_id.is_empty()).then_some(bus_id)?);
    std::fs::read_to_string(device.join("mem_info_vram_total")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_memory_of_the_card_at_the_bus_id() {
        let devices = tempfile::tempdir().unwrap();
        for (bus_id, bytes) in [("0000:03:00.0", "17163091968\n"), ("0000:0b:00.0", "536870912\n")] {
            std::fs::create_dir(devices.path().join(bus_id)).unwrap();
            std::fs::write(devices.path().join(bus_id).join("mem_info_vram_total"), bytes).unwrap();
        }
        std::fs::create_dir(devices.path().join("0000:00:02.0")).unwrap();
        assert_eq!(amdgpu(devices.path(), "0000:03:00.0"), Some(17_163_091_968));
        assert_eq!(amdgpu(devices.path(), "0000:00:02.0"), None);
        assert_eq!(amdgpu(devices.path(), ""), None);
    }

    #[test]
    fn software_rasterisers_have_the_memory_of_the_machine() {
        let adapter = AdapterInfo::new(DeviceType::Cpu, wgpu::Backend::Vulkan);
        assert_eq!(bytes(&adapter), super::super::main_memory());
        let absent = AdapterInfo { vendor: NVIDIA, ..AdapterInfo::new(DeviceType::DiscreteGpu, wgpu::Backend::Vulkan) };
        assert_eq!(bytes(&absent), None);
    }
}
