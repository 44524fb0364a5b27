//! The SQLite database: one file, a pool of readers and one writer.

use std::{
    fs::{DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use sqlx::{
    Connection, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::{Notify, watch};

use super::{Disk, StorageFault, StoreError};
use crate::metrics::PoolUsage;

/// Name of the database in the data folder.
pub(super) const FILE: &str = "thorax.sqlite";
/// Number of reading connections. Each is a thread, and reads are short.
const READERS: u32 = 4;
/// Number of writing connections. SQLite allows one.
const WRITERS: u32 = 1;
/// Maximum time for which a statement waits for the lock of another program, such as an import on the command line.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time for which a caller waits for a connection. With the time for the lock, a request fails after ten seconds at most.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time for which the removal of deleted content waits for readers. Writers wait meanwhile.
const ERASE_TIMEOUT: Duration = Duration::from_millis(250);
/// Maximum number of free pages, of 4 KiB, that are removed at a time.
const MAX_VACUUMED_PAGES: u32 = 2000;
/// Maximum number of problems of a damaged database that are reported.
const MAX_PROBLEMS: u32 = 3;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Pools on one SQLite file (WAL): many readers, one writer whose transactions begin immediate.
#[derive(Clone, Debug)]
pub struct Db {
    readers: SqlitePool,
    writer: SqlitePool,
    events: watch::Sender<()>,
    erase: Arc<Notify>,
    damage: Arc<OnceLock<Damage>>,
    file: Arc<OpenFile>,
}

/// Reason for which the database is not written to any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The database is damaged, as described.
    Structure(String),
    /// Its file was removed or replaced. What is written to the open file is lost when the process ends.
    Replaced,
}

/// The open file of the database, and the path at which it must stay.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OpenFile {
    /// Call it while SQLite has the file open: some file systems number a file only while it is open.
    fn at(path: PathBuf) -> io::Result<Self> {
        let found = path.metadata()?;
        Ok(Self { device: found.dev(), inode: found.ino(), path })
    }

    /// True if the path leads to another file or to none.
    fn is_replaced(&self) -> bool {
        match self.path.metadata() {
            Ok(found) => (found.dev(), found.ino()) != (self.device, self.inode),
            // Other errors say nothing about the file.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

impl Db {
    /// True if the folder has a database. An empty file is none: SQLite would take it for a new one.
    pub fn exists(data_dir: &Path) -> bool {
        data_dir.join(FILE).metadata().is_ok_and(|file| file.is_file() && file.len() > 0)
    }

    /// Opens or creates `<data_dir>/thorax.sqlite` and migrates it.
    ///
    /// Folder and database are readable by their owner only. SQLite gives its other files the permissions of the database.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        Self::connect(data_dir, false).await
    }

    /// Opens the database as [`Db::open`] does, after a check of its structure. A damaged database is neither migrated nor written to; see
    /// [`Db::damage`].
    ///
    /// # Errors
    /// Also where a damaged database has the schema of an earlier version.
    pub async fn open_checked(data_dir: &Path) -> Result<Self, StoreError> {
        Self::connect(data_dir, true).await
    }

    async fn connect(data_dir: &Path, check: bool) -> Result<Self, StoreError> {
        let file = data_dir.join(FILE);
        create(data_dir, &file).map_err(sqlx::Error::Io)?;
        let options = options(&file)?;
        let writer = connect_with_room(&Disk::of(data_dir), &options).await?;
        let opened = OpenFile::at(file).map_err(sqlx::Error::Io)?;
        let damage = Arc::new(OnceLock::new());
        match if check { find_damage(&writer).await } else { None } {
            Some(found) => {
                require_current_schema(&writer, &found).await?;
                tracing::error!(found, "the database is damaged: it is not written to");
                let _first = damage.set(Damage::Structure(found));
            }
            None => MIGRATIONS.run(&writer).await.map_err(migration_failed)?,
        }
        // A write through a reader is a bug. It fails at once instead of sometimes with "database is locked".
        let readers = pool(READERS).connect_with(options.pragma("query_only", "on")).await?;
        Ok(Self {
            readers,
            writer,
            events: watch::Sender::new(()),
            erase: Arc::default(),
            damage,
            file: Arc::new(opened),
        })
    }

    /// The damage, if the database is damaged or its file was replaced. Then all writes fail with [`StoreError::Damaged`] or
    /// [`StoreError::Replaced`].
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.get()
    }

    /// Stops all writes if the file of the database was removed or replaced since it was opened.
    pub fn note_replacement(&self) {
        if self.damage().is_none() && self.file.is_replaced() && self.damage.set(Damage::Replaced).is_ok() {
            tracing::error!("{}", StoreError::Replaced);
        }
    }

    /// Stops all writes if the error says that the database is damaged.
    pub fn note_damage(&self, error: &(dyn std::error::Error + 'static)) {
        let is_damaged = StorageFault::behind(error) == Some(StorageFault::Damaged);
        if is_damaged && self.damage.set(Damage::Structure(error.to_string())).is_ok() {
            tracing::error!(%error, "the database is damaged: it is not written to any more");
        }
    }

    /// Checkpoints the write-ahead log and closes the connections.
    ///
    /// If the file was replaced, the connections stay open until the process ends: closing them would remove the write-ahead log at the
    /// path, which is that of the other database.
    pub async fn close(&self) {
        self.note_replacement();
        if self.damage() == Some(&Damage::Replaced) {
            return std::mem::forget(self.clone());
        }
        self.readers.close().await;
        // Not fatal: the next start reads the rest of the write-ahead log.
        if let Err(error) = sqlx::query("pragma wal_checkpoint(truncate)").execute(&self.writer).await {
            tracing::warn!(%error, "the database could not be checkpointed");
        }
        self.writer.close().await;
    }

    /// Connections for queries.
    pub(super) fn read(&self) -> &SqlitePool {
        &self.readers
    }

    /// Connection for a single statement that changes data. Each call looks for the file, which takes microseconds, so that no write is
    /// acknowledged after the file was replaced.
    pub(super) fn write(&self) -> Result<&SqlitePool, StoreError> {
        self.note_replacement();
        match self.damage() {
            None => Ok(&self.writer),
            Some(Damage::Structure(found)) => Err(StoreError::Damaged(found.clone())),
            Some(Damage::Replaced) => Err(StoreError::Replaced),
        }
    }

    /// A write transaction that holds the write lock from its start (`begin immediate`). What it reads cannot change before it writes, and
    /// it cannot fail halfway because another transaction has the lock. It is rolled back unless it is committed.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.write()?.begin_with("begin immediate").await?)
    }

    /// Commits a transaction that wrote events of runs, and notifies the receivers of [`Db::events`].
    pub(super) async fn commit(&self, tx: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
        tx.commit().await?;
        self.events.send_replace(());
        Ok(())
    }

    /// Has deleted content removed from the files soon; see [`Db::erase_deleted`].
    pub(super) fn erase_soon(&self) {
        self.erase.notify_one();
    }

    /// Waits for a call of [`Db::erase_soon`].
    pub(super) async fn wait_for_deletion(&self) {
        self.erase.notified().await;
    }

    /// Removes what was deleted from the files: returns free pages to the file system and empties the write-ahead log. Returns false if
    /// something is left to do, because a reader was busy or too much was deleted at once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn erase_deleted(&self) -> Result<bool, StoreError> {
        let mut connection = self.write()?.acquire().await?;
        set_busy_timeout(&mut connection, ERASE_TIMEOUT).await?;
        let erased = erase(&mut connection).await;
        set_busy_timeout(&mut connection, BUSY_TIMEOUT).await?;
        Ok(erased?)
    }

    /// Rewrites a database of an earlier version once, so that free pages can be removed from then on and nothing that was deleted before stays
    /// in it. Returns false if there was nothing to do.
    ///
    /// # Errors
    /// When there is no room for a second copy of the database, or it fails.
    pub(super) async fn enable_erasure(&self) -> Result<bool, StoreError> {
        let writer = self.write()?;
        let mode: i64 = sqlx::query_scalar("pragma auto_vacuum").fetch_one(writer).await?;
        if mode != 0 {
            return Ok(false);
        }
        // The mode takes effect when the same connection rewrites the database.
        let mut connection = writer.acquire().await?;
        sqlx::query("pragma auto_vacuum = incremental").execute(&mut *connection).await?;
        sqlx::query("vacuum").execute(&mut *connection).await?;
        Ok(true)
    }

    /// Usage of the connection pools, for metrics.
    pub fn pools(&self) -> [PoolUsage; 2] {
        let usage = |name, pool: &SqlitePool, max: u32| PoolUsage {
            name,
            size: pool.size() as usize,
            idle: pool.num_idle(),
            max: max as usize,
        };
        [usage("readers", &self.readers, READERS), usage("writer", &self.writer, WRITERS)]
    }

    /// Changes when this process has committed events of runs. Events of other processes are not signalled.
    pub fn events(&self) -> watch::Receiver<()> {
        self.events.subscribe()
    }
}

/// Creates folder and file for their owner only. Those that exist keep their permissions.
fn create(folder: &Path, file: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if file.exists() {
        return Ok(());
    }
    File::options().write(true).create(true).truncate(false).mode(0o600).open(file).map(drop)
}

/// Connects the writer. On a full disk the index of the write-ahead log cannot be created: the reserve makes room for it.
async fn connect_with_room(disk: &Disk, options: &SqliteConnectOptions) -> Result<SqlitePool, StoreError> {
    loop {
        match pool(WRITERS).connect_with(options.clone()).await.map_err(StoreError::from) {
            Err(error) if error.fault() == Some(StorageFault::Full) && disk.release_reserve() => {}
            connected => return connected,
        }
    }
}

/// Checks the structure of the database. It takes about a second for a gigabyte.
async fn find_damage(pool: &SqlitePool) -> Option<String> {
    let check = sqlx::AssertSqlSafe(format!("pragma quick_check({MAX_PROBLEMS})"));
    match sqlx::query_scalar::<_, String>(check).fetch_all(pool).await {
        Ok(rows) if rows == ["ok"] => None,
        Ok(rows) => Some(rows.join("; ").replace('\n', " ")),
        Err(error) => Some(error.to_string()),
    }
}

/// A damaged database cannot be migrated, and cannot be read with another schema than the current one.
async fn require_current_schema(pool: &SqlitePool, damage: &str) -> Result<(), StoreError> {
    let last = sqlx::query_scalar::<_, i64>("select max(version) from _sqlx_migrations").fetch_one(pool).await;
    if last.is_ok_and(|last| last == current_schema()) { Ok(()) } else { Err(StoreError::Damaged(damage.into())) }
}

/// Version of the schema that this version of the program writes.
fn current_schema() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or_default()
}

