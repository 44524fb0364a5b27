//! Comparison of GPU and CPU: the same job is trained on both, and the same model classifies on both, in the library and in the program.
//! Needs a Vulkan driver; a software driver suffices. CI sets `VK_DRIVER_FILES` to that of lavapipe, and `THORAX_TEST_VULKAN`.

#![cfg(feature = "gpu")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

#[path = "it/fixtures.rs"]
mod fixtures;
#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "it/process.rs"]
mod process;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use burn::tensor::Device;
use process::{Running, succeeds, thorax, with_phantoms};
use serde_json::{Value, json};
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

/// Time limit for a run on a software driver, which compiles and tunes its kernels for minutes the first time.
const MAX_TUNING: Duration = Duration::from_secs(1200);

/// True if there is a Vulkan driver. Otherwise the test is reported as skipped.
#[track_caller]
fn has_vulkan() -> bool {
    let has_vulkan = std::env::var_os("THORAX_TEST_VULKAN").is_some();
    if !has_vulkan {
        fixtures::skip("no Vulkan driver (set THORAX_TEST_VULKAN where there is one)");
    }
    has_vulkan
}

#[test]
fn training_and_prediction_on_vulkan_agree_with_the_cpu() {
    if !has_vulkan() {
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

#[test]
fn resnet50_on_vulkan_agrees_with_the_cpu() {
    if !has_vulkan() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut probe = thorax(folder.path());
    probe.args(["probe", "--device", "vulkan:0", "--architecture", "resnet50", "--image-size", "64", "--batch", "2"]);
    let output = probe.envs(kernel_dump("resnet50")).output().unwrap();
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("ok: resnet50 at 64 px"), "{out}\n{error}");
}

#[test]
fn a_server_on_vulkan_trains_resumes_predicts_and_explains_as_one_on_the_cpu() {
    if !has_vulkan() {
        return;
    }
    let folder = with_phantoms();
    let on = |device, name| {
        let kernels = kernel_dump(name);
        let kernels = kernels.as_ref().map(|(variable, folder)| (*variable, folder.to_str().unwrap()));
        let variables = [("THORAX_DEVICE", device), ("THORAX_DRAIN_SECONDS", "0"), ("THORAX_MAX_BATCH_SIZE", "1")]
            .into_iter()
            .chain(kernels);
        Running::start(folder.path(), &variables.collect::<Vec<_>>())
    };
    let mut server = on("vulkan:0", "trains");
    let steps = [("head", 2), ("all", 3)]
        .map(|(scope, epochs)| json!({"scope": scope, "learning_rate": 1e-3, "epochs": epochs}));
    let run = server.submit("simple-cnn", &json!({"batch_size": 4, "stages": [{"image_size": 32, "steps": steps}]}));
    let run = format!("/v1/training-runs/{run}");
    server.wait_within(MAX_TUNING, &run, |run| run["progress"]["epoch"].as_u64() > Some(1));
    assert!(server.end("-TERM").success());
    server = on("vulkan:0", "resumes");
    let run =
        server.wait_within(MAX_TUNING, &run, |run| !["queued", "running"].contains(&run["status"].as_str().unwrap()));
    assert_eq!((&run["status"], &run["device"]), (&json!("succeeded"), &json!("vulkan:0")), "{run}");

    let model = server.get("/v1/models").1["items"][0]["id"].clone();
    assert_eq!(server.send("PUT", "/v1/models/aliases/champion", &json!({"model_id": model}).to_string()).0, 200);
    let image =
        fs::read(files(&folder.path().join("phantoms")).find(|file| file.extension() == Some("png".as_ref())).unwrap());
    let predict = |server: &Running| {
        let path = "/v1/predictions?explain=true";
        let (status, _, body) =
            server.exchange("POST", path, &[("content-type", "image/png")], image.as_ref().unwrap());
        let prediction: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status, 200, "{prediction}");
        prediction
    };
    let on_vulkan = predict(&server);
    assert!(server.end("-TERM").success());
    // lavapipe lacks the extension. The release would refuse it; the build of CI has the correction and only warns.
    let log = server.standard_error();
    assert!(!log.contains("llvmpipe") || log.contains("VK_KHR_workgroup_memory_explicit_layout"), "{log}");
    let on_cpu = predict(&on("cpu:f32", "classifies"));
    assert_eq!(on_vulkan["prediction"], on_cpu["prediction"]);
    compare_json(&on_vulkan["probabilities"], &on_cpu["probabilities"]);
    compare_json(&on_vulkan["heatmap"]["values"], &on_cpu["heatmap"]["values"]);
}

/// Variable and folder with which a server writes its kernels apart from those of other processes, which have the same names; `None` if the
/// kernels are not to be written.
fn kernel_dump(name: &str) -> Option<(&'static str, PathBuf)> {
    const VARIABLE: &str = "MESA_SPIRV_DUMP_PATH";
    let folder = PathBuf::from(std::env::var_os(VARIABLE)?).join(name);
    fs::create_dir_all(&folder).unwrap();
    Some((VARIABLE, folder))
}

/// Numbers below two values agree.
fn compare_json(one: &Value, other: &Value) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            assert!(!one.is_empty() && one.keys().eq(other.keys()));
            one.iter().for_each(|(name, value)| compare_json(value, &other[name]));
        }
        (Value::Array(one), Value::Array(other)) => {
            assert!(!one.is_empty() && one.len() == other.len());
            one.iter().zip(other).for_each(|(one, other)| compare_json(one, other));
        }
        _ => {
            let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
            assert!((one - other).abs() < 1e-2, "{one} on Vulkan, {other} on the CPU");
        }
    }
}

#[test]
fn a_driver_that_crashes_does_not_take_the_server_down() {
    let folder = tempfile::tempdir().unwrap();
    let [source, library, driver] = ["crash.c", "libcrash.so", "crash.json"].map(|name| folder.path().join(name));
    fs::write(&source, "#include <stdlib.h>\n__attribute__((constructor)) static void crash(void) { abort(); }\n")
        .unwrap();
    succeeds(Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]));
    let icd = json!({"file_format_version": "1.0.0", "ICD": {"library_path": library, "api_version": "1.3.0"}});
    fs::write(&driver, icd.to_string()).unwrap();
    let driver = driver.to_str().unwrap();

    for device in ["auto", "cpu"] {
        let mut server = Running::start(folder.path(), &[("THORAX_DEVICE", device), ("VK_DRIVER_FILES", driver)]);
        assert_eq!(server.get("/health/live").0, 200);
        let devices = server.get("/v1/admin/devices").1;
        assert_eq!(
            (&devices["items"][0]["name"], devices["items"].as_array().unwrap().len()),
            (&json!("cpu"), 1),
            "{devices}"
        );
        assert!(server.end("-TERM").success());
        let log = server.standard_error();
        assert!(log.contains("crash"), "{log}");
    }
    let explicit =
        thorax(folder.path()).args(["serve", "--device", "vulkan:0"]).env("VK_DRIVER_FILES", driver).output().unwrap();
    let error = String::from_utf8_lossy(&explicit.stderr);
    assert!(explicit.status.code() == Some(1) && error.contains("vulkan:0: its driver crashed"), "{error}");
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
