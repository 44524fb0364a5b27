//! Examination of a data folder: its database, its blobs, its permissions and its disk.

use std::{os::unix::fs::PermissionsExt, path::Path};

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    Blobs, Db, Disk, FOLDER_FILE, PATIENT_KEY_FILE, StorageFault, StoreError, columns, data_folder, db, disk,
    radiographs,
};

/// Maximum number of single problems of one kind that are listed.
const MAX_LISTED: usize = 10;

/// Weight of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// No problem.
    Fine,
    /// A problem that loses no data.
    Warning,
    /// Data is lost, or will be.
    Error,
}

/// One result of the examination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Weight.
    pub severity: Severity,
    /// Description, and what to do.
    pub text: String,
}

/// Results of an examination, in the order in which they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis(pub Vec<Finding>);

impl Diagnosis {
    /// True without errors; there may be warnings.
    pub fn is_healthy(&self) -> bool {
        self.0.iter().all(|finding| finding.severity != Severity::Error)
    }

    fn add(&mut self, severity: Severity, text: impl Into<String>) {
        self.0.push(Finding { severity, text: text.into() });
    }

    /// Adds the first few of the problems and the number of the others, or that there are none.
    fn add_all(&mut self, problems: &[String], fine: impl Into<String>) {
        if problems.is_empty() {
            return self.add(Severity::Fine, fine);
        }
        for problem in problems.iter().take(MAX_LISTED) {
            self.add(Severity::Error, problem);
        }
        if let Some(others @ 1..) = problems.len().checked_sub(MAX_LISTED) {
            self.add(Severity::Error, format!("and {others} more"));
        }
    }
}

/// Scope of an examination.
#[derive(Clone, Copy, Debug, Default)]
pub struct Examination {
    /// Read every blob and compare its hash, which takes as long as reading the whole folder.
    pub hash: bool,
    /// Free space in bytes below which there is a warning.
    pub low_disk_bytes: u64,
    /// True if the operator sets the key of patient hashes, so that the folder needs none.
    pub has_operators_key: bool,
}

/// Examines a data folder, while a server uses it or not.
pub async fn diagnose(folder: &Path, examination: &Examination) -> Diagnosis {
    let mut found = Diagnosis::default();
    if let Some(warning) = open_permissions(folder) {
        found.add(Severity::Warning, warning);
    }
    match Disk::of(folder).with_low_bytes(examination.low_disk_bytes).warning() {
        Some(warning) => found.add(Severity::Warning, warning),
        None => found.add(Severity::Fine, "the disk has free space"),
    }
    if !Db::exists(folder) {
        found.add(Severity::Error, format!("there is no database: restore {} from a backup", db::FILE));
        return found;
    }
    if let Err(error) = examine(folder, examination, &mut found).await {
        let text = match error.fault() {
            Some(StorageFault::Damaged) if !found.is_healthy() => "the examination ended early because of that".into(),
            Some(StorageFault::Damaged) => {
                format!("the database is damaged: restore {} from a backup ({error})", db::FILE)
            }
            _ => format!("the examination ended early: {}", error.explained()),
        };
        found.add(Severity::Error, text);
    }
    found
}

/// True if the folder has anything by which a data folder is recognised.
pub fn is_data_folder(folder: &Path) -> bool {
    const FILES: [&str; 5] = [db::FILE, "thorax.sqlite-wal", FOLDER_FILE, PATIENT_KEY_FILE, disk::RESERVE_FILE];
    const FOLDERS: [&str; 3] = ["blobs", "runs", "jobs"];
    FILES.iter().chain(&FOLDERS).any(|name| folder.join(name).exists())
}

/// A warning where other users of the machine could read the folder and its database, or a key.
pub fn open_permissions(folder: &Path) -> Option<String> {
    let mode = |path: &Path| path.metadata().map_or(0, |file| file.permissions().mode());
    let is_open = |path: &Path| mode(path) & 0o077 != 0;
    // Below a closed folder nothing can be read.
    is_open(folder).then(|| {
        format!(
            "the data folder can be read by other users of this machine (its mode is {:03o}): run `chmod -R go= {}`",
            mode(folder) & 0o777,
            folder.display()
        )
    })
}

