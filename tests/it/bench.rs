//! `thorax bench`: its output, its errors, and the number of threads that it uses.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::fixtures::skip_unsupported;

const FIELDS: [&str; 12] = [
    "architecture",
    "batch",
    "case",
    "device",
    "image_size",
    "images_per_second",
    "median_ms",
    "p99_ms",
    "peak_memory_bytes",
    "precision",
    "threads",
    "warm_up_ms",
];

#[test]
fn bench_prints_one_json_object_per_case_with_plausible_figures() {
    let cases = measured(&["--batch", "2,4", "--runs", "3"]);
    let named: Vec<_> = cases.iter().map(|case| (case["case"].as_str().unwrap(), &case["batch"])).collect();
    assert_eq!(named, [("predict", &2.into()), ("predict", &4.into()), ("train", &2.into()), ("train", &4.into())]);
    for case in &cases {
        assert_eq!(case.as_object().unwrap().keys().collect::<Vec<_>>(), FIELDS);
        assert_eq!(
            [&case["architecture"], &case["device"], &case["image_size"]],
            [&Value::from("simple-cnn"), &"cpu".into(), &32.into()]
        );
        assert!(["f32", "bf16x3"].map(Value::from).contains(&case["precision"]), "{case}");
        let number = |field: &str| case[field].as_f64().unwrap();
        assert!(0.0 < number("median_ms") && number("median_ms") <= number("p99_ms"), "{case}");
        // Three runs take at least twice the median time, and at most three times that of the slowest.
        let images = 3.0 * number("batch");
        let seconds = images / number("images_per_second");
        assert!((2.0 * number("median_ms")..=3.001 * number("p99_ms")).contains(&(seconds * 1e3)), "{case}");
        assert!(number("threads") >= 1.0, "{case}");
        if cfg!(target_os = "linux") {
            assert!((1e6..1e10).contains(&number("peak_memory_bytes")), "{case}");
        }
    }
}

#[test]
fn details_add_each_run_and_the_computed_work() {
    let cases = measured(&["--batch", "2", "--runs", "3", "--details"]);
    let [predict, train] = cases.as_slice() else { panic!("{cases:?}") };
    assert_eq!(predict["samples_ms"].as_array().unwrap().len(), 3);
    let rows = predict["probabilities"].as_array().unwrap();
    let sum = |row: &Value| row.as_array().unwrap().iter().map(|share| share.as_f64().unwrap()).sum::<f64>();
    assert!(rows.len() == 2 && rows.iter().all(|row| (sum(row) - 1.0).abs() < 1e-5), "{predict}");
    let losses: Vec<f64> = train["losses"].as_array().unwrap().iter().map(|loss| loss.as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 5, "two steps of warm-up and three measured: {train}");
    assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{train}");
}

#[test]
fn an_exported_network_computes_what_the_original_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("network.safetensors");
    let file = file.to_str().unwrap();
    let output = bench(&["--export", file]).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    let predict = |flags: &[&str]| {
        let flags = [&["--case", "predict", "--batch", "1", "--runs", "1", "--details"], flags].concat();
        measured(&flags)[0]["probabilities"].clone()
    };
    assert_eq!(predict(&["--weights", file]), predict(&[]));
    assert_ne!(predict(&["--weights", file, "--image-size", "64"]), predict(&[]), "another size of input");
    let wrong = refused(bench(&["--weights", file]).args(["--architecture", "resnet50"]));
    assert!(wrong.contains("simple-cnn") && wrong.contains("resnet50"), "{wrong}");
}

#[test]
fn cpu_f32_reports_its_precision_and_differs_little_from_the_default() {
    let flags = ["--case", "predict", "--batch", "4", "--runs", "1", "--details", "--json"];
    let exact = &objects(bench(&flags).args(["--device", "cpu:f32"]).output().unwrap())[0];
    assert_eq!([&exact["device"], &exact["precision"]], ["cpu", "f32"]);
    let usual = &objects(bench(&flags).output().unwrap())[0];
    let shares = |case: &Value| -> Vec<f64> {
        let rows = case["probabilities"].as_array().unwrap().iter();
        rows.flat_map(|row| row.as_array().unwrap()).map(|share| share.as_f64().unwrap()).collect()
    };
    let (exact_shares, usual_shares) = (shares(exact), shares(usual));
    assert_eq!(exact_shares == usual_shares, usual["precision"] == "f32", "the same where nothing else is computed");
    assert!(exact_shares.iter().zip(&usual_shares).all(|(a, b)| (a - b).abs() < 1e-4), "{exact} {usual}");
}

