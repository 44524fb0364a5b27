//! Builds an empty database from `migrations/`, so that sqlx checks every query at compile time without a server,
//! a command-line tool or checked-in query data.

use std::{env, path::PathBuf};

use sqlx::{ConnectOptions, Connection, migrate::Migrator, sqlite::SqliteConnectOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=build.rs");
    // The pages are embedded in the binary; without this a new file would be missed.
    println!("cargo:rerun-if-changed=static");
    let schema = PathBuf::from(env::var("OUT_DIR")?).join("schema.sqlite");
    if schema.exists() {
        std::fs::remove_file(&schema)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        let options = SqliteConnectOptions::new().filename(&schema).create_if_missing(true);
        let mut connection = options.connect().await?;
        Migrator::new(PathBuf::from("migrations")).await?.run(&mut connection).await?;
        connection.close().await
    })?;
    println!("cargo:rustc-env=DATABASE_URL=sqlite://{}", schema.display());
    Ok(())
}
