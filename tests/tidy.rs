//! Checks of the source text that a review should not have to make: dependencies between modules, module documentation, unfinished
//! code, `unsafe` outside of the kernels, file length, vocabulary, and documents that must agree with the code.

#[path = "tidy/cycles.rs"]
mod cycles;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each top-level module of `src` and the modules that it may use; `main` may use all. ARCHITECTURE.md has the same table.
const MAY_USE: [(&str, &[&str]); 17] = [
    ("domain", &[]),
    ("format", &[]),
    ("metrics", &[]),
    ("imaging", &["domain"]),
    ("nn", &["domain"]),
    ("store", &["domain", "metrics"]),
    ("dataset", &["domain", "format", "imaging", "store"]),
    ("training", &["domain", "imaging", "nn"]),
    ("inference", &["domain", "imaging", "nn", "metrics"]),
    ("evaluation", &["domain", "format"]),
    // `dataset`: for the validation split that a run splits off from train.
    ("worker", &["domain", "metrics", "imaging", "nn", "store", "dataset", "training", "inference", "evaluation"]),
    (
        "service",
        &["domain", "metrics", "imaging", "nn", "store", "dataset", "training", "inference", "evaluation", "worker"],
    ),
    ("http", &["domain", "metrics", "imaging", "store", "dataset", "inference", "evaluation", "worker", "service"]),
    ("config", &["domain", "imaging", "nn", "inference"]),
    ("telemetry", &["config"]),
    (
        "app",
        &[
            "domain",
            "metrics",
            "imaging",
            "nn",
            "store",
            "dataset",
            "inference",
            "worker",
            "service",
            "http",
            "config",
            "telemetry",
        ],
    ),
    (
        "cli",
        &[
            "domain",
            "format",
            "metrics",
            "imaging",
            "nn",
            "store",
            "dataset",
            "training",
            "inference",
            "evaluation",
            "service",
            "config",
            "telemetry",
            "app",
        ],
    ),
];

/// Crates that belong to some modules only: no SQL outside the store, no tensors in HTTP, no HTTP below it. A name also stands for the
/// crates whose names it begins with an underscore after it: `burn` for `burn_std`.
const CRATE_ONLY_IN: [(&str, &[&str]); 5] = [
    ("sqlx", &["store"]),
    ("object_store", &["store"]),
    ("burn", &["nn", "training", "inference", "worker", "app", "cli"]),
    ("axum", &["http", "app"]),
    ("thorax_kernels", &["nn"]),
];

/// Expressions that this code base does not use, with the standard terms to use instead. STYLE.md has the reasons.
const OUTDATED: [(&str, &str); 37] = [
    ("anew", "again"),
    ("anybody", "the name of the subject"),
    ("as wished", "as expected, satisfies the condition"),
    ("asked for", "requested"),
    ("asks for", "requests"),
    ("begins alike", "begins with the same"),
    ("by itself", "automatically, alone"),
    ("carved", "split off"),
    ("comes back", "retries, reconnects"),
    ("commonest", "most frequent, majority class"),
    ("dealt", "permuted, shuffled, assigned"),
    ("give way", "yield"),
    ("gives way", "yields"),
    ("goes on", "continues, resumes"),
    ("goes wrong", "fails"),
    ("how sure", "confidence"),
    ("if wished", "optionally"),
    ("in the midst", "during, within"),
    ("look alike", "near-identical"),
    ("looks alike", "near-identical"),
    ("pictures", "images"),
    ("pushed out", "evicted"),
    ("reckoned", "computed, estimated"),
    ("rooms", "modules, layers"),
    ("sent away", "refused"),
    ("somebody", "the name of the subject"),
    ("stand still", "pause"),
    ("stands still", "pauses"),
    ("take the place of", "replace"),
    ("takes the place of", "replaces"),
    ("the interface", "the HTTP API"),
    ("under way", "in progress, in flight, running"),
    ("went wrong", "failed"),
    ("what becomes of", "the name of the thing"),
    ("who asks", "client, caller"),
    ("who calls", "baseline, caller"),
    ("whoever", "the name of the subject"),
];

/// Maximum number of lines of a source file.
const MAX_LINES: usize = 600;

#[test]
fn modules_use_only_lower_layers() {
    assert_clean(rust_files("src").iter().flat_map(|(path, text)| forbidden_uses(path, text)));
}