async fn examine(folder: &Path, examination: &Examination, found: &mut Diagnosis) -> Result<(), StoreError> {
    let options = SqliteConnectOptions::new().filename(folder.join(db::FILE)).read_only(true);
    let mut database = options.connect().await?;
    let rows: Vec<String> = sqlx::query_scalar("pragma integrity_check").fetch_all(&mut database).await?;
    match damage(&rows) {
        None => found.add(Severity::Fine, "the database is intact"),
        Some(damage) => {
            found.add(
                Severity::Error,
                format!("the database is damaged: restore {} from a backup ({damage})", db::FILE),
            );
        }
    }
    let broken = sqlx::query("pragma foreign_key_check").fetch_all(&mut database).await?.len();
    if broken > 0 {
        found.add(Severity::Error, format!("{broken} rows refer to rows that do not exist"));
    }
    if let Err(newer @ StoreError::Newer(..)) = db::refuse_newer(&mut database).await {
        found.add(Severity::Error, newer.to_string());
        return Ok(());
    }
    let needs_key = !examination.has_operators_key && !folder.join(PATIENT_KEY_FILE).exists();
    if needs_key && radiographs::has_hashed_patient_ids(&mut database).await? {
        found.add(
            Severity::Error,
            "the database has hashed patient ids, but there is no patient.key: restore patient.key from a backup or set \
             THORAX_PATIENT_KEY. A server does not start without it; to accept another key, run `thorax doctor --adopt`",
        );
    }
    let blobs = Blobs::open(folder)?;
    let (count, problems) = check_blobs(&mut database, &blobs, examination.hash).await?;
    let how = if examination.hash { "present and intact" } else { "present" };
    found.add_all(&problems, format!("all {count} images, models and weights are {how}"));
    if !problems.is_empty() {
        found.add(
            Severity::Error,
            "restore the missing and damaged files from a backup, or upload the same files again",
        );
    }
    let coverage = data_folder::coverage(&mut database, folder, &blobs).await?;
    if let Some(warning) = coverage.warning() {
        found.add(Severity::Warning, warning);
    }
    match blobs.unnamed(&mut database).await? {
        (0, _) => {}
        (count, bytes) => {
            let fate = if coverage.is_complete() { "a server removes them" } else { "a server does not remove them" };
            let mebibytes = bytes >> 20;
            found.add(
                Severity::Warning,
                format!("{count} files in blobs, {mebibytes} MiB, are named by no row: {fate}"),
            );
        }
    }
    database.close().await?;
    Ok(())
}

/// The number of problems in the rows of an integrity check and the first of them; `None` without problems. A row has many lines.
fn damage(rows: &[String]) -> Option<String> {
    let lines = rows.iter().flat_map(|row| row.lines()).filter(|line| *line != "ok" && !line.starts_with("***"));
    let problems: Vec<&str> = lines.collect();
    let first = problems.first()?;
    Some(match problems.len() {
        1 => format!("one problem: {first}"),
        // The check ends after a hundred.
        count @ 100.. => format!("{count} problems or more, the first: {first}"),
        count => format!("{count} problems, the first: {first}"),
    })
}

