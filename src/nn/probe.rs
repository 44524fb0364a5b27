//! Whether a device computes what the CPU computes.
//!
//! A driver may take Burn's kernels and give wrong numbers without an error, and autotuning then prefers them: a kernel that does
//! nothing is fast. Such a device would train to nonsense and answer clients with it, so it is refused before it is used.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    time::Duration,
};

use burn::tensor::{Device, Tensor, TensorData, activation::log_softmax, module::conv2d, ops::ConvOptions};

/// Largest difference, as a share of the largest number: a thousand times what rounding in another order makes.
const TOLERANCE: f32 = 1e-3;

/// How long a device is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is computed on both; small, and between them the kinds of kernels that a step of training uses.
type Computation = fn(&Device) -> Vec<f32>;

const COMPUTATIONS: [(&str, Computation); 5] = [
    ("a matrix product", |device| read(drawn([64, 32], device).matmul(drawn([32, 128], device)))),
    ("a thin matrix product", |device| read(drawn([64, 3], device).matmul(drawn([3, 128], device)))),
    ("a transposed matrix product", |device| {
        read(drawn([32, 64], device).transpose().matmul(drawn([32, 128], device)))
    }),
    ("a convolution", |device| {
        let (image, kernel) = (drawn([2, 3, 16, 16], device), drawn([8, 3, 3, 3], device));
        read(conv2d(image, kernel, None, ConvOptions::new([1, 1], [1, 1], [1, 1], 1)))
    }),
    ("log-softmax", |device| read(log_softmax(drawn([8, 3], device), 1))),
];

/// The first computation that `device` gets wrong, in words.
pub(super) fn check(device: &Device) -> Result<(), String> {
    let cpu = Device::flex();
    for (name, compute) in COMPUTATIONS {
        compare(name, &compute(device), &compute(&cpu))?;
    }
    Ok(())
}

/// Whether a device that was right once still answers, and rightly.
///
/// # Errors
/// What it does instead, in words.
pub fn still_computes(device: &Device) -> Result<(), String> {
    let device = device.clone();
    within(PATIENCE, move || check(&device))
}

/// A device that is gone panics in the call, or never returns from it.
fn within(patience: Duration, probe: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel();
    let probing = move || {
        let outcome =
            catch_unwind(AssertUnwindSafe(probe)).unwrap_or_else(|_| Err("it refuses every computation".into()));
        // Nobody listens any more when it took too long.
        let _ = sender.send(outcome);
    };
    let thread = std::thread::Builder::new().name("probe".into()).spawn(probing);
    thread.map_err(|error| format!("it cannot be asked: {error}"))?;
    receiver.recv_timeout(patience).unwrap_or_else(|_| Err(format!("it did not answer within {patience:?}")))
}

fn compare(name: &str, there: &[f32], here: &[f32]) -> Result<(), String> {
    let scale = here.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let agrees = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * scale; // false for NaN
    match there.iter().zip(here).find(|&pair| !agrees(pair)) {
        None => Ok(()),
        Some((there, here)) => {
            Err(format!("it computes {name} wrongly ({there} where the CPU has {here}); use another driver or the CPU"))
        }
    }
}

/// Numbers between -1 and 1 from a formula.
fn drawn<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("the numbers are f32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself() {
        assert_eq!(check(&Device::flex()), Ok(()));
    }

    #[test]
    fn a_device_that_panics_or_hangs_or_errs_is_told_from_one_that_computes() {
        let (_keeps_waiting, never) = mpsc::channel::<()>();
        let hang = move || never.recv().map_err(|error| error.to_string());
        assert_eq!(within(PATIENCE, || check(&Device::flex())), Ok(()));
        assert!(within(PATIENCE, || panic!("lost")).unwrap_err().contains("refuses"));
        assert!(within(Duration::from_millis(50), hang).unwrap_err().contains("50ms"));
        assert_eq!(
            within(PATIENCE, || Err("it computes a sum wrongly".into())),
            Err("it computes a sum wrongly".into())
        );
    }

    #[test]
    fn wrong_numbers_are_told() {
        let right = [1.0, -2.0, 0.5];
        assert_eq!(compare("it", &[1.001, -2.0, 0.499], &right), Ok(()));
        for wrong in [[0.0; 3], [1.0, -2.0, f32::NAN], [1.0, f32::INFINITY, 0.5], [1.01, -2.0, 0.5]] {
            let told = compare("a sum", &wrong, &right).unwrap_err();
            assert!(told.contains("a sum wrongly"), "{told}");
        }
    }
}