fn migration_failed(error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(version) => StoreError::Newer(version, current_schema()),
        error => StoreError::Migration(error),
    }
}

/// Refuses a database with migrations that this version does not know.
pub(super) async fn refuse_newer(database: &mut SqliteConnection) -> Result<(), StoreError> {
    let last: Option<i64> = sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(database).await?;
    match last {
        Some(last) if last > current_schema() => Err(StoreError::Newer(last, current_schema())),
        _ => Ok(()),
    }
}

async fn set_busy_timeout(connection: &mut SqliteConnection, timeout: Duration) -> Result<(), StoreError> {
    let pragma = sqlx::AssertSqlSafe(format!("pragma busy_timeout = {}", timeout.as_millis()));
    sqlx::query(pragma).execute(connection).await?;
    Ok(())
}

async fn erase(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    let free: u32 = sqlx::query_scalar("pragma freelist_count").fetch_one(&mut *connection).await?;
    if free > 0 {
        let vacuum = sqlx::AssertSqlSafe(format!("pragma incremental_vacuum({MAX_VACUUMED_PAGES})"));
        sqlx::query(vacuum).execute(&mut *connection).await?;
    }
    let (busy, _, _): (i64, i64, i64) =
        sqlx::query_as("pragma wal_checkpoint(truncate)").fetch_one(&mut *connection).await?;
    Ok(busy == 0 && free <= MAX_VACUUMED_PAGES)
}

