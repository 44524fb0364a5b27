//! Cycles between sibling modules: two files or folders of one module that use each other.

use std::collections::{BTreeMap, BTreeSet};

/// Modules that may use each other, because they are one aggregate cut into files.
const AGGREGATES: [&[&str]; 6] = [
    &["domain::augmentation", "domain::model", "domain::plan", "domain::range_test", "domain::schedule"],
    &["inference::engine", "inference::engine_thread", "inference::model_pool"],
    // A typed error carries the comparison that failed the gate of a promotion.
    &["service::error", "service::gate", "service::models"],
    &["store::checkpoints", "store::events", "store::models", "store::runs"],
    &["store::prediction_stats", "store::predictions"],
    // In the kernels: the tile registers, and those of AMX.
    &["simd::amx", "simd::tiles"],
];

/// Cycles between siblings below a source folder, one message each. `files` are paths below that folder with their texts.
pub fn cycles(files: &[(String, String)]) -> Vec<String> {
    let modules: BTreeMap<String, String> = files
        .iter()
        .filter(|(path, _)| !["lib", "main", "fixtures", "tests"].contains(&file_stem(path)))
        .map(|(path, text)| (path.trim_end_matches(".rs").replace('/', "::"), production_code(text)))
        .collect();
    let graph = Graph::new(&modules);
    let parents: BTreeSet<&str> = modules.keys().map(|name| parent(name)).collect();
    let cycles = parents.into_iter().flat_map(|parent| graph.cycles_below(parent));
    let allowed = |cycle: &BTreeSet<String>| {
        AGGREGATES.iter().any(|aggregate| cycle.iter().all(|module| aggregate.contains(&module.as_str())))
    };
    cycles.filter(|cycle| !allowed(cycle)).map(|cycle| format!("modules use each other: {cycle:?}")).collect()
}

fn file_stem(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// A file without comments and without its unit tests, which stand at its end.
fn production_code(text: &str) -> String {
    super::without_comments(text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default())
}

/// Modules and the modules that they use.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn new(modules: &BTreeMap<String, String>) -> Self {
        let paths: BTreeMap<&String, BTreeSet<Vec<String>>> =
            modules.iter().map(|(name, code)| (name, paths(code))).collect();
        let mut exports = BTreeMap::new();
        for (module, paths) in &paths {
            for path in paths.iter().filter(|path| path.len() > 1) {
                if let Some((found, _)) = resolve(modules, module, path).filter(|(found, _)| found != *module) {
                    exports.insert(((*module).clone(), path[path.len() - 1].clone()), found);
                }
            }
        }
        let used = |module: &String, path: &Vec<String>| {
            let (found, rest) = resolve(modules, module, path)?;
            // An item that a parent re-exports counts as a use of the module that defines it.
            let item = rest.first().and_then(|item| exports.get(&(found.clone(), item.clone())));
            Some(item.filter(|_| found != *module).unwrap_or(&found).clone())
        };
        let edges = paths.iter().map(|(module, paths)| {
            ((*module).clone(), paths.iter().filter_map(|path| used(module, path)).collect::<BTreeSet<_>>())
        });
        Self(edges.collect())
    }

    /// Sets of two or more children of `parent` that use each other, with everything below them.
    fn cycles_below(&self, parent: &str) -> Vec<BTreeSet<String>> {
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, used) in &self.0 {
            for to in used {
                if let (Some(from), Some(to)) = (child(parent, from), child(parent, to))
                    && from != to
                {
                    uses.entry(from).or_default().insert(to);
                }
            }
        }
        let mut cycles: Vec<BTreeSet<String>> = Vec::new();
        for module in uses.keys().filter(|module| reachable(&uses, module).contains(*module)) {
            if !cycles.iter().any(|cycle| cycle.contains(module)) {
                let others = reachable(&uses, module);
                cycles.push(others.into_iter().filter(|other| reachable(&uses, other).contains(module)).collect());
            }
        }
        cycles
    }
}

fn reachable(uses: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(module) = open.pop() {
        open.extend(uses.get(&module).into_iter().flatten().filter(|used| found.insert((*used).clone())).cloned());
    }
    found
}

fn parent(module: &str) -> &str {
    module.rsplit_once("::").map_or("", |(parent, _)| parent)
}

/// The child of `parent` that is or contains the module.
fn child(parent: &str, module: &str) -> Option<String> {
    let rest = if parent.is_empty() { module } else { module.strip_prefix(parent)?.strip_prefix("::")? };
    let name = rest.split("::").next()?;
    Some(if parent.is_empty() { name.to_owned() } else { format!("{parent}::{name}") })
}

/// The module that a path leads to, and the rest of the path.
fn resolve(modules: &BTreeMap<String, String>, from: &str, path: &[String]) -> Option<(String, Vec<String>)> {
    let mut place: Vec<String> = from.split("::").map(str::to_owned).collect();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => (place, rest) = (Vec::new(), &path[1..]),
        "self" => rest = &path[1..],
        "super" => {
            while let Some(("super", after)) = rest.split_first().map(|(first, after)| (first.as_str(), after)) {
                place.pop();
                rest = after;
            }
        }
        name => {
            modules.get(&format!("{from}::{name}"))?;
        }
    }
    while let Some((first, after)) = rest.split_first() {
        let longer = [place.as_slice(), std::slice::from_ref(first)].concat();
        if !modules.contains_key(&longer.join("::")) {
            break;
        }
        (place, rest) = (longer, after);
    }
    let found = place.join("::");
    modules.contains_key(&found).then(|| (found, rest.to_vec()))
}

/// All paths of two or more segments in a text. `use a::{b, c::d}` has `a::b` and `a::c::d`.
fn paths(code: &str) -> BTreeSet<Vec<String>> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(start) = rest.find(is_name) {
        let before = &rest[..start];
        rest = &rest[start..];
        let end = rest.find(|c: char| !is_name(c) && c != ':').unwrap_or(rest.len());
        let (path, after) = rest.split_at(end);
        let segments = |path: &str| -> Vec<String> {
            path.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        if !before.ends_with("::") {
            if path.ends_with("::") && after.starts_with('{') {
                expand(&segments(path), &after[1..], &mut found);
            } else if path.trim_end_matches(':').contains("::") {
                found.insert(segments(path));
            }
        }
        rest = after;
    }
    found
}

/// Adds the paths of a brace group, which begins behind its brace, and returns what follows the group.
fn expand<'a>(prefix: &[String], group: &'a str, found: &mut BTreeSet<Vec<String>>) -> &'a str {
    let mut rest = group;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
        if rest.is_empty() || rest.starts_with('}') {
            return rest.get(1..).unwrap_or_default();
        }
        let end = rest.find([',', '{', '}']).unwrap_or(rest.len());
        let (item, after) = rest.split_at(end);
        let name = item.split(" as ").next().unwrap_or_default();
        let names = name.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
        let path: Vec<String> = prefix.iter().cloned().chain(names).collect();
        rest = match after.strip_prefix('{') {
            Some(inner) => expand(&path, inner, found),
            None => {
                found.insert(path);
                after
            }
        };
    }
}