#[test]
fn bf16_is_used_on_request_if_the_processor_supports_it() {
    let flags = ["--batch", "4", "--runs", "1", "--details", "--json"];
    let output = bench(&flags).args(["--device", "cpu:bf16"]).output().unwrap();
    if objects(bench(&flags).output().unwrap())[0]["precision"] == "f32" {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && stderr.contains("AMX"), "{stderr}");
        return;
    }
    let [rounded, exact] = [output, bench(&flags).args(["--device", "cpu:f32"]).output().unwrap()].map(objects);
    for (rounded, exact) in rounded.iter().zip(&exact) {
        assert_eq!([&rounded["precision"], &exact["precision"]], ["bf16", "f32"]);
        let numbers = |case: &Value| -> Vec<f64> {
            let numbers = case.get("losses").or_else(|| case["probabilities"].get(0)).unwrap().as_array().unwrap();
            numbers.iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let (rounded, exact) = (numbers(rounded), numbers(exact));
        // The first step's loss, and probabilities: later losses drift apart.
        let apart = (rounded[0] - exact[0]).abs();
        assert!(apart > 0.0 && apart < 0.03 * exact[0], "{rounded:?} {exact:?}");
    }
}

#[test]
fn rejects_cases_that_it_cannot_measure_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let nonsense = folder.path().join("nonsense");
    std::fs::write(&nonsense, "no weights").unwrap();
    let nonsense = nonsense.to_str().unwrap();
    let refusals: [(&[&str], &str); 10] = [
        (&["--case", "guess"], "predict, train, all"),
        (&["--architecture", "vgg"], "resnet50"),
        (&["--image-size", "8"], "32..=1024"),
        (&["--batch", "0"], "1..=512"),
        (&["--runs", "0"], "1..=100000"),
        (&["--threads", "0"], "1..=1024"),
        (&["--details"], "--json"),
        (&["--device", "toaster"], "vulkan"),
        (&["--weights", "no-such-file"], "no-such-file"),
        (&["--weights", nonsense], "safetensors"),
    ];
    for (flags, reason) in refusals {
        let mut command = program();
        let said = refused(command.arg("bench").args(flags));
        assert!(said.contains(reason), "{flags:?}: {said}");
    }
}

#[test]
fn without_json_it_prints_a_table() {
    let output = program()
        .args([
            "bench",
            "--device",
            "cpu",
            "--architecture",
            "simple-cnn",
            "--image-size",
            "32",
            "--batch",
            "1",
            "--runs",
            "1",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<&str> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(rows, ["case", "predict", "train"], "{text}");
}

#[test]
fn computes_with_the_reported_number_of_threads() {
    let counts = [1, 3, 6].map(|threads: usize| {
        let flags = ["--case", "train", "--batch", "16", "--runs", "60", "--threads", &threads.to_string()];
        let (cases, most) = with_tasks(&mut bench(&[&flags[..], &["--json"]].concat()));
        assert_eq!(cases[0]["threads"], threads, "{cases:?}");
        most
    });
    if let [Some(one), Some(three), Some(six)] = counts {
        // Each compute pool has grown by that number of threads.
        let (pools, rest) = ((three - one) / 2, (three - one) % 2);
        assert!(pools >= 1 && rest == 0 && six - three == 3 * pools, "{one}, {three} and {six} threads in all");
    } else {
        skip_unsupported("this operating system does not list the threads of a process in /proc");
    }
}

/// Runs `thorax bench` to its end. Returns the cases, and the peak number of threads where the system lists them.
fn with_tasks(command: &mut Command) -> (Vec<Value>, Option<usize>) {
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let tasks = format!("/proc/{}/task", process.id());
    let listed = Path::new(&tasks).is_dir();
    let mut most = 0;
    while process.try_wait().unwrap().is_none() {
        most = most.max(std::fs::read_dir(&tasks).map_or(0, Iterator::count));
        std::thread::yield_now();
    }
    (objects(process.wait_with_output().unwrap()), listed.then_some(most))
}

/// Plan of the small network at 32 pixels.
fn bench(flags: &[&str]) -> Command {
    let mut command = program();
    command.args(["bench"]).args(flags).env("THORAX_DEVICE", "cpu");
    if !flags.contains(&"--weights") {
        command.args(["--architecture", "simple-cnn"]);
    }
    if !flags.contains(&"--image-size") {
        command.args(["--image-size", "32"]);
    }
    command
}

fn measured(flags: &[&str]) -> Vec<Value> {
    objects(bench(&[flags, &["--json"]].concat()).output().unwrap())
}

fn objects(output: Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Standard error of a command that must fail.
fn refused(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The program without configuration variables and without variables that set the number of threads.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thorax"));
    let ours = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("THORAX_"));
    for name in ours.chain(["RAYON_NUM_THREADS".into()]) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}
