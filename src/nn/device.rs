//! Compute devices.

#[cfg(feature = "spirv")]
mod shared_memory;

use std::{fmt, path::Path, str::FromStr};

use burn::tensor::Device;
use thorax_kernels::Precision;

use super::NnError;
use crate::domain::DeviceInfo;

/// Value of `THORAX_DEVICE`: `auto`, `vulkan[:N]` or `cpu[:PRECISION]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if there is one that can be used (a software rasteriser does not count), else the CPU.
    Auto,
    /// A GPU through Burn's Vulkan backend. Opening it fails without the `gpu` feature or the adapter, or if the adapter computes wrong
    /// results.
    Vulkan(usize),
    /// The CPU, through Burn's flex backend and the CPU kernels, with the fastest precision whose error is at most a few millionths.
    Cpu,
    /// The CPU with products in the given precision.
    CpuWith(Precision),
}

impl FromStr for DeviceChoice {
    type Err = NnError;

    fn from_str(text: &str) -> Result<Self, NnError> {
        let vulkan = |index: &str| index.parse().ok().map(Self::Vulkan);
        let choice = match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "vulkan" => Some(Self::Vulkan(0)),
            other => match other.split_once(':') {
                Some(("vulkan", index)) => vulkan(index),
                Some(("cpu", precision)) => Precision::from_name(precision).map(Self::CpuWith),
                _ => None,
            },
        };
        choice.ok_or_else(|| {
            NnError::Device(format!("{text:?} must be auto, vulkan, vulkan:N, cpu, cpu:f32, cpu:bf16x3 or cpu:bf16"))
        })
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Vulkan(index) => write!(f, "vulkan:{index}"),
            Self::Cpu => f.write_str("cpu"),
            Self::CpuWith(precision) => write!(f, "cpu:{}", precision.name()),
        }
    }
}

impl DeviceChoice {
    /// True if this build supports GPUs.
    pub const HAS_GPU: bool = cfg!(feature = "gpu");

    /// True if the device may be a GPU.
    pub fn may_be_gpu(self) -> bool {
        matches!(self, Self::Auto | Self::Vulkan(_))
    }

    /// Opens the device. The results of GPU autotuning are cached in the folder `autotune_cache`, or in the user's cache folder if `None`, so
    /// that the next process starts without autotuning. The first call of a process decides on the folder.
    ///
    /// # Errors
    /// If the device is unavailable or computes wrong results.
    pub fn open(self, autotune_cache: Option<&Path>) -> Result<(Device, DeviceInfo), NnError> {
        if self.may_be_gpu() {
            gpu::configure_autotuning(autotune_cache);
        }
        let (device, info) = match self {
            Self::Auto => gpu_or_cpu(gpu::first_real()),
            Self::Vulkan(index) => gpu::open(index)?,
            Self::Cpu => cpu(),
            Self::CpuWith(precision) => cpu_with(precision)?,
        };
        Ok((device, DeviceInfo { in_use: true, ..info }))
    }
}

/// All devices that this build supports, with `in_use` false. Opens each adapter to read its name; the description of an adapter that cannot
/// be opened is the reason.
pub fn devices() -> Vec<DeviceInfo> {
    let (_, cpu) = cpu();
    std::iter::once(cpu).chain(gpu::list()).collect()
}

/// The Vulkan adapters and their drivers, one line each, without opening them. Empty without a Vulkan loader or driver.
pub fn drivers() -> String {
    gpu::drivers()
}