/// Number of blobs that the database names, and those that are missing or differ.
async fn check_blobs(
    database: &mut SqliteConnection,
    blobs: &Blobs,
    hash: bool,
) -> Result<(usize, Vec<String>), StoreError> {
    let named = sqlx::query!(
        r#"select sha256 as "sha256!: String", 'image' as "kind!: String", byte_length as "byte_length!: i64" from radiographs
           union select sha256, 'model', byte_length from models
           union select sha256, 'weights', byte_length from weights"#
    )
    .fetch_all(database)
    .await?;
    let mut problems = Vec::new();
    for row in &named {
        let sha256 = columns::hash("blob_names.sha256", row.sha256.clone())?;
        let kind = &row.kind;
        match blobs.length(&sha256).await? {
            None => problems.push(format!("{kind} {sha256}: its file is missing")),
            Some(length) if i64::try_from(length).ok() != Some(row.byte_length) => {
                problems.push(format!("{kind} {sha256}: its file has {length} bytes instead of {}", row.byte_length));
            }
            Some(_) if hash => {
                if let Err(error) = blobs.get(&sha256).await {
                    problems.push(format!("{kind}: {error}"));
                }
            }
            Some(_) => {}
        }
    }
    Ok((named.len(), problems))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RadiographExtras, fixtures};

    const QUICK: Examination = Examination { hash: false, low_disk_bytes: 0, has_operators_key: true };
    const THOROUGH: Examination = Examination { hash: true, ..QUICK };

    fn errors(diagnosis: &Diagnosis) -> Vec<&str> {
        let errors = diagnosis.0.iter().filter(|finding| finding.severity == Severity::Error);
        errors.map(|finding| finding.text.as_str()).collect()
    }

    #[tokio::test]
    async fn finds_missing_truncated_and_altered_blobs() {
        let (dir, db) = fixtures::db().await;
        let blobs = Blobs::open(dir.path()).unwrap();
        let dataset = fixtures::stored_dataset(&db).await;
        let mut paths = Vec::new();
        for content in ["one", "two", "six"] {
            let mut radiograph = fixtures::radiograph(&dataset, content);
            radiograph.byte_length = 3;
            let stored = blobs.put(content.as_bytes().to_vec()).await.unwrap();
            radiographs::insert_all(&db, &[(&radiograph, RadiographExtras::default())]).await.unwrap();
            paths.push(blobs.path(stored.sha256()));
        }
        let healthy = diagnose(dir.path(), &THOROUGH).await;
        assert!(healthy.is_healthy(), "{healthy:?}");
        std::fs::remove_file(&paths[0]).unwrap();
        std::fs::write(&paths[1], "tw").unwrap();
        std::fs::write(&paths[2], "sex").unwrap();
        let quick = diagnose(dir.path(), &QUICK).await;
        assert_eq!(errors(&quick).len(), 3, "two files and the advice: {quick:?}");
        assert!(errors(&quick).iter().any(|text| text.contains("is missing")));
        assert!(errors(&quick).iter().any(|text| text.contains("2 bytes instead of 3")));
        let thorough = diagnose(dir.path(), &THOROUGH).await;
        assert!(errors(&thorough).iter().any(|text| text.contains("corrupt")), "{thorough:?}");
    }

    #[test]
    fn damage_is_one_line_with_the_number_of_problems_and_the_first() {
        let rows = |rows: &[&str]| damage(&rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>());
        assert_eq!(rows(&["ok"]), None);
        assert_eq!(rows(&["row 7 missing from index x"]).unwrap(), "one problem: row 7 missing from index x");
        let many = rows(&["*** in database main ***\nTree 5 page 9: a\nTree 5 page 8: b", "row 7 missing"]);
        assert_eq!(many.unwrap(), "3 problems, the first: Tree 5 page 9: a");
        assert!(rows(&["x"; 100]).unwrap().starts_with("100 problems or more, the first: x"));
    }

    #[tokio::test]
    async fn says_of_a_foreign_database_what_a_server_does_and_marks_nothing() {
        let (dir, db) = fixtures::db().await;
        let (elsewhere, foreign) = fixtures::db().await;
        for (dir, db) in [(&dir, &db), (&elsewhere, &foreign)] {
            let blobs = Blobs::open(dir.path()).unwrap();
            data_folder::identify(db, dir.path(), &blobs).await.unwrap();
            db.close().await;
        }
        let blobs = Blobs::open(dir.path()).unwrap();
        let stored = blobs.put(b"an image of the right database".to_vec()).await.unwrap();
        let file = std::fs::File::options().write(true).open(blobs.path(stored.sha256())).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let texts = async || {
            let Diagnosis(found) = diagnose(dir.path(), &QUICK).await;
            found.into_iter().map(|finding| finding.text).collect::<Vec<_>>().join("\n")
        };
        let own = texts().await;
        assert!(own.contains("named by no row: a server removes them"), "{own}");
        std::fs::copy(elsewhere.path().join(db::FILE), dir.path().join(db::FILE)).unwrap();
        for _ in 0..2 {
            let found = texts().await;
            assert!(found.contains("belongs to another data folder; no file is removed"), "{found}");
            assert!(found.contains("doctor --adopt") && found.contains("a server does not remove them"), "{found}");
        }
    }

    #[tokio::test]
    async fn reports_a_missing_and_a_damaged_database() {
        let (dir, db) = fixtures::db().await;
        fixtures::stored_dataset(&db).await;
        db.close().await;
        let file = dir.path().join(db::FILE);
        let mut bytes = std::fs::read(&file).unwrap();
        let length = bytes.len();
        bytes[length / 3..length / 2].fill(0x5a);
        std::fs::write(&file, &bytes).unwrap();
        let damaged = diagnose(dir.path(), &QUICK).await;
        assert!(errors(&damaged)[0].starts_with("the database is damaged: restore thorax.sqlite"), "{damaged:?}");
        assert!(damaged.0.iter().all(|finding| !finding.text.contains('\n')), "one line a finding: {damaged:?}");
        std::fs::remove_file(&file).unwrap();
        let missing = diagnose(dir.path(), &QUICK).await;
        assert!(errors(&missing)[0].contains("no database"), "{missing:?}");
    }
}