#[test]
fn modules_do_not_use_each_other() {
    for folder in ["src", "crates/thorax-kernels/src"] {
        let below = |path: &str| path.strip_prefix(folder).and_then(|path| path.strip_prefix('/')).map(str::to_owned);
        let files: Vec<_> = rust_files(folder).into_iter().map(|(path, text)| (below(&path).unwrap(), text)).collect();
        assert_clean(cycles::cycles(&files).into_iter());
    }
}

/// The state as a whole belongs to the routers: a handler extracts the parts that it needs.
#[test]
fn handlers_extract_parts_of_the_state() {
    let files = rust_files("src/http");
    let handlers = files.iter().filter(|(path, _)| path != "src/http/state.rs" && path != "src/http.rs");
    assert_clean(handlers.filter(|(_, text)| uses_whole_state(text)).map(|(path, _)| {
        format!("{path}: uses AppState outside of `Router<AppState>`: extract the parts (src/http/state.rs)")
    }));
}

#[test]
fn architecture_md_lists_the_layers_that_are_enforced() {
    let page = read("ARCHITECTURE.md");
    let table = between(&page, "<!-- layers -->", "<!-- end of layers -->").expect("ARCHITECTURE.md marks the table");
    let names = |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let rows = table.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.strip_suffix(" |").unwrap_or(line).split('|').collect();
        (cells[1].trim().trim_matches('`').to_owned(), names(cells[cells.len() - 1]))
    });
    let documented: BTreeMap<String, BTreeSet<String>> = rows.collect();
    let names = |allowed: &[&str]| allowed.iter().map(|name| (*name).to_owned()).collect();
    let enforced = MAY_USE.iter().map(|(module, allowed)| ((*module).to_owned(), names(allowed))).collect();
    assert_eq!(documented, enforced, "left: ARCHITECTURE.md; right: tests/tidy.rs");
}

#[test]
fn source_files_are_documented_finished_and_short() {
    assert_clean(rust_files("src").iter().chain(&rust_files("crates")).flat_map(|(path, text)| {
        let lines = text.lines().count();
        let long = (lines > MAX_LINES).then(|| format!("{path}: {lines} lines, at most {MAX_LINES}"));
        untidy(path, text).into_iter().chain(long)
    }));
    assert_clean(rust_files("tests").iter().flat_map(|(path, text)| untidy(path, text)));
}

#[test]
fn tour_in_the_docs_equals_the_script_that_ci_runs() {
    let script = read("tests/tour.sh");
    let section = between(&script, "# --- tour ---\n", "# --- end of tour ---").expect("tests/tour.sh marks the tour");
    let page = read("docs/getting-started.md");
    let tour = between(&page, "<!-- tour -->", "<!-- end of tour -->").expect("docs/getting-started.md marks the tour");
    let blocks = shell_blocks(tour).join("\n");
    assert_eq!(blocks.trim(), section.trim(), "docs/getting-started.md and tests/tour.sh differ");
}

#[test]
fn texts_use_standard_terms() {
    let mut files = [rust_files("src"), rust_files("crates"), rust_files("tests")].concat();
    files.retain(|(path, _)| path != "tests/tidy.rs");
    for folder in ["static", "docs"] {
        files.extend(files_in(folder, &["js", "html", "css", "md"]));
    }
    files.extend(
        [".env.example", "ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"].map(|path| (path.to_owned(), read(path))),
    );
    assert_clean(files.iter().flat_map(|(path, text)| outdated(path, text)));
}

#[test]
fn doc_comments_name_their_subject() {
    let files = [rust_files("src"), rust_files("crates"), rust_files("tests"), rust_files("fuzz")].concat();
    assert_clean(files.iter().flat_map(|(path, text)| subjectless(path, text)));
}

#[test]
fn checker_finds_doc_comments_without_a_subject() {
    assert_eq!(subjectless("a.rs", "//! What it prints.\n\n/// How long it may take.\nfn f() {}\n/// Where.").len(), 3);
    let good = "/// Size of the file.\n/// What follows is the rest of the sentence.\n/// # Errors\n/// When the disk is full.";
    assert_eq!(subjectless("a.rs", good), Vec::<String>::new());
}

#[test]
fn checker_finds_outdated_terms() {
    assert_eq!(outdated("a.rs", "// Runs that are Under Way.\n// underway, a roomy classroom").len(), 1);
    assert_eq!(outdated("a.rs", "let rooms = 1; // whoever").len(), 2);
}

