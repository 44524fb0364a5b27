//! Device probe: compares results of a device with those of the CPU.
//!
//! [`check`] runs small computations when a device is opened, [`check_inference`] and [`check_training`] whole networks before they are
//! used.
//!
//! A driver may run Burn's kernels and return wrong numbers without an error, and autotuning then prefers the broken kernels, because a
//! kernel that does nothing is fast. Training and predictions would be meaningless, so such a device is refused before it is used.

mod network;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    time::Duration,
};

use burn::tensor::{
    Device, Tensor, TensorData,
    activation::{log_softmax, relu},
    module::{adaptive_avg_pool2d, conv2d, max_pool2d},
    ops::{ConvOptions, MaxPoolOptions},
};

pub use network::{check_inference, check_training};

/// Maximum difference relative to the largest number: a thousand times the rounding differences of another summation order.
const TOLERANCE: f32 = 1e-3;

/// Time limit of a probe.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A small computation, run on both devices. Together they cover the kinds of kernels that training uses.
type Computation = fn(&Device) -> Vec<f32>;

const COMPUTATIONS: [(&str, Computation); 9] = [
    ("a matrix product", |device| read(test_tensor([64, 32], device).matmul(test_tensor([32, 128], device)))),
    ("a narrow matrix product", |device| read(test_tensor([64, 3], device).matmul(test_tensor([3, 128], device)))),
    ("a transposed matrix product", |device| {
        read(test_tensor([32, 64], device).transpose().matmul(test_tensor([32, 128], device)))
    }),
    ("a 3x3 convolution", |device| read(convolution(device, [3, 8], 3, 1))),
    ("a 1x1 convolution", |device| read(convolution(device, [64, 32], 1, 1))),
    ("a strided 7x7 convolution", |device| read(convolution(device, [3, 64], 7, 2))),
    ("pooling", |device| {
        let options = MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1]);
        let pooled = max_pool2d(relu(test_tensor([2, 8, 16, 16], device)), options);
        read(adaptive_avg_pool2d(pooled, [1, 1]))
    }),
    ("the gradient of a convolution", convolution_gradient),
    ("log-softmax", |device| read(log_softmax(test_tensor([8, 3], device), 1))),
];

/// A convolution of two images of 16 x 16 pixels.
fn convolution(device: &Device, [inputs, outputs]: [usize; 2], kernel: usize, stride: usize) -> Tensor<4> {
    let (images, weights) =
        (test_tensor([2, inputs, 16, 16], device), test_tensor([outputs, inputs, kernel, kernel], device));
    conv2d(images, weights, None, ConvOptions::new([stride; 2], [kernel / 2; 2], [1, 1], 1))
}

/// Gradients of the weights and of the images.
fn convolution_gradient(device: &Device) -> Vec<f32> {
    let images = test_tensor([2, 8, 16, 16], device).autodiff().require_grad();
    let weights = test_tensor([16, 8, 3, 3], device).autodiff().require_grad();
    let output = conv2d(images.clone(), weights.clone(), None, ConvOptions::new([2, 2], [1, 1], [1, 1], 1));
    let gradients = relu(output).sum().backward();
    let of = |tensor: &Tensor<4>| read(tensor.grad(&gradients).expect("the output depends on it"));
    [of(&weights), of(&images)].concat()
}

/// Checks all computations on `device`.
///
/// # Errors
/// A description of the first wrong result.
pub(super) fn check(device: &Device) -> Result<(), String> {
    let cpu = Device::flex();
    for (name, compute) in COMPUTATIONS {
        compare(name, &compute(device), &compute(&cpu))?;
    }
    Ok(())
}

/// Checks that a device responds in time and computes correct results.
///
/// # Errors
/// A description of the failure.
pub fn check_device(device: &Device) -> Result<(), String> {
    let device = device.clone();
    within(TIMEOUT, move || check(&device))
}

/// Runs a probe on a thread of its own with a time limit. On a lost device a call panics or never returns.
fn within(timeout: Duration, probe: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel();
    let probing = move || {
        let outcome =
            catch_unwind(AssertUnwindSafe(probe)).unwrap_or_else(|_| Err("it rejects all computations".into()));
        // Fails if the probe took longer than the time limit; nothing to do then.
        let _ = sender.send(outcome);
    };
    let thread = std::thread::Builder::new().name("probe".into()).spawn(probing);
    thread.map_err(|error| format!("the probe thread cannot be started: {error}"))?;
    receiver.recv_timeout(timeout).unwrap_or_else(|_| Err(format!("it did not respond within {timeout:?}")))
}

fn compare(name: &str, found: &[f32], expected: &[f32]) -> Result<(), String> {
    let scale = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let agrees = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * scale; // false for NaN
    match found.iter().zip(expected).find(|&pair| !agrees(pair)) {
        None => Ok(()),
        Some((found, expected)) => Err(format!(
            "it computes {name} wrongly ({found}, but {expected} on the CPU); use another driver or the CPU"
        )),
    }
}

/// A tensor with deterministic numbers between -1 and 1.
fn test_tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
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
    fn panics_hangs_and_errors_of_a_device_are_reported() {
        let (_keeps_waiting, never) = mpsc::channel::<()>();
        let hang = move || never.recv().map_err(|error| error.to_string());
        assert_eq!(within(TIMEOUT, || check(&Device::flex())), Ok(()));
        assert!(within(TIMEOUT, || panic!("lost")).unwrap_err().contains("rejects"));
        assert!(within(Duration::from_millis(50), hang).unwrap_err().contains("50ms"));
        assert_eq!(
            within(TIMEOUT, || Err("it computes a sum wrongly".into())),
            Err("it computes a sum wrongly".into())
        );
    }

    #[test]
    fn wrong_numbers_are_reported() {
        let right = [1.0, -2.0, 0.5];
        assert_eq!(compare("it", &[1.001, -2.0, 0.499], &right), Ok(()));
        for wrong in [[0.0; 3], [1.0, -2.0, f32::NAN], [1.0, f32::INFINITY, 0.5], [1.01, -2.0, 0.5]] {
            let error = compare("a sum", &wrong, &right).unwrap_err();
            assert!(error.contains("a sum wrongly"), "{error}");
        }
    }
}
