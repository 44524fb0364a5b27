//! Query plans: SQLite looks up growing tables by index in all queries of the store.

use std::{fs, path::Path};

use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};
use thorax::store::Db;

/// Tables that stay small, or of which a query needs all rows.
const SMALL: [&str; 5] = ["datasets", "aliases", "weights", "data_folder", "json_each"];

/// A view, whose look-ups are steps of the plan.
const VIEW: &str = "blob_names";

/// Queries that need all rows, at the start, in background maintenance or in `thorax doctor`; each by a part of its text.
const WHOLE: [&str; 6] = [
    "patient_id_hashed = 0",
    "patient_id_hashed = 1",
    "request_json is not null",
    "request_json is null",
    "scores_json is null",
    "'image' as \"kind!: String\"",
];

#[tokio::test]
async fn no_query_scans_a_growing_table() {
    let folder = tempfile::tempdir().unwrap();
    Db::open(folder.path()).await.unwrap().close().await;
    let database = folder.path().join("thorax.sqlite");
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.unwrap();
    let queries = queries();
    assert!(queries.len() > 60, "only {} were found: the search is broken", queries.len());
    let mut slow = Vec::new();
    for query in queries {
        let plan = sqlx::query(AssertSqlSafe(format!("explain query plan {query}"))).fetch_all(&mut connection).await;
        let plan = plan.unwrap_or_else(|error| panic!("{error}: {query}"));
        let steps: Vec<String> = plan.iter().map(|step| step.get::<String, _>("detail")).collect();
        if steps.iter().any(|step| is_slow(step, &query)) && !WHOLE.iter().any(|whole| query.contains(whole)) {
            slow.push(format!("{query}\n    {}", steps.join("\n    ")));
        }
    }
    assert!(slow.is_empty(), "{} queries go through a table:\n{}", slow.len(), slow.join("\n\n"));
}

/// A plan that sorts a page has read the whole table.
fn is_slow(step: &str, query: &str) -> bool {
    let scanned = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
    let scans = scanned.is_some_and(|table| table != VIEW && !SMALL.contains(&table));
    scans || (step == "USE TEMP B-TREE FOR ORDER BY" && query.contains("limit"))
}

/// The texts of the store's `select` queries, including those that a macro of the file completes.
fn queries() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|name| name != "tests.rs") {
                found.extend(of_file(&fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

fn of_file(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap();
    let mut texts = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find('"') {
        let raw = rest[..at].ends_with("r#");
        let end = if raw { "\"#" } else { "\"" };
        let text = &rest[at + 1..];
        let length = text.find(end).unwrap_or(text.len());
        texts.push(text[..length].to_owned());
        rest = &text[(length + end.len()).min(text.len())..];
    }
    let begun: Vec<&String> = texts.iter().filter(|text| text.starts_with("select ") && text.ends_with(' ')).collect();
    let whole = texts.iter().filter(|text| text.starts_with("select ") && !text.ends_with(' ')).cloned();
    let parts = texts.iter().filter(|text| text.starts_with("where "));
    let joined = parts.flat_map(|part| begun.iter().map(move |begun| format!("{begun}{part}")));
    whole.chain(joined).collect()
}
