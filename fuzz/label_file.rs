//! Split files in the COVIDx format.
#![no_main]

use thorax::{dataset::covidx, domain::ClassList};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let (rows, problems) = covidx::parse(text, &ClassList::default());
    assert!(rows.len() + problems.len() <= text.lines().count());
    for row in rows {
        let path = std::path::Path::new(&row.file_name);
        assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{path:?}");
    }
});
