//! Process statistics from the operating system.

use std::fs;

/// A memory field of `/proc/self/status`, such as `VmRSS:`, in bytes. `None` on systems without it.
pub fn process_memory(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}
