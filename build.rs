//! Builds an empty database from `migrations/`, so that sqlx checks every query at compile time without a server,
//! a command-line tool or checked-in query data. And says which commit is built, so that a run can record it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::{ConnectOptions, Connection, migrate::Migrator, sqlite::SqliteConnectOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=build.rs");
    // The pages are embedded in the binary; without this a new file would be missed.
    println!("cargo:rerun-if-changed=static");
    // Set where cubecl-spirv is replaced by a corrected copy (nn/device/shared_memory.rs).
    println!("cargo:rustc-check-cfg=cfg(corrected_shared_memory)");
    println!("cargo:rerun-if-env-changed=THORAX_CORRECTED_SHARED_MEMORY");
    if env::var_os("THORAX_CORRECTED_SHARED_MEMORY").is_some() {
        println!("cargo:rustc-cfg=corrected_shared_memory");
    }
    println!("cargo:rustc-env=BUILD_GIT_COMMIT={}", commit().unwrap_or_default());
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

/// The commit that is checked out; none without git, outside a repository, and in one that does not hold this file (a copy of the
/// sources inside another project is not that project's commit).
fn commit() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    watch("HEAD");
    // A commit moves the branch and not HEAD, which names the branch; a detached HEAD holds the commit itself.
    if let Some(branch) = git(&["symbolic-ref", "--quiet", "HEAD"]) {
        watch(&branch);
    }
    Some(commit)
}

/// Has cargo build again when a file of git's changes. One that is not there yet would have it build again every time, so the
/// nearest folder above is watched in its place: a branch that was packed becomes a file there with its next commit.
fn watch(name: &str) {
    let Some(path) = git(&["rev-parse", "--git-path", name]) else { return };
    let there = Path::new(&path).ancestors().find(|path| path.exists() && !path.as_os_str().is_empty());
    if let Some(there) = there {
        println!("cargo:rerun-if-changed={}", there.display());
    }
}

/// What git prints; none when there is no git or it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
