//! Comparison of GPU and CPU: the same job is trained on both, and the same model classifies on both. Needs a Vulkan driver; a software
//! driver suffices. CI sets `VK_DRIVER_FILES` to SwiftShader's, and `THORAX_TEST_VULKAN`. SwiftShader needs the build without `spirv`.

#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

#[path = "it/fixtures.rs"]
mod fixtures;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use burn::tensor::Device;
use thorax::{
    domain::{
        Architecture, ClassList, EpochRecord, InitialWeights, ModelId, Optimizer, RunProgress, Scope, Selection,
        SelectionMetric, Split, Stage, Step, TrainingPlan, recipe,
    },
    imaging::{GreyImage, encode_png},
    inference::Classifier,
    nn::DeviceChoice,
    training::{Checkpoint, Observer, ObserverError, Sample, StageModel, Stop, TrainingJob, train},
};

const SIDE: u32 = 32;

#[test]
fn training_and_prediction_on_vulkan_agree_with_the_cpu() {
    if std::env::var_os("THORAX_TEST_VULKAN").is_none() {
        fixtures::skip("no Vulkan driver (set THORAX_TEST_VULKAN where there is one)");
        return;
    }
    let tuning = tempfile::tempdir().unwrap();
    let (vulkan, info) = DeviceChoice::Vulkan(0).open(Some(tuning.path())).unwrap();
    assert_eq!((info.backend.as_str(), info.in_use), ("vulkan", true));
    println!("on {}: {}, driver {:?}", info.name, info.description, info.driver);
    assert!(info.driver.is_some_and(|driver| !driver.is_empty()));
    let (cpu, _) = DeviceChoice::Cpu.open(None).unwrap();
    let (on_vulkan, on_cpu) = (run(&vulkan, Duration::MAX), run(&cpu, Duration::MAX));
    compare_pauses(&on_vulkan, &run(&vulkan, Duration::ZERO));
    compare_epochs(&on_vulkan.epochs, &on_cpu.epochs);
    compare_probabilities(&on_cpu.models[0], &vulkan, &cpu);
    compare_probabilities(&on_vulkan.models[0], &vulkan, &cpu);
    let kept: u64 = files(tuning.path()).map(|file| file.metadata().unwrap().len()).sum();
    assert!(kept > 0, "nothing that was tuned is kept");
}

/// All files below a folder.
fn files(folder: &Path) -> Box<dyn Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    Box::new(entries.flat_map(|path| if path.is_dir() { files(&path) } else { Box::new(std::iter::once(path)) }))
}

/// A batch that pauses after each layer gives the same results as one that, once its layers are measured, does not pause.
fn compare_pauses(without: &TrainingRecord, with: &TrainingRecord) {
    assert!(with.models == without.models, "pauses change what is trained");
    println!("gave way {} times, and {} with a pause at each point", without.yields, with.yields);
    // Two epochs of two batches of the whole network, with three pauses forward and backward in each: three batches are measured.
    assert!(with.yields >= without.yields + 6, "{} and {}", with.yields, without.yields);
}

/// Each device rounds sums in another order, and training propagates the difference.
fn compare_epochs(vulkan: &[EpochRecord], cpu: &[EpochRecord]) {
    assert_eq!((vulkan.len(), cpu.len()), (4, 4));
    assert!(cpu[3].train.loss < cpu[0].train.loss, "nothing was learnt: {cpu:?}");
    for (gpu, cpu) in vulkan.iter().zip(cpu) {
        for (gpu, cpu) in [(gpu.train.loss, cpu.train.loss), (gpu.selection.loss, cpu.selection.loss)] {
            assert!((gpu - cpu).abs() <= 0.01 * cpu.abs().max(0.1), "loss {gpu} on Vulkan, {cpu} on the CPU");
        }
    }
}

