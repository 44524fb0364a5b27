//! `thorax dataset …`: splits, distributions and exports on the command line.

use std::{path::Path, process::Output};

use crate::process::{thorax, with_phantoms};

#[test]
fn a_split_by_seed_is_exported_and_read_back() {
    let folder = with_phantoms();
    let folder = folder.path();
    let split = ["dataset", "split", "phantoms", "--test-fraction", "0.2", "--seed", "3"];
    let first = shown(run(folder, &split));
    assert!(first.contains("images") && first.contains("test"), "{first}");
    assert_eq!(shown(run(folder, &split)), first, "the same seed");
    let printed = shown(run(folder, &["dataset", "export", "phantoms", "--labels", "--out", "labels"]));
    assert!(printed.contains("labels/train_split.txt: ") && printed.contains("labels/test_split.txt: "), "{printed}");
    let counted = ["--train-labels", "labels/train_split.txt", "--test-labels", "labels/test_split.txt"];
    let counted = [&["dataset", "distribution", "--format", "text"][..], &counted].concat();
    assert_eq!(shown(run(folder, &counted)), first, "the files say what the data set says");
}

#[test]
fn arrays_are_written_and_imported() {
    let folder = with_phantoms();
    let folder = folder.path();
    let printed = shown(run(
        folder,
        &[
            "dataset",
            "export",
            "phantoms",
            "--arrays",
            "--image-size",
            "32",
            "--dtype",
            "uint8",
            "--channels",
            "1",
            "--out",
            "arrays",
        ],
    ));
    assert!(
        printed.contains("arrays/x_train_32.npy: ") && printed.contains("classes: 0 normal, 1 pneumonia, 2 COVID-19"),
        "{printed}"
    );
    let size = |name: &str| std::fs::metadata(folder.join("arrays").join(name)).unwrap().len();
    let images = (size("y_train.npy") - 128) / 8;
    assert_eq!(size("x_train_32.npy"), 128 + images * 32 * 32);
    let imported = shown(run(folder, &["import", "--dataset", "again", "arrays"]));
    assert!(imported.contains("30 found: 30 imported, 0 duplicates, 0 rejected"), "{imported}");
}

#[test]
fn dataset_commands_report_what_is_wrong() {
    let folder = with_phantoms();
    let folder = folder.path();
    std::fs::write(folder.join("bad.txt"), "1 a.png normal\n2 b.png effusion\n").unwrap();
    for (args, why) in [
        (&["dataset", "split", "phantoms", "--test-fraction", "1"][..], "below 1"),
        (&["dataset", "split", "nobody"], "nobody"),
        (&["dataset", "export", "phantoms", "--out", "x"], "--labels"),
        (&["dataset", "export", "phantoms", "--out", "x", "--labels", "--dtype", "uint8"], "--arrays"),
        (&["dataset", "export", "phantoms", "--out", "x", "--arrays", "--channels", "2"], "1 or 3"),
        (&["dataset", "distribution"], "DATASET"),
        (&["dataset", "distribution", "--train-labels", "bad.txt"], "bad.txt:2"),
        (&["dataset", "distribution", "--train-labels", "missing.txt"], "missing.txt"),
    ] {
        let output = run(folder, args);
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && printed.contains(why), "{args:?}: {printed}");
    }
}

fn run(folder: &Path, args: &[&str]) -> Output {
    thorax(folder).args(args).output().unwrap()
}