#[test]
fn env_example_lists_exactly_the_variables_that_are_read() {
    let files = rust_files("src");
    let served = files.iter().filter(|(path, _)| !path.ends_with("tests.rs"));
    let used: BTreeSet<_> = served.flat_map(|(_, text)| variables(&without_tests(text))).collect();
    let documented: BTreeSet<_> = variables(&read(".env.example")).into_iter().collect();
    assert_eq!(used, documented, "left: named in src; right: in .env.example");
}

#[test]
fn checker_finds_each_kind_of_forbidden_use() {
    let uses = |path: &str, text: &str| forbidden_uses(path, text).len();
    assert_eq!(uses("src/domain/run.rs", "use crate::store::Db;"), 1, "a plain use");
    assert_eq!(
        uses("src/nn.rs", "use crate::{domain::Split, imaging::{GreyImage, Limits}};"),
        1,
        "a sibling module in braces"
    );
    assert_eq!(
        uses("src/nn.rs", "use crate::{\n    domain::Split,\n    http,\n    store as s,\n};"),
        2,
        "a use over several lines"
    );
    assert_eq!(uses("src/store/runs.rs", "fn f() { crate::worker::start() }"), 1, "a path in the code");
    assert_eq!(uses("src/store.rs", "use super::worker::start;"), 1, "a path through super");
    assert_eq!(uses("src/store/runs.rs", "use super::super::worker::start;"), 1, "a path through several super");
    assert_eq!(uses("src/unknown.rs", "use crate::domain::Split;"), 1, "a module that is not in the table");
    assert_eq!(uses("src/http/runs.rs", "let row = sqlx::query(\"\");"), 1, "a crate outside its modules");
    assert_eq!(uses("src/store/runs.rs", "use burn_std::Bytes;"), 1, "a crate of the same family");
    assert_eq!(uses("src/store/runs.rs", "use burn_std as b;"), 1, "a crate under another name");
    assert_eq!(uses("src/training/fit_job.rs", "thorax_kernels::team();"), 1, "the kernels outside nn");
    assert_eq!(uses("src/domain/run.rs", "use crate::telemetry::Gone;"), 1, "a module of a higher layer");
}

#[test]
fn checker_finds_handlers_that_use_the_whole_state() {
    assert!(uses_whole_state("fn get(State(state): State<AppState>) {}"));
    assert!(uses_whole_state("fn find(state: &AppState, id: u8) {}"));
    assert!(uses_whole_state("let AppState { stores, .. } = state;"));
    assert!(!uses_whole_state("use super::{ApiError, AppState};\nfn router() -> OpenApiRouter<AppState> {"));
}

#[test]
fn checker_finds_cycles_between_modules() {
    let found = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        cycles::cycles(&files).len()
    };
    assert_eq!(found(&[("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")]), 1, "two modules");
    assert_eq!(
        found(&[("a.rs", "use crate::{c, b::{self, B}};"), ("b.rs", "fn f() { crate::a::f() }"), ("c.rs", "")]),
        1
    );
    let below = [("m.rs", ""), ("m/a.rs", "use super::b;"), ("m/b/c.rs", "use super::super::a::A;"), ("m/b.rs", "")];
    assert_eq!(found(&below), 1, "a module and one below its sibling");
    let three = [("m.rs", ""), ("m/a.rs", "use super::b;"), ("m/b.rs", "use super::c;"), ("m/c.rs", "use super::a;")];
    assert_eq!(found(&three), 1, "three modules");
    let exported = [("m.rs", "pub use b::B; pub use a::A;"), ("m/a.rs", "use super::B;"), ("m/b.rs", "use super::A;")];
    assert_eq!(found(&exported), 1, "items that the parent exports");
    let tests = "#[cfg(test)]\nmod tests {\n    use crate::a::A;\n}";
    assert_eq!(found(&[("a.rs", "use crate::b::B;"), ("b.rs", tests)]), 0, "tests");
    assert_eq!(found(&[("m.rs", "mod a; use a::A;"), ("m/a.rs", "use super::B;")]), 0, "a module and its child");
    assert_eq!(found(&[("a.rs", "use crate::b::B; // not crate::a"), ("b.rs", "// crate::a::A")]), 0, "comments");
}

