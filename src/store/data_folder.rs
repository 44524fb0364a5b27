//! The bond between a database and its data folder, and the latest time that a server saw.
//!
//! Sweeps remove files that the database does not name. With another database in the folder, or with an older copy of it, that would be files
//! that the right database needs. So database and folder share a random id, and a time that each server moves forward; in the folder they are in
//! [`FOLDER_FILE`]. Nothing is swept unless the ids are the same and the database's time is not earlier than the folder's.
//!
//! The time is written to the database first. A process that ends in between leaves the folder with the earlier time, which does no harm.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};

use jiff::{Timestamp, ToSpan};
use rand::TryRngCore;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;

use super::{Blobs, Db, StoreError, columns, files};

/// File of the folder with the id and the time.
pub const FOLDER_FILE: &str = "data-folder.json";

/// File of the folder with the generated key of patient hashes.
pub const PATIENT_KEY_FILE: &str = "patient.key";

/// Maximum step of the clock, between two times at which a server ran, that the retention believes, in days.
const MAX_CLOCK_STEP_DAYS: i64 = 7;

/// Relation of a database to the files in its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// The database knows all files of the folder, so what it does not name can be removed.
    Complete,
    /// It may not, for this reason: no file is removed.
    Unknown(String),
}

impl Coverage {
    /// True if files that the database does not name may be removed.
    pub fn is_complete(&self) -> bool {
        *self == Self::Complete
    }

    /// The reason for which nothing is removed, with what to do.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Complete => None,
            Self::Unknown(reason) => Some(format!(
                "{reason}; no file is removed from the data folder. Restore the database of this folder, or, if this one is \
                 right, stop the server and run `thorax doctor --adopt`: then files that it does not name are removed"
            )),
        }
    }
}

/// Reading of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// Plausible.
    Plausible,
    /// Far ahead of the latest time at which a server ran.
    Ahead,
}

/// Content of [`FOLDER_FILE`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FolderMark {
    id: String,
    seen_at: Timestamp,
}

/// Comparison of a database with a folder.
enum Relation {
    /// The database covers the files of the folder, or may not.
    Known(Coverage),
    /// They have no common id yet, and nothing speaks against one. The id of the database, if it has one.
    Unmarked(Option<String>),
}

/// Compares the database with the folder. A database and a folder without ids get one, if the database names blobs of the folder or the folder
/// has no files that could be lost.
pub(super) async fn identify(db: &Db, folder: &Path, blobs: &Blobs) -> Result<Coverage, StoreError> {
    let relation = relation(&mut *db.read().acquire().await?, folder, blobs).await?;
    match relation {
        Relation::Known(coverage) => Ok(coverage),
        Relation::Unmarked(id) => {
            adopt_as(db, folder, id).await?;
            Ok(Coverage::Complete)
        }
    }
}

/// The result that [`identify`] will have; writes nothing.
pub(super) async fn coverage(
    database: &mut SqliteConnection,
    folder: &Path,
    blobs: &Blobs,
) -> Result<Coverage, StoreError> {
    Ok(match relation(database, folder, blobs).await? {
        Relation::Known(coverage) => coverage,
        Relation::Unmarked(_) => Coverage::Complete,
    })
}

async fn relation(database: &mut SqliteConnection, folder: &Path, blobs: &Blobs) -> Result<Relation, StoreError> {
    // A server moves the time of the database forward before that of the folder: reading in this order, the database is never behind.
    let mark = read(folder);
    let (id, seen_at) = stored_in(database).await?;
    let unknown = |reason: String| Ok(Relation::Known(Coverage::Unknown(reason)));
    let mark = match mark {
        Ok(mark) => mark,
        Err(error) => return unknown(format!("{FOLDER_FILE} cannot be read: {error}")),
    };
    match (id, mark) {
        (Some(id), Some(mark)) if id == mark.id => {
            if seen_at.is_none_or(|seen_at| seen_at < mark.seen_at) {
                return unknown(format!(
                    "the database is an older copy: a server ran on this folder at {:.0}",
                    mark.seen_at
                ));
            }
            Ok(Relation::Known(Coverage::Complete))
        }
        (id, mark) if !has_files(folder, blobs).await? || (mark.is_none() && blobs.has_named(database).await?) => {
            Ok(Relation::Unmarked(id))
        }
        (None, Some(_)) => unknown("the database is a new one or a copy from before version 0.2".into()),
        (Some(_), Some(_)) => unknown("the database belongs to another data folder".into()),
        (_, None) => unknown("the database names none of the files in the folder".into()),
    }
}

