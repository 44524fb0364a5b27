//! Opening the compute device. A GPU whose drivers are new to the data folder is checked in a process of its own first, because a driver
//! that crashes ends the process.

use std::{
    fs,
    io::{self, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use burn::tensor::Device;

use super::AppError;
use crate::{
    domain::DeviceInfo,
    nn::{self, DeviceChoice, NnError},
};

/// Maximum time of the check. It tunes a few kernels, which takes seconds on a GPU and minutes on a software driver.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);

/// Maximum time for listing the devices.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval between two looks at the process.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// An open device.
pub(super) struct OpenDevice {
    pub(super) device: Device,
    pub(super) info: DeviceInfo,
    /// True if listing the GPUs of the machine cannot crash a driver.
    may_list_gpus: bool,
}

impl OpenDevice {
    /// The devices of the machine, with the open one marked.
    pub(super) fn all(&self) -> Arc<[DeviceInfo]> {
        let listed = match (self.may_list_gpus, self.info.name.as_str()) {
            (true, _) => nn::devices(),
            (false, "cpu") => list_in_process().unwrap_or_else(|| vec![self.info.clone()]),
            (false, _) => vec![self.info.clone()],
        };
        let mark = |device: DeviceInfo| DeviceInfo { in_use: device.name == self.info.name, ..device };
        listed.into_iter().map(mark).collect()
    }
}

/// Opens the device with the autotune cache in the folder `tuning`. With `auto`, a GPU that cannot be used leaves the CPU, with a warning.
///
/// # Errors
/// If the device cannot be opened, computes wrong results, or crashes its driver.
pub(super) fn open(choice: DeviceChoice, tuning: &Path) -> Result<OpenDevice, AppError> {
    let is_checked = DeviceChoice::HAS_GPU && choice.may_be_gpu();
    let refused = if is_checked { check_in_process(choice, tuning).err() } else { None };
    let may_list_gpus = !DeviceChoice::HAS_GPU || is_checked && refused.is_none();
    let (device, info) = match (refused, choice) {
        (None, choice) => choice.open(Some(tuning))?,
        (Some(reason), DeviceChoice::Auto) => {
            tracing::warn!(reason, "the GPU cannot be used: using the CPU");
            DeviceChoice::Cpu.open(None)?
        }
        (Some(reason), choice) => return Err(NnError::Device(format!("{choice}: {reason}")).into()),
    };
    Ok(OpenDevice { device, info, may_list_gpus })
}

/// True if the file records that the drivers passed the check of this version.
pub(crate) fn has_passed(file: &Path, drivers: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|recorded| recorded == record(drivers))
}

/// Records in the file that the drivers passed the check.
pub(crate) fn record_passed(file: &Path, drivers: &str) -> io::Result<()> {
    fs::write(file, record(drivers))
}

fn record(drivers: &str) -> String {
    format!("{}\n{drivers}\n", env!("CARGO_PKG_VERSION"))
}

/// `thorax probe`, quiet.
fn probe() -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("probe").args(["--log", "error"]).stdin(Stdio::null());
    Ok(command)
}

/// Runs `thorax probe` on the device.
///
/// # Errors
/// The reason for which the device is refused.
fn check_in_process(choice: DeviceChoice, tuning: &Path) -> Result<(), String> {
    let start = || {
        fs::create_dir_all(tuning)?;
        let mut command = probe()?;
        command.arg("--device").arg(choice.to_string()).arg("--tuning").arg(tuning);
        command.arg("--record").arg(tuning.join("checked-drivers"));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    };
    let child = start().map_err(|error| format!("the check of the device cannot be started: {error}"))?;
    verdict(child, CHECK_TIMEOUT)
}

/// The devices as another process lists them; `None` if a driver crashes it.
fn list_in_process() -> Option<Vec<DeviceInfo>> {
    let mut command = probe().ok()?;
    let mut child = command.arg("--list").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let is_success = wait(&mut child, LIST_TIMEOUT).ok()?.is_some_and(|status| status.success());
    let devices = is_success.then(|| child.stdout.take()).flatten().map(serde_json::from_reader);
    let devices = devices.and_then(Result::ok);
    if devices.is_none() {
        tracing::warn!("the GPUs cannot be listed: a driver crashes or does not respond");
    }
    devices
}

/// Waits for the check.
///
/// # Errors
/// The reason for which the device is refused.
fn verdict(mut child: Child, timeout: Duration) -> Result<(), String> {
    // Read at the side: a driver may write more than the pipe holds.
    let stderr = child.stderr.take().map(|mut stderr| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before an error is shown.
            drop(stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        })
    });
    let status = wait(&mut child, timeout).map_err(|error| format!("the check of the device was lost: {error}"))?;
    let Some(status) = status else {
        return Err(format!("the check of the device did not end within {} s", timeout.as_secs()));
    };
    if status.success() {
        return Ok(());
    }
    let text = stderr.and_then(|thread| thread.join().ok()).unwrap_or_default();
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("without a message").trim();
    Err(match status.code() {
        // The error that `thorax` prints names the device already.
        Some(_) => {
            let reason = last.strip_prefix("thorax: device ").unwrap_or(last);
            let named = reason.split_once(": ").filter(|(device, _)| device.starts_with("vulkan:"));
            named.map_or(reason, |(_, reason)| reason).to_owned()
        }
        None => {
            format!("its driver crashed while the device was checked ({status}; {last}): use another driver or the CPU")
        }
    })
}

/// The exit status; `None` if the process did not end in time and was killed.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if began.elapsed() > timeout {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, timeout: Duration) -> Result<(), String> {
        let mut command = Command::new("sh");
        verdict(command.args(["-c", script]).stderr(Stdio::piped()).spawn().unwrap(), timeout)
    }

    #[test]
    fn a_device_is_refused_with_the_reason_if_its_check_fails_crashes_or_hangs() {
        let minute = Duration::from_secs(60);
        assert_eq!(run("exit 0", minute), Ok(()));
        let refused =
            run("echo noise >&2; echo 'thorax: device vulkan:0: it computes a sum wrongly' >&2; exit 1", minute);
        assert_eq!(refused, Err("it computes a sum wrongly".into()));
        let crashed = run("kill -SEGV $$", minute).unwrap_err();
        assert!(crashed.contains("its driver crashed") && crashed.contains("signal"), "{crashed}");
        assert!(run("sleep 60", Duration::from_millis(100)).unwrap_err().contains("did not end"));
        // More than a pipe holds.
        assert!(run("head -c 200000 /dev/zero | tr '\\0' x >&2; echo >&2; echo last >&2; exit 1", minute).is_err());
    }

    #[test]
    fn drivers_that_passed_are_not_checked_again_and_others_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("checked-drivers");
        assert!(!has_passed(&file, "one"));
        record_passed(&file, "one").unwrap();
        assert!(has_passed(&file, "one") && !has_passed(&file, "two"));
    }
}
