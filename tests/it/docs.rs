//! The documentation agrees with the program: generated pages, configuration variables, links, and the kinds of code blocks.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Code blocks by the first line of their fence. CI runs `sh` (see `tests/docs.sh` and `tests/tour.sh`) and opens the page of `html` in a
/// browser (`tests/browser/origins.mjs`); `console` cannot run in CI.
const BLOCKS: [&str; 10] = ["sh", "sh offline", "console", "html", "json", "python", "yaml", "toml", "rust", "text"];

#[test]
fn generated_pages_are_up_to_date() {
    for (page, file) in [("configuration", "docs/configuration.md"), ("plan", "docs/plan-reference.md")] {
        let output = Command::new(env!("CARGO_BIN_EXE_thorax")).args(["docs", page]).output().unwrap();
        assert!(output.status.success(), "thorax docs {page}: {}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        let stored = fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_default();
        assert!(stored == printed, "{file} is out of date: run `just docs` (thorax docs {page} > {file})");
    }
}

#[test]
fn documented_variables_exist() {
    let known = fs::read_to_string(Path::new(ROOT).join(".env.example")).unwrap();
    let known: Vec<&str> = variables(&known).collect();
    // Variables of the tests, not of the program.
    let of_tests = ["THORAX_SHARED", "THORAX_IMAGENET_TGZ", "THORAX_TEST_VULKAN", "THORAX_REQUIRE_ALL"];
    // The change log names former variables, too.
    for (file, text) in pages().into_iter().filter(|(file, _)| !file.ends_with("CHANGELOG.md")) {
        for name in variables(&text).filter(|name| !of_tests.contains(name)) {
            assert!(known.contains(&name), "{}: {name} is not in .env.example", file.display());
        }
    }
}

#[test]
fn code_blocks_are_of_a_known_kind() {
    for (file, text) in pages() {
        let fences = text.lines().filter_map(|line| line.trim_start().strip_prefix("```"));
        for opening in fences.step_by(2) {
            assert!(BLOCKS.contains(&opening), "{}: a block marked {opening:?}; use {BLOCKS:?}", file.display());
        }
    }
}

#[test]
fn relative_links_lead_somewhere() {
    let mut broken = Vec::new();
    for (file, text) in pages() {
        for target in links(&text).filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { file.clone() } else { file.parent().unwrap().join(path) };
            let found = path.exists()
                && (anchor.is_empty() || anchors(&fs::read_to_string(&path).unwrap()).any(|known| known == anchor));
            if !found {
                broken.push(format!("{}: {target}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn paths_and_identifiers_in_the_developer_pages_exist() {
    let mut sources = String::new();
    for folder in ["src", "crates", "tests", "build.rs"] {
        read_sources(&Path::new(ROOT).join(folder), &mut sources);
    }
    let known: HashSet<&str> = sources.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    let mut missing = Vec::new();
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
        let prose: String = text.split("```").step_by(2).collect();
        for code in prose.split('`').skip(1).step_by(2) {
            let exists = if is_path(code) {
                Path::new(ROOT).join(code).exists()
            } else {
                !is_identifier(code) || code.split("::").all(|segment| known.contains(segment))
            };
            if !exists {
                missing.push(format!("{page}: {code}"));
            }
        }
    }
    assert!(missing.is_empty(), "not in the sources:\n{}", missing.join("\n"));
}

/// A path from the root of the repository.
fn is_path(code: &str) -> bool {
    let folders =
        ["src/", "crates/", "tests/", "docs/", "benches/", "fuzz/", "static/", "openapi/", "migrations/", ".ci/"];
    folders.iter().any(|folder| code.starts_with(folder)) && !code.contains(' ')
}

/// A name of the code rather than a command or a word: `Engine::admit`, `ModelSpec`, `MAX_FILES`.
fn is_identifier(code: &str) -> bool {
    let plain = code.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
    plain && (code.contains("::") || code.contains('_') || code.starts_with(|c: char| c.is_ascii_uppercase()))
}

fn read_sources(path: &Path, text: &mut String) {
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| read_sources(&entry.unwrap().path(), text));
    } else if path.extension().is_some_and(|end| end == "rs") {
        text.push_str(&fs::read_to_string(path).unwrap());
    }
}

/// The Markdown files of the repository with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let folders = ["", "docs", "benches", "fuzz"];
    let files = folders.iter().flat_map(|folder| fs::read_dir(Path::new(ROOT).join(folder)).unwrap());
    let pages = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|end| end == "md"));
    let pages: Vec<_> = pages.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    assert!(pages.len() > 15, "{} pages", pages.len());
    pages
}

fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.strip_prefix("THORAX_").is_some_and(|rest| !rest.is_empty() && !rest.ends_with('_')))
}

/// Targets of inline links and images, outside of code blocks.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|prose| prose.split("](").skip(1)).filter_map(|rest| rest.split(')').next())
}

/// The anchors that GitHub generates for headings.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let prose: String = text.split("\n```").step_by(2).collect();
    let headings: Vec<String> = prose
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect();
    headings.into_iter()
}