/// Size in bytes of the buffer that a GPU could not allocate, from the panic that this causes; `None` for any other panic.
pub fn failed_allocation(panic: &str) -> Option<u64> {
    // The error of cubecl-runtime, `IoError::BufferTooBig`, reaches this side as text.
    let (_, size) = panic.split_once("can't allocate buffer of size: ")?;
    size.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// The GPU, or the CPU if there is none or it cannot be used.
fn gpu_or_cpu(gpu: Result<Option<(Device, DeviceInfo)>, NnError>) -> (Device, DeviceInfo) {
    let gpu = gpu.unwrap_or_else(|error| {
        tracing::warn!(%error, "the GPU cannot be used: using the CPU");
        None
    });
    gpu.unwrap_or_else(cpu)
}

fn cpu_with(precision: Precision) -> Result<(Device, DeviceInfo), NnError> {
    let name = precision.name();
    if !precision.is_supported() {
        return Err(NnError::Device(format!("cpu:{name}: precision {name} requires a processor with AMX, and Linux")));
    }
    if !precision.select() {
        let selected = Precision::selected().name();
        return Err(NnError::Device(format!("cpu:{name}: this process already uses precision {selected}")));
    }
    Ok(cpu())
}

fn cpu() -> (Device, DeviceInfo) {
    let (name, description) = ("cpu".into(), processor_name());
    let memory_bytes = main_memory();
    let info = DeviceInfo { name, backend: "flex".into(), description, driver: None, memory_bytes, in_use: false };
    (Device::flex(), info)
}

/// Main memory in bytes: that of the machine, or less where a control group limits the process. `None` on systems without `/proc`.
fn main_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = total.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024;
    // In a container the control group of the process is mounted as the root, in version 2 and 1.
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = |path: &&str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    Some(limits.iter().filter_map(limit).fold(total, u64::min))
}

/// Model name of the processor if the system reports it, else its architecture; then the number of threads and the precision.
fn processor_name() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").ok();
    let line = cpuinfo.as_deref().and_then(|text| text.lines().find(|line| line.starts_with("model name")));
    let name = line.and_then(|line| line.split(':').nth(1)).map(|name| name.trim().to_string());
    let name = name.unwrap_or_else(|| std::env::consts::ARCH.into());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{name}, {threads} threads, {}", Precision::selected().name())
}

#[cfg(feature = "gpu")]
mod gpu {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        path::Path,
    };

    use burn::{
        backend::DispatchDevice,
        tensor::{Device, DeviceKind, DeviceType},
    };
    use cubecl_runtime::config::{CubeClRuntimeConfig, RuntimeConfig, autotune::AutotuneLevel, cache::CacheConfig};
    use futures_util::FutureExt;

    use super::{DeviceInfo, NnError};
    use crate::nn::probe;

    #[cfg(feature = "spirv")]
    const BACKEND: DeviceType = DeviceType::Vulkan;

    /// The first API that wgpu finds; it tries Vulkan first.
    #[cfg(not(feature = "spirv"))]
    const BACKEND: DeviceType = DeviceType::Wgpu;

    /// Sets the folder of the autotune cache and how many kernels are tried. Later calls have no effect, because the runtime is already
    /// configured.
    pub(super) fn configure_autotuning(folder: Option<&Path>) {
        let mut config = CubeClRuntimeConfig::default();
        // On a software rasteriser each trial takes seconds, and the best kernel saves less than that.
        if adapter_infos().iter().all(|adapter| adapter.device_type == wgpu::DeviceType::Cpu) {
            config.autotune.level = AutotuneLevel::Minimal;
        }
        let mut config = config.override_from_env();
        config.environment.path = folder.map_or(CacheConfig::Global, |folder| CacheConfig::Directory(folder.into()));
        CubeClRuntimeConfig::try_set(config);
    }

    /// The adapters in Burn's order (discrete, integrated, virtual, CPU, other), not opened. Empty without a Vulkan loader or driver.
    fn adapters() -> Vec<Device> {
        Device::enumerate(BACKEND).into_iter().collect()
    }

    /// The first adapter that is not a software rasteriser.
    pub(super) fn first_real() -> Result<Option<(Device, DeviceInfo)>, NnError> {
        let software = software();
        match adapters().iter().position(|device| *device != software) {
            Some(index) => open(index).map(Some),
            None => Ok(None),
        }
    }

    #[cfg(feature = "spirv")]
    fn software() -> Device {
        Device::vulkan(DeviceKind::Cpu)
    }

    #[cfg(not(feature = "spirv"))]
    fn software() -> Device {
        Device::wgpu(DeviceKind::Cpu)
    }

    pub(super) fn open(index: usize) -> Result<(Device, DeviceInfo), NnError> {
        let found = adapters();
        let missing =
            || NnError::Device(format!("vulkan:{index} does not exist: found {} Vulkan adapters", found.len()));
        let device = found.get(index).cloned().ok_or_else(missing)?;
        let unusable = |why| NnError::Device(format!("vulkan:{index}: {why}"));
        let description = adapter_name(&device).map_err(unusable)?;
        #[cfg(feature = "spirv")]
        super::shared_memory::check(&description).map_err(unusable)?;
        probe::check(&device).map_err(unusable)?;
        let memory_bytes = memory(&device);
        Ok((device, DeviceInfo { memory_bytes, ..info(index, description) }))
    }

    pub(super) fn list() -> Vec<DeviceInfo> {
        let describe = |(index, device)| match adapter_name(device) {
            Ok(name) => DeviceInfo { memory_bytes: memory(device), ..info(index, name) },
            Err(why) => info(index, format!("unusable: {why}")),
        };
        adapters().iter().enumerate().map(describe).collect()
    }

    fn info(index: usize, description: String) -> DeviceInfo {
        let driver = driver(&description);
        let (name, backend) = (format!("vulkan:{index}"), "vulkan".into());
        DeviceInfo { name, backend, description, driver, memory_bytes: None, in_use: false }
    }

    /// Memory of the device in bytes: its largest heap, or the part of main memory that the driver grants. `None` if the driver does not
    /// report it.
    fn memory(device: &Device) -> Option<u64> {
        let DispatchDevice::Cube(device) = device.as_dispatch() else { return None };
        device.client().properties().memory.max_memory()
    }

    pub(super) fn drivers() -> String {
        let line = |info: &wgpu::AdapterInfo| format!("{}: {}", info.name, driver_of(info));
        let mut lines: Vec<String> = adapter_infos().iter().map(line).collect();
        lines.sort();
        lines.join("\n")
    }

    /// Name and version of the driver of an adapter, given the adapter's name.
    fn driver(adapter: &str) -> Option<String> {
        let info = adapter_infos().into_iter().find(|info| info.name == adapter)?;
        Some(driver_of(&info)).filter(|driver| !driver.is_empty())
    }

    fn driver_of(info: &wgpu::AdapterInfo) -> String {
        let words = [info.driver.trim(), info.driver_info.trim()];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn adapter_infos() -> Vec<wgpu::AdapterInfo> {
        let backends = wgpu::Backends::VULKAN;
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        // Outside a browser the list is ready immediately.
        let adapters = instance.enumerate_adapters(backends).now_or_never().unwrap_or_default();
        adapters.into_iter().map(|adapter| adapter.get_info()).collect()
    }

    /// Opens the adapter and returns its name. Burn panics in the calling thread if the driver refuses.
    fn adapter_name(device: &Device) -> Result<String, String> {
        let opened = catch_unwind(AssertUnwindSafe(|| device.identity()));
        match opened {
            Ok(Some(identity)) => Ok(identity.name),
            Ok(None) => Ok("unnamed adapter".into()),
            Err(_) => Err("the adapter is listed but cannot be opened".into()),
        }
    }
}

