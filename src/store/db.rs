//! The SQLite database: one file, a pool of readers and one writer.

use std::{path::Path, time::Duration};

use sqlx::{
    Connection, Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

use super::StoreError;
use crate::metrics::PoolUsage;

/// Name of the database in the data folder.
const FILE: &str = "thorax.sqlite";
/// Number of reading connections. Each is a thread, and reads are short.
const READERS: u32 = 4;
/// Number of writing connections. SQLite allows one.
const WRITERS: u32 = 1;
/// Maximum time for which a transaction waits for the lock of another process (an import on the command line).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pools on one SQLite file (WAL): many readers, one writer whose transactions begin immediate.
#[derive(Clone, Debug)]
pub struct Db {
    readers: SqlitePool,
    writer: SqlitePool,
    events: watch::Sender<()>,
}

impl Db {
    /// True if the folder has a database.
    pub fn exists(data_dir: &Path) -> bool {
        data_dir.join(FILE).is_file()
    }

    /// Opens or creates `<data_dir>/thorax.sqlite` and migrates it.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        tokio::fs::create_dir_all(data_dir).await.map_err(sqlx::Error::Io)?;
        let options = options(&data_dir.join(FILE));
        let writer = pool(WRITERS).connect_with(options.clone().create_if_missing(true)).await?;
        sqlx::migrate!("./migrations").run(&writer).await?;
        // A write through a reader is a bug. It fails at once instead of sometimes with "database is locked".
        let readers = pool(READERS).connect_with(options.pragma("query_only", "on")).await?;
        Ok(Self { readers, writer, events: watch::Sender::new(()) })
    }

    /// Checkpoints the write-ahead log and closes the connections.
    pub async fn close(&self) {
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

    /// Connection for a single statement that changes data.
    pub(super) fn write(&self) -> &SqlitePool {
        &self.writer
    }

    /// A write transaction that holds the write lock from its start (`begin immediate`). What it reads cannot change before it writes, and
    /// it cannot fail halfway because another transaction has the lock. It is rolled back unless it is committed.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("begin immediate").await?)
    }

    /// Commits a transaction that wrote events of runs, and notifies the receivers of [`Db::events`].
    pub(super) async fn commit(&self, tx: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
        tx.commit().await?;
        self.events.send_replace(());
        Ok(())
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

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL may lose the last transactions in a power failure, such as a run that was acknowledged with 202. Writes are few, so that
        // an fsync for each is cheap.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Overwrites what is deleted or replaced with zeros, where that takes no further writes: names that were stored once do not stay.
        .pragma("secure_delete", "fast")
        .busy_timeout(BUSY_TIMEOUT)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // Connections to a local file do not go stale.
    let options = SqlitePoolOptions::new().max_connections(connections).idle_timeout(None).max_lifetime(None);
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
        for pool in [db.read(), db.write()] {
            let setting = async |name: &'static str| -> String {
                let query = format!("select cast({name} as text) from pragma_{name}");
                sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(pool).await.unwrap()
            };
            assert_eq!(setting("journal_mode").await, "wal");
            assert_eq!(setting("synchronous").await, "2");
            assert_eq!(setting("foreign_keys").await, "1");
        }
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