/// The same model file on both devices.
fn compare_probabilities(model: &[u8], vulkan: &Device, cpu: &Device) {
    // One fewer than the maximum batch size, so that the batch of the GPU is padded.
    let images: Vec<GreyImage> = (0..5).map(square).collect();
    let images: Vec<&[u8]> = images.iter().map(|image| image.pixels.as_slice()).collect();
    let classify = |device| Classifier::load(ModelId::new(), model, device, 6).unwrap().probabilities(&images).unwrap();
    let (gpu, cpu) = (classify(vulkan), classify(cpu));
    assert_eq!((gpu.len(), cpu.len()), (5, 5));
    for (gpu, cpu) in gpu.iter().flatten().zip(cpu.iter().flatten()) {
        assert!((gpu - cpu).abs() < 1e-3, "probability {gpu} on Vulkan, {cpu} on the CPU");
    }
}

/// Files and results of a run.
#[derive(Default)]
struct TrainingRecord {
    epochs: Vec<EpochRecord>,
    models: Vec<Vec<u8>>,
    yields: usize,
}

impl Observer for TrainingRecord {
    fn progress(&mut self, _progress: &RunProgress) -> Result<(), ObserverError> {
        Ok(())
    }

    fn epoch(&mut self, epoch: &EpochRecord, _checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.epochs.push(epoch.clone());
        Ok(())
    }

    fn stage(&mut self, model: StageModel, _checkpoint: Checkpoint) -> Result<(), ObserverError> {
        self.models.push(model.bytes.to_vec());
        Ok(())
    }

    fn checkpoint(&mut self, _checkpoint: Checkpoint) -> Result<(), ObserverError> {
        Ok(())
    }

    fn should_stop(&mut self) -> Option<Stop> {
        None
    }
}

/// A plan with two epochs of the head, then two of the whole network.
fn run(device: &Device, max_yield: Duration) -> TrainingRecord {
    let cache = tempfile::tempdir().unwrap();
    let step = |scope| Step::new(scope, 1e-3, 2);
    let plan = TrainingPlan {
        architecture: Architecture::SimpleCnn,
        initial_weights: InitialWeights::Random,
        batch_size: 4,
        optimizer: Optimizer::Adam,
        dropout: 0.0,
        selection: Selection { split: Split::Validation, metric: SelectionMetric::Loss },
        checkpoint_minutes: 10.0,
        stages: vec![Stage { image_size: SIDE, steps: vec![step(Scope::Head), step(Scope::All)] }],
        ..recipe("simple-cnn").unwrap().plan
    };
    let sample = |split: Split, i: u32| Sample { class: (i % 2) as usize, split, key: i.to_string(), patient: None };
    let yields = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&yields);
    let train_on = (0..8).map(|i| sample(Split::Train, i));
    let job = TrainingJob {
        plan,
        classes: ClassList::new(vec!["left".into(), "right".into()]).unwrap(),
        samples: train_on.chain((8..12).map(|i| sample(Split::Validation, i))).collect(),
        read: Arc::new(|sample| Ok(encode_png(&square(sample.key.parse().unwrap())))),
        cache: cache.path().into(),
        max_pixels: 1 << 20,
        body: None,
        seed: 1,
        device: device.clone(),
        wait_until_idle: Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }),
        max_yield,
        checkpoint: None,
    };
    let mut record = TrainingRecord::default();
    train(job, &mut record).unwrap();
    record.yields = yields.load(Ordering::Relaxed);
    record
}

/// An image with a bright square, left for even numbers and right for odd ones; the number moves it down.
fn square(number: u32) -> GreyImage {
    let left = if number.is_multiple_of(2) { 4 } else { 18 };
    let top = 4 + number;
    let inside = |x: u32, y: u32| (left..left + 10).contains(&x) && (top..top + 10).contains(&y);
    let pixels = (0..SIDE * SIDE).map(|i| if inside(i % SIDE, i / SIDE) { 220 } else { 40 }).collect();
    GreyImage { width: SIDE, height: SIDE, pixels }
}