#[cfg(not(feature = "gpu"))]
mod gpu {
    use std::path::Path;

    use burn::tensor::Device;

    use super::{DeviceInfo, NnError};

    pub(super) fn configure_autotuning(_folder: Option<&Path>) {}

    pub(super) fn first_real() -> Result<Option<(Device, DeviceInfo)>, NnError> {
        Ok(None)
    }

    pub(super) fn open(index: usize) -> Result<(Device, DeviceInfo), NnError> {
        Err(NnError::Device(format!("vulkan:{index}: this build has no GPU support (cargo feature `gpu`)")))
    }

    pub(super) fn drivers() -> String {
        String::new()
    }

    pub(super) fn list() -> Vec<DeviceInfo> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_allocation_is_found_in_a_panic() {
        let panic = "Error while reading data\nCaused by:\n  An IO error happened\nCaused by:\n  can't allocate buffer of size: 214798336\nNo \
                     backtrace available";
        assert_eq!(failed_allocation(panic), Some(214_798_336));
        assert_eq!(failed_allocation("index out of bounds"), None);
    }

    #[test]
    fn a_gpu_that_cannot_be_used_leaves_the_cpu() {
        let refused = || NnError::Device("vulkan:0: it computes a convolution wrongly".into());
        for gpu in [Ok(None), Err(refused())] {
            assert_eq!(gpu_or_cpu(gpu).1.name, "cpu");
        }
        let gpu = DeviceInfo { name: "vulkan:0".into(), ..cpu().1 };
        assert_eq!(gpu_or_cpu(Ok(Some((Device::flex(), gpu)))).1.name, "vulkan:0");
    }
}