/// Makes the database that of the folder, whatever they were before.
pub(super) async fn adopt(db: &Db, folder: &Path) -> Result<(), StoreError> {
    let (id, _) = stored(db).await?;
    adopt_as(db, folder, id).await
}

async fn adopt_as(db: &Db, folder: &Path, id: Option<String>) -> Result<(), StoreError> {
    let new = id.map_or_else(random_id, Ok).map_err(failed(folder))?;
    let seen_at = columns::time(Timestamp::now());
    // Another process may have been first. Its id stays.
    let id = sqlx::query_scalar!(
        r#"update data_folder set id = coalesce(id, ?), seen_at = coalesce(seen_at, ?) returning id as "id!""#,
        new,
        seen_at
    )
    .fetch_one(db.write()?)
    .await?;
    let (_, seen_at) = stored(db).await?;
    write(folder, &FolderMark { id, seen_at: seen_at.unwrap_or_else(Timestamp::now) }).map_err(failed(folder))
}

/// Moves the time of the database forward, and that of its folder if they belong together. `elapsed` is how long the server ran since the last
/// call, by a clock that cannot be set.
///
/// A clock that is more than a week ahead of the latest time was set wrongly, or the server was off for longer. The two look the same, so the
/// stored time follows slowly, at twice the speed of time: the retention deletes too late after a long pause, but nothing because of a wrong
/// clock.
pub(super) async fn advance(
    db: &Db,
    folder: &Path,
    coverage: &Coverage,
    elapsed: Duration,
) -> Result<Clock, StoreError> {
    let now = Timestamp::now();
    let (id, seen_at) = stored(db).await?;
    let seen_at = match seen_at {
        Some(seen_at) => seen_at,
        None => newest_prediction(db).await?.unwrap_or(now),
    };
    let is_ahead = now > seen_at + (24 * MAX_CLOCK_STEP_DAYS).hours();
    let next = if is_ahead { seen_at + 2 * elapsed } else { now.max(seen_at) };
    let next_text = columns::time(next);
    sqlx::query!("update data_folder set seen_at = ?", next_text).execute(db.write()?).await?;
    if let (Some(id), Coverage::Complete) = (id, coverage) {
        write(folder, &FolderMark { id, seen_at: next }).map_err(failed(folder))?;
    }
    Ok(if is_ahead { Clock::Ahead } else { Clock::Plausible })
}

/// The current time as the retention of data believes it: not later than the latest time at which a server ran.
pub(super) async fn believed_time(db: &Db) -> Result<Timestamp, StoreError> {
    let now = Timestamp::now();
    Ok(stored(db).await?.1.map_or(now, |seen_at| seen_at.min(now)))
}

async fn stored(db: &Db) -> Result<(Option<String>, Option<Timestamp>), StoreError> {
    stored_in(&mut *db.read().acquire().await?).await
}

async fn stored_in(database: &mut SqliteConnection) -> Result<(Option<String>, Option<Timestamp>), StoreError> {
    let row = sqlx::query!("select id, seen_at from data_folder").fetch_one(database).await?;
    Ok((row.id, columns::parse_some("data_folder.seen_at", row.seen_at.as_deref())?))
}

/// Time of the newest prediction, for a database from before the time was stored.
async fn newest_prediction(db: &Db) -> Result<Option<Timestamp>, StoreError> {
    let newest = sqlx::query_scalar!("select created_at from predictions where id = (select max(id) from predictions)");
    columns::parse_some("predictions.created_at", newest.fetch_optional(db.read()).await?.as_deref())
}

/// True if the folder has files that only its database explains.
async fn has_files(folder: &Path, blobs: &Blobs) -> Result<bool, StoreError> {
    Ok(blobs.has_files().await? || !files::entries(&folder.join("runs")).await.map_err(failed(folder))?.is_empty())
}

fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(hex::encode(bytes))
}