#[test]
fn checker_accepts_allowed_uses() {
    let good = [
        ("src/domain/plan.rs", "use super::{Split, Stage};"),
        ("src/nn/head.rs", "//! See [`crate::worker`].\nuse crate::{domain::Split, nn::body::{self, Body}};"),
        ("src/worker.rs", "use crate::{dataset, store::{self, Db}, training::train};"),
        ("src/http/runs.rs", "use crate::{domain::RunId, http::problem::Problem, store}; // not sqlx::Error"),
        ("src/store/runs.rs", "sqlx::query!(\"select 1\")"),
        ("src/store/runs.rs", "let burned = burn_down(); burned::in_text()"),
        ("src/main.rs", "use thorax::{app, cli};"),
        ("src/lib.rs", "pub mod domain;\npub mod http;"),
    ];
    for (path, text) in good {
        assert_eq!(forbidden_uses(path, text), Vec::<String>::new());
    }
}

#[test]
fn checker_finds_untidy_files() {
    let first = "//! About this.\n";
    assert_eq!(untidy("a.rs", "fn f() {}").len(), 1, "no module documentation");
    for mark in
        [concat!("to", "do!()"), concat!("unimple", "mented!()"), concat!("db", "g!(1)"), concat!("#[ig", "nore]")]
    {
        assert_eq!(untidy("a.rs", &format!("{first}{mark}")).len(), 1, "{mark}");
    }
    assert_eq!(untidy("a.rs", &format!("{first}fn f() {{ {} {{}} }}", concat!("uns", "afe"))).len(), 1);
    let vectors = format!("{first}fn f() {{ {} {{}} }}", concat!("uns", "afe"));
    assert_eq!(
        untidy("crates/thorax-kernels/src/simd.rs", &vectors),
        Vec::<String>::new(),
        "the crate that may use it"
    );
    assert_eq!(untidy("a.rs", &format!("{first}// no unsafe code, nothing to do\n")), Vec::<String>::new());
    assert_eq!(
        untidy("a.rs", &format!("{first}#![forbid(unsafe_code)] const CSP: &str = \"'unsafe-inline'\";\n")),
        Vec::<String>::new()
    );
}

/// Uses that the tables above forbid, one message each.
fn forbidden_uses(path: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    let module = parts[0];
    let code = without_comments(text);
    let mut wrong: Vec<String> = CRATE_ONLY_IN
        .iter()
        .filter(|(name, modules)| !modules.contains(&module) && uses_crate(&code, name))
        .map(|(name, modules)| format!("{path}: uses the crate {name}, which only {modules:?} may use"))
        .collect();
    if module == "main" || module == "lib" {
        return wrong;
    }
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        wrong.push(format!("{path}: the module {module} is not in the table of tests/tidy.rs"));
        return wrong;
    };
    let used = used_modules(&code, parts.len());
    let forbidden =
        used.iter().filter(|used| *used != module && *used != "fixtures" && !allowed.contains(&used.as_str()));
    wrong.extend(forbidden.map(|used| format!("{path}: {module} may not use {used}")));
    wrong
}

/// True if the code uses the crate of that name, or one whose name continues it after an underscore: `burn_std` counts as `burn`.
fn uses_crate(code: &str, name: &str) -> bool {
    word_positions(code, name).any(|end| {
        let rest = &code[end..];
        let rest = rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_');
        let suffix = &code[end..code.len() - rest.len()];
        let imported = code[..end - name.len()].ends_with("use ");
        (suffix.is_empty() || suffix.starts_with('_')) && (rest.starts_with("::") || imported)
    })
}

/// Modules named after `crate::`, or after enough `super::` to leave the module of a file `depth` levels down.
fn used_modules(code: &str, depth: usize) -> BTreeSet<String> {
    let is_module = |name: &String| MAY_USE.iter().any(|(module, _)| module == name);
    let through_crate = word_positions(code, "crate::").flat_map(|end| first_segments(&code[end..]));
    let supers = "super::".repeat(depth);
    let through_super = word_positions(code, &supers).flat_map(|end| first_segments(&code[end..])).filter(is_module);
    through_crate.chain(through_super).filter(|name| name != "super").collect()
}

