//! Peculiarities of the published label files, and the files themselves.

use super::*;

fn row(text: &str) -> Row {
    let (mut rows, problems) = parse(text, &ClassList::default());
    assert_eq!(problems, []);
    rows.pop().expect("one row")
}

fn problem(text: &str) -> String {
    let (rows, mut problems) = parse(text, &ClassList::default());
    assert_eq!(rows, []);
    problems.pop().expect("one problem").reason
}

#[test]
fn the_four_columns_are_parsed() {
    let row = row("nih:1281 nih_00001281_000.jpg normal nih");
    assert_eq!((row.line, row.patient_id.as_deref()), (1, Some("nih:1281")));
    assert_eq!((row.file_name.as_str(), row.class.as_str()), ("nih_00001281_000.jpg", "normal"));
    assert_eq!(row.source.as_deref(), Some("nih"));
}

#[test]
fn the_source_is_optional() {
    assert_eq!(row("8989e25c 8989e25c.png normal").source, None);
}

#[test]
fn patient_ids_may_contain_spaces() {
    let row = row("COVID 1 COVID(1).png COVID-19 sirm");
    assert_eq!((row.patient_id.as_deref(), row.file_name.as_str()), (Some("COVID 1"), "COVID(1).png"));
    assert_eq!((row.class.as_str(), row.source.as_deref()), ("COVID-19", Some("sirm")));
}

#[test]
fn a_class_name_in_patient_id_or_source_is_not_the_anchor() {
    let row = row("normal 7 image normal(7).png pneumonia normal archive");
    assert_eq!((row.patient_id.as_deref(), row.class.as_str()), (Some("normal 7 image"), "pneumonia"));
    assert_eq!(row.source.as_deref(), Some("normal archive"));
}

#[test]
fn class_names_may_contain_spaces() {
    let classes = ClassList::new(["Normal", "Viral Pneumonia", "Pneumonia"].map(String::from).to_vec()).unwrap();
    let text =
        "p 1 a.png Viral Pneumonia a source\n2 b Viral Pneumonia\n3 c.png Pneumonia Viral\n4 d.png Viral_Pneumonia\n";
    let (rows, problems) = parse(text, &classes);
    assert_eq!(problems, []);
    let read: Vec<_> =
        rows.iter().map(|row| (row.file_name.as_str(), row.class.as_str(), row.source.as_deref())).collect();
    let viral = "Viral Pneumonia";
    let expected = [
        ("a.png", viral, Some("a source")),
        ("b", viral, None),
        ("c.png", "Pneumonia", Some("Viral")),
        ("d.png", viral, None),
    ];
    assert_eq!(read, expected);
    assert_eq!(parse(&write(&rows, &classes).unwrap(), &classes), (rows, vec![]));
}

#[test]
fn names_that_differ_by_punctuation_count_only_without_others() {
    assert_eq!(row("1 a.png covid19 x").class, "COVID-19");
    let row = row("1 a normal covid19");
    assert_eq!((row.class.as_str(), row.source.as_deref()), ("normal", Some("covid19")));
}

#[test]
fn classes_are_returned_in_the_spelling_of_the_data_set() {
    assert_eq!(row("1 a.png Covid-19 cohen").class, "COVID-19");
}

#[test]
fn invalid_lines_are_reported_by_number_and_do_not_affect_others() {
    let (rows, problems) =
        parse("\u{feff}1 a.png normal x\r\n\r\n2 b.png effusion x\n3 c.png normal\n", &ClassList::default());
    assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(rows[0].patient_id.as_deref(), Some("1"));
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].line, 3);
    assert!(problems[0].reason.contains("normal, pneumonia, COVID-19"), "{}", problems[0].reason);
}

#[test]
fn missing_columns_are_reported() {
    assert!(problem("a.png normal cohen").contains("missing"));
    assert!(problem("normal").contains("missing"));
}

/// Found by fuzzing.
#[test]
fn file_names_with_a_current_folder_part_are_rejected() {
    for name in [".", "./a.png", "x/./a.png"] {
        assert!(problem(&format!("1 {name} normal cohen")).contains("is a folder"), "{name}");
    }
}

#[test]
fn file_names_outside_of_the_folder_are_rejected() {
    for name in ["../a.png", "/etc/a.png", "x/../../a.png", "..\\a.png", "C:\\a.png", "\\\\host\\a.png"] {
        assert!(problem(&format!("1 {name} normal cohen")).contains("is outside"), "{name}");
    }
    assert_eq!(row("1 sub/a..b.png normal").file_name, "sub/a..b.png");
}

#[test]
fn a_dash_means_an_unknown_patient() {
    assert_eq!(row("- a.png normal cohen").patient_id, None);
    assert_eq!(row("-1 a.png normal cohen").patient_id.as_deref(), Some("-1"));
}

#[test]
fn writing_reproduces_the_parsed_file() {
    let text = "COVID 1 COVID(1).png COVID-19 sirm\n8989e25c 8989e25c.png normal\n- b.png normal\n\
                normal 7 a.png pneumonia an archive\n";
    let classes = ClassList::default();
    let (rows, problems) = parse(text, &classes);
    assert_eq!((rows.len(), problems.len()), (4, 0));
    assert_eq!(write(&rows, &classes).as_deref(), Ok(text));
}

#[test]
fn rows_that_the_format_cannot_represent_are_rejected() {
    let good = row("1 a.png normal cohen");
    let bad = [
        Row { file_name: "a b.png".into(), ..good.clone() },
        Row { file_name: "../a.png".into(), ..good.clone() },
        Row { patient_id: Some(String::new()), ..good.clone() },
        Row { patient_id: Some("-".into()), ..good.clone() },
        Row { patient_id: Some("two  spaces".into()), ..good.clone() },
        Row { class: "other".into(), ..good.clone() },
        Row { source: Some("b\nc".into()), ..good.clone() },
        Row { source: Some("b.png normal".into()), ..good.clone() },
    ];
    for bad in bad {
        let problem = write([&good, &bad], &ClassList::default()).expect_err(&format!("{bad:?}"));
        assert_eq!(problem.line, 2);
    }
}

#[test]
fn writing_reproduces_the_published_rows() {
    let Some(folder) = crate::fixtures::shared_folder("covidx") else { return };
    let classes = ClassList::default();
    for name in ["train_COVIDx7A.txt", "test_COVIDx7A.txt"] {
        let text = std::fs::read_to_string(folder.join(name)).expect("a published label file");
        let (rows, _) = parse(&text, &classes);
        assert_eq!(parse(&write(&rows, &classes).expect("parsed rows"), &classes), (rows, vec![]), "{name}");
    }
}

#[test]
fn the_published_files_are_parsed_completely() {
    let Some(folder) = crate::fixtures::shared_folder("covidx") else { return };
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a published label file");
    for (name, lines) in [("train_COVIDx7A.txt", 15_111), ("test_COVIDx7A.txt", 300)] {
        let (rows, problems) = parse(&read(name), &ClassList::default());
        assert_eq!((rows.len(), problems.len()), (lines, 0), "{name}");
    }
    let (train, _) = parse(&read("train_COVIDx7A.txt"), &ClassList::default());
    let (test, _) = parse(&read("test_COVIDx7A.txt"), &ClassList::default());
    assert_eq!(test.iter().filter(|row| row.source.is_none()).count(), 197);
    assert_eq!(
        train
            .iter()
            .chain(&test)
            .filter(|row| row.patient_id.as_ref().is_some_and(|patient| patient.contains(' ')))
            .count(),
        1_199
    );
}