fn shown(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_data_set_is_generated_from_a_source_by_rules() {
    let folder = with_phantoms();
    let folder = folder.path();
    std::fs::create_dir_all(folder.join("fig1")).unwrap();
    std::fs::rename(folder.join("phantoms/train"), folder.join("fig1/images")).unwrap();
    let patients: Vec<String> = std::fs::read_dir(folder.join("fig1/images"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let rows: String = patients.iter().map(|patient| format!("{patient},COVID-19,PA\n")).collect();
    std::fs::write(folder.join("fig1/metadata.csv"), format!("patientid,finding,view\n{rows}nobody,ARDS,PA\n"))
        .unwrap();
    let rules = shown(run(folder, &["dataset", "generate", "--print-rules"]));
    assert!(rules.contains("[rsna]"));
    let fraction = "[fig1]\nviews = [\"PA\"]\nexclude_urls = []\ntest_fraction = 0.5\n";
    std::fs::write(folder.join("rules.toml"), fraction).unwrap();
    let printed = shown(run(folder, &["dataset", "generate", "made", "--fig1", "fig1", "--rules", "rules.toml"]));
    let all = patients.len();
    assert!(printed.contains(&format!("{all} found: {all} imported, 0 duplicates, 0 rejected")), "{printed}");
    assert!(printed.contains("fig1: 1 left out: finding \"ARDS\""), "{printed}");
    let table = shown(run(folder, &["dataset", "distribution", "made"]));
    let test = (all as f64 / 2.0).round();
    let cells = table.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(cells.contains(&format!("| test | 0 | 0 | {test} | {test} |")), "{table}");
    std::fs::write(folder.join("rules.toml"), "[fig1]\nview = []\n").unwrap();
    for (args, why) in [
        (&["dataset", "generate", "made"][..], "--cohen"),
        (&["dataset", "generate", "made", "--fig1", "fig1", "--rules", "rules.toml"], "view"),
        (&["dataset", "generate", "made", "--fig1", "nowhere"], "nowhere"),
        (&["dataset", "generate", "made", "--fig1", "fig1", "--classes", "a,b"], "cannot be changed"),
        (&["dataset", "generate", "made", "--fig1", "fig1", "--rules", "x", "--train-labels", "y"], "--train-labels"),
    ] {
        let output = run(folder, args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(why), "{args:?}: {said}");
    }
}

#[test]
fn an_import_that_fails_at_once_leaves_no_data_set() {
    let folder = with_phantoms();
    let folder = folder.path();
    std::fs::create_dir(folder.join("nothing")).unwrap();
    for source in ["nothing", "missing"] {
        let refused = run(folder, &["import", "--dataset", "unborn", source]);
        assert!(!refused.status.success(), "{source}: {refused:?}");
        let listed = run(folder, &["dataset", "distribution", "unborn"]);
        let output = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert!(output.contains("\"unborn\" not found"), "{source}: {output}");
    }
    // A data set that was there before stays, and so does its content.
    assert!(!run(folder, &["import", "--dataset", "phantoms", "nothing"]).status.success());
    shown(run(folder, &["dataset", "distribution", "phantoms"]));
}

#[test]
fn an_import_names_each_rejected_file_once_and_lists_what_differs_from_the_data_set() {
    let folder = with_phantoms();
    let folder = folder.path();
    std::fs::create_dir_all(folder.join("broken/normal")).unwrap();
    std::fs::write(folder.join("broken/normal/one.png"), b"no image").unwrap();
    let output = shown(run(folder, &["import", "--dataset", "broken", "broken"]));
    let line = output.lines().find(|line| line.contains("one.png")).unwrap();
    assert_eq!(line.matches("one.png").count(), 1, "{line}");

    // The same images with another class for one of them.
    let labels = folder.join("phantoms/train_split.txt");
    let before = std::fs::read_to_string(&labels).unwrap();
    let (first, rest) = before.split_once('\n').unwrap();
    std::fs::write(&labels, format!("{}\n{rest}", first.replace(" normal ", " pneumonia "))).unwrap();
    assert_ne!(std::fs::read_to_string(&labels).unwrap(), before);
    let output = shown(run(folder, &["import", "--dataset", "phantoms", "phantoms"]));
    assert!(output.contains("train_split.txt:1: the image is in the data set already, with another label"), "{output}");
    assert!(output.contains("(1 with another label, split, patient or view), 0 rejected"), "{output}");
}