fn options(file: &Path) -> Result<SqliteConnectOptions, StoreError> {
    let options = SqliteConnectOptions::new().filename(file);
    // Set for a new database only: on another one the pragma is a write, which would wait for the writers of other processes.
    let is_new = file.metadata().map_err(sqlx::Error::Io)?.len() == 0;
    let options = if is_new { options.auto_vacuum(SqliteAutoVacuum::Incremental) } else { options };
    Ok(options
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL may lose the last transactions in a power failure, such as a run that was acknowledged with 202. Writes are few, so that
        // an fsync for each is cheap.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Overwrites what is deleted or replaced with zeros: names that were stored once do not stay.
        .pragma("secure_delete", "on")
        .busy_timeout(BUSY_TIMEOUT))
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // Connections to a local file do not go stale.
    let options = SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None);
    // When the disk is full, SQLite rolls the transaction back automatically, but sqlx still considers it open: discard the connection.
    options.before_acquire(|connection, _| {
        let is_free = !connection.is_in_transaction();
        Box::pin(async move { Ok(is_free) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::RunStatus,
        store::{datasets, fixtures, radiographs, runs},
    };

    #[tokio::test]
    async fn connections_have_the_settings_that_durability_depends_on() {
        let (_dir, db) = fixtures::db().await;
        for pool in [db.read(), db.write().unwrap()] {
            let setting = async |name: &'static str| -> String {
                let query = format!("select cast({name} as text) from pragma_{name}");
                sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(pool).await.unwrap()
            };
            assert_eq!(setting("journal_mode").await, "wal");
            assert_eq!(setting("synchronous").await, "2");
            assert_eq!(setting("foreign_keys").await, "1");
            assert_eq!(setting("secure_delete").await, "1");
            assert_eq!(setting("auto_vacuum").await, "2");
        }
    }

    #[tokio::test]
    async fn a_replaced_file_stops_all_writes_and_its_write_ahead_log_stays() {
        let (dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        db.note_replacement();
        assert_eq!(db.damage(), None);
        let (file, wal) = (dir.path().join(FILE), dir.path().join("thorax.sqlite-wal"));
        std::fs::rename(&file, dir.path().join("aside")).unwrap();
        std::fs::write(&file, "another database").unwrap();
        std::fs::remove_file(&wal).unwrap();
        std::fs::write(&wal, "its write-ahead log").unwrap();
        assert!(matches!(db.begin().await, Err(StoreError::Replaced)));
        assert_eq!(db.damage(), Some(&Damage::Replaced));
        assert_eq!(datasets::get(&db, dataset.id).await.unwrap(), Some(dataset), "it can still be read");
        db.close().await;
        assert_eq!(std::fs::read(&wal).unwrap(), b"its write-ahead log");
        assert_eq!(std::fs::read(&file).unwrap(), b"another database");
    }

    #[tokio::test]
    async fn a_reader_cannot_write() {
        let (_dir, db) = fixtures::db().await;
        assert!(sqlx::query("delete from runs").execute(db.read()).await.is_err());
    }

    #[tokio::test]
    async fn reopening_keeps_all_rows() {
        let (dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let radiograph = fixtures::radiograph(&dataset, "a");
        radiographs::insert_all(&db, &[(&radiograph, radiographs::RadiographExtras::default())]).await.unwrap();
        let run = fixtures::stored_run(&db, &dataset).await;
        db.close().await;
        let wal = dir.path().join("thorax.sqlite-wal");
        assert!(!wal.exists() || wal.metadata().unwrap().len() == 0);

        let db = Db::open(dir.path()).await.unwrap();
        assert_eq!(datasets::get(&db, dataset.id).await.unwrap(), Some(dataset));
        assert_eq!(radiographs::get(&db, radiograph.id).await.unwrap(), Some(radiograph));
        assert_eq!(runs::get(&db, run.id).await.unwrap().unwrap().status, RunStatus::Queued);
    }

    #[tokio::test]
    async fn a_transaction_that_sqlite_rolled_back_does_not_block_the_next() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let mut tx = db.begin().await.unwrap();
        sqlx::query("delete from datasets").execute(&mut *tx).await.unwrap();
        // SQLite does this when the disk is full.
        sqlx::query("rollback").execute(&mut *tx).await.unwrap();
        drop(tx);
        db.begin().await.unwrap().commit().await.unwrap();
        assert_eq!(datasets::get(&db, dataset.id).await.unwrap(), Some(dataset));
    }

    #[tokio::test]
    async fn dropping_a_transaction_rolls_it_back() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let mut tx = db.begin().await.unwrap();
        sqlx::query("delete from datasets").execute(&mut *tx).await.unwrap();
        drop(tx);
        assert_eq!(datasets::get(&db, dataset.id).await.unwrap(), Some(dataset));
    }
}
