//! `thorax dataset …`: splits, distributions and exports on the command line.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

mod process;

use std::{path::Path, process::Output};

use process::{thorax, with_phantoms};

#[test]
fn a_split_by_seed_is_exported_and_read_back() {
    let folder = with_phantoms();
    let folder = folder.path();
    let split = ["dataset", "split", "phantoms", "--test-fraction", "0.2", "--seed", "3"];
    let first = shown(run(folder, &split));
    assert!(first.contains("images") && first.contains("test"), "{first}");
    assert_eq!(shown(run(folder, &split)), first, "the same seed");
    let told = shown(run(folder, &["dataset", "export", "phantoms", "--labels", "--out", "labels"]));
    assert!(told.contains("labels/train_split.txt: ") && told.contains("labels/test_split.txt: "), "{told}");
    let counted = ["--train-labels", "labels/train_split.txt", "--test-labels", "labels/test_split.txt"];
    let counted = [&["dataset", "distribution", "--format", "text"][..], &counted].concat();
    assert_eq!(shown(run(folder, &counted)), first, "the files say what the data set says");
}

#[test]
fn what_is_wrong_is_told() {
    let folder = with_phantoms();
    let folder = folder.path();
    std::fs::write(folder.join("bad.txt"), "1 a.png normal\n2 b.png effusion\n").unwrap();
    for (args, why) in [
        (&["dataset", "split", "phantoms", "--test-fraction", "1"][..], "below 1"),
        (&["dataset", "split", "nobody"], "nobody"),
        (&["dataset", "export", "phantoms", "--out", "x"], "--labels"),
        (&["dataset", "distribution"], "DATASET"),
        (&["dataset", "distribution", "--train-labels", "bad.txt"], "bad.txt:2"),
        (&["dataset", "distribution", "--train-labels", "missing.txt"], "missing.txt"),
    ] {
        let output = run(folder, args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(why), "{args:?}: {told}");
    }
}

fn run(folder: &Path, args: &[&str]) -> Output {
    thorax(folder).args(args).output().unwrap()
}

fn shown(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