/// The names that a path or a brace group begins with: `a::b` gives a; `{a::{b, c}, d as e}` gives a and d.
fn first_segments(rest: &str) -> Vec<String> {
    let name =
        |text: &str| -> String { text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.trim_start().strip_prefix('{') else {
        return vec![name(rest)];
    };
    let (mut depth, mut names) = (0, vec![name(group)]);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// True if the code names `AppState` other than to import it or as the parameter of a router.
fn uses_whole_state(text: &str) -> bool {
    let code = without_comments(text).replace("Router<AppState>", "Router");
    code.match_indices("AppState").any(|(at, name)| {
        let (before, after) = (code[..at].trim_end(), code[at + name.len()..].trim_start());
        before.ends_with(['&', '<', ':']) && !before.ends_with("::") || after.starts_with('{')
    })
}

/// Problems of one file, one message each.
fn untidy(path: &str, text: &str) -> Vec<String> {
    let marks = [concat!("to", "do!"), concat!("unimple", "mented!"), concat!("db", "g!"), concat!("#[ig", "nore")];
    let code = without_comments(text);
    let mut found: Vec<String> =
        marks.iter().filter(|mark| code.contains(*mark)).map(|mark| format!("{path}: has {mark}")).collect();
    let opens_block = |end: usize| code[end..].starts_with(char::is_whitespace);
    let kernels = path.starts_with("crates/thorax-kernels/src/");
    if !kernels && word_positions(&code, concat!("uns", "afe")).any(opens_block) {
        found.push(format!("{path}: has a block or function marked unsafe"));
    }
    if !text.starts_with("//!") {
        found.push(format!("{path}: does not begin with a //! comment"));
    }
    found
}

/// Doc comments that open with a clause instead of their subject, one message each. `When` is not among them: it opens the conditions of
/// errors.
fn subjectless(path: &str, text: &str) -> Vec<String> {
    const OPENINGS: [&str; 8] = ["How", "Of", "What", "Where", "Whether", "Which", "Who", "Why"];
    let doc = |line: &str| {
        let line = line.trim_start();
        line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(|text| text.trim().to_owned())
    };
    let mut before = None;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let comment = doc(line);
        let first = comment.as_deref().unwrap_or_default().split([' ', '.', ',', ':']).next().unwrap_or_default();
        if before.is_none() && OPENINGS.contains(&first) {
            found.push(format!("{path}:{number}: the comment opens with {first:?}: name its subject"));
        }
        before = comment;
    }
    found
}

/// Outdated terms of one file, one message each.
fn outdated(path: &str, text: &str) -> Vec<String> {
    let lines = (1..).zip(text.lines()).map(|(number, line)| (number, line.to_lowercase()));
    let found = lines.flat_map(|(number, line)| {
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
        let stands_alone = |end: usize| !line[end..].starts_with(is_part);
        let terms = OUTDATED.iter().filter(|(term, _)| {
            let starts = line.match_indices(term).filter(|(at, _)| !line[..*at].ends_with(is_part));
            starts.into_iter().any(|(at, _)| stands_alone(at + term.len()))
        });
        terms.map(|(term, instead)| format!("{path}:{number}: {term:?} (say: {instead})")).collect::<Vec<_>>()
    });
    found.collect()
}

/// The end of each `needle` that does not continue a longer name.
fn word_positions<'a>(text: &'a str, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let starts_word = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    text.match_indices(needle).filter(move |(at, _)| starts_word(*at)).map(|(at, found)| at + found.len())
}

/// Cuts `//` to the end of the line. A `//` in a text literal goes too, with what follows it: no arrow stands there.
fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The part of a file above its unit tests.
fn without_tests(text: &str) -> String {
    without_comments(text.split("#[cfg(test)]").next().unwrap_or_default())
}

/// Names such as THORAX_LISTEN.
fn variables(text: &str) -> Vec<String> {
    let name = |start: usize| text[start..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
    text.match_indices("THORAX_").map(|(at, _)| name(at)).collect()
}

fn shell_blocks(markdown: &str) -> Vec<&str> {
    markdown.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap_or_default()).collect()
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to)?.0)
}

fn assert_clean(problems: impl Iterator<Item = String>) {
    let problems: Vec<String> = problems.collect();
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The Rust files below a folder of the project with their texts, in a stable order.
fn rust_files(folder: &str) -> Vec<(String, String)> {
    files_in(folder, &["rs"])
}

/// The files below a folder with one of these extensions with their texts, in a stable order.
fn files_in(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() && !path.ends_with("node_modules") {
                folders.push(path);
            } else if path.extension().and_then(|end| end.to_str()).is_some_and(|end| extensions.contains(&end)) {
                files.push(path);
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no files with {extensions:?} below {folder}");
    files.iter().map(|path| named(path)).collect()
}

fn named(path: &Path) -> (String, String) {
    let name = path.strip_prefix(root()).expect("below the root").to_str().expect("a UTF-8 name");
    (name.to_owned(), read(name))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