fn read(folder: &Path) -> io::Result<Option<FolderMark>> {
    match std::fs::read(folder.join(FOLDER_FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        bytes => Ok(Some(serde_json::from_slice(&bytes?)?)),
    }
}

fn write(folder: &Path, mark: &FolderMark) -> io::Result<()> {
    let path = folder.join(FOLDER_FILE);
    let partial = path.with_extension(format!("json.{}.partial", std::process::id()));
    let written =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(mark)?)?;
            file.sync_all()?;
            std::fs::rename(&partial, &path)?;
            files::sync_folder(folder)
        });
    if written.is_err() {
        // Frees the space. The next start removes it where this fails.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn failed(folder: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = folder.join(FOLDER_FILE);
    move |source| StoreError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RadiographExtras, fixtures, radiographs};

    async fn blobs_and_db() -> (tempfile::TempDir, Db, Blobs) {
        let (dir, db) = fixtures::db().await;
        let blobs = Blobs::open(dir.path()).unwrap();
        (dir, db, blobs)
    }

    async fn store(db: &Db, blobs: &Blobs, content: &str) {
        let dataset = fixtures::stored_dataset(db).await;
        let _stored = blobs.put(content.as_bytes().to_vec()).await.unwrap();
        let radiograph = fixtures::radiograph(&dataset, content);
        radiographs::insert_all(db, &[(&radiograph, RadiographExtras::default())]).await.unwrap();
    }

    async fn set_seen_at(db: &Db, at: Timestamp) {
        let at = columns::time(at);
        sqlx::query!("update data_folder set seen_at = ?", at).execute(db.write().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn a_new_database_and_an_empty_folder_belong_together_from_then_on() {
        let (dir, db, blobs) = blobs_and_db().await;
        assert_eq!(identify(&db, dir.path(), &blobs).await.unwrap(), Coverage::Complete);
        store(&db, &blobs, "a").await;
        assert_eq!(identify(&db, dir.path(), &blobs).await.unwrap(), Coverage::Complete);
        assert_eq!(read(dir.path()).unwrap().unwrap().id, stored(&db).await.unwrap().0.unwrap());
    }

    #[tokio::test]
    async fn a_foreign_an_empty_and_an_older_database_do_not_cover_the_folder() {
        let (dir, db, blobs) = blobs_and_db().await;
        identify(&db, dir.path(), &blobs).await.unwrap();
        store(&db, &blobs, "a").await;
        let (_elsewhere, foreign, other_blobs) = blobs_and_db().await;
        let empty = identify(&foreign, dir.path(), &blobs).await.unwrap();
        assert!(matches!(&empty, Coverage::Unknown(reason) if reason.contains("new one")), "{empty:?}");
        identify(&foreign, _elsewhere.path(), &other_blobs).await.unwrap();
        let other = identify(&foreign, dir.path(), &blobs).await.unwrap();
        assert!(matches!(&other, Coverage::Unknown(reason) if reason.contains("another data folder")), "{other:?}");
        set_seen_at(&db, Timestamp::now() - 24.hours()).await;
        let older = identify(&db, dir.path(), &blobs).await.unwrap();
        assert!(matches!(&older, Coverage::Unknown(reason) if reason.contains("older copy")), "{older:?}");
        adopt(&db, dir.path()).await.unwrap();
        assert_eq!(identify(&db, dir.path(), &blobs).await.unwrap(), Coverage::Complete);
    }

    #[tokio::test]
    async fn a_database_from_before_the_ids_is_recognised_by_the_blobs_that_it_names() {
        let (dir, db, blobs) = blobs_and_db().await;
        drop(blobs.put(b"of another database".to_vec()).await.unwrap());
        assert!(!identify(&db, dir.path(), &blobs).await.unwrap().is_complete());
        store(&db, &blobs, "a").await;
        assert_eq!(identify(&db, dir.path(), &blobs).await.unwrap(), Coverage::Complete);
    }

    #[tokio::test]
    async fn a_clock_that_jumped_ahead_is_believed_slowly() {
        let (dir, db, _) = blobs_and_db().await;
        let day = |days: i64| (24 * days).hours();
        let seen = Timestamp::now() - day(400);
        set_seen_at(&db, seen).await;
        let advance =
            async |hours: u64| advance(&db, dir.path(), &Coverage::Complete, Duration::from_secs(3600 * hours)).await;
        assert_eq!(advance(0).await.unwrap(), Clock::Ahead);
        assert_eq!(believed_time(&db).await.unwrap(), seen);
        assert_eq!(advance(24).await.unwrap(), Clock::Ahead);
        assert_eq!(believed_time(&db).await.unwrap(), seen + day(2));
        set_seen_at(&db, Timestamp::now() - day(6)).await;
        assert_eq!(advance(0).await.unwrap(), Clock::Plausible);
        assert!(believed_time(&db).await.unwrap() > Timestamp::now() - day(1));
    }

    #[tokio::test]
    async fn a_clock_that_was_set_back_is_used_and_the_latest_time_stays() {
        let (dir, db, _) = blobs_and_db().await;
        let later = Timestamp::now() + 48.hours();
        set_seen_at(&db, later).await;
        assert_eq!(advance(&db, dir.path(), &Coverage::Complete, Duration::ZERO).await.unwrap(), Clock::Plausible);
        assert!(believed_time(&db).await.unwrap() <= Timestamp::now());
        assert_eq!(stored(&db).await.unwrap().1, Some(later));
    }
}
