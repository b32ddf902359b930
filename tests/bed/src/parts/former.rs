//! An older build of fabrik, made from this repository's own history.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::{build, parts_dir};

/// The first that could update nodes. Its ledger, reports and definitions have less in them than today's.
const COMMIT: &str = "7554879c4f8f6023a35f01e8e3fa18e326bed5e6";

/// Builds it unless it is there. Blocks, for minutes the first time.
pub fn fabrik() -> Result<PathBuf> {
    let dir = parts_dir().join(format!("fabrik-{}", &COMMIT[..8]));
    std::fs::create_dir_all(&dir)?;
    // As /proc names what runs.
    let dir = dir.canonicalize()?;
    let built = dir.join("fabrik");
    let _lock = build::lock(&dir)?;
    if built.is_file() {
        return Ok(built);
    }
    eprintln!("building fabrik as of {}, once: some minutes", &COMMIT[..8]);
    let (source, target) = (dir.join("source"), dir.join("target"));
    std::fs::create_dir_all(&source)?;
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let unpack = "git -C \"$1\" archive \"$2\" | tar -x -C \"$3\"";
    run(Command::new("sh").args(["-euc", unpack, "sh"]).args([
        &repository,
        Path::new(COMMIT),
        &source,
    ]))?;
    run(
        Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .args(["build", "--locked", "-p", "fabrik", "--target-dir"])
            .arg(&target)
            .current_dir(&source),
    )?;
    std::fs::rename(target.join("debug/fabrik"), &built)?;
    std::fs::remove_dir_all(target)?;
    Ok(built)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if !status.success() {
        bail!("{command:?}: {status}. A shallow clone lacks that commit: git fetch --unshallow");
    }
    Ok(())
}
