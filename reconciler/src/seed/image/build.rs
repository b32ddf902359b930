//! Images by the person's own Nix: whether it can build one, and doing so.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::seed::Architecture;
use serde_json::Value;
use tokio::process::Command;

use super::super::SeedError;
use super::super::progress::Task;
use crate::build::checkout_url;

/// What a disk that Nix built may be called.
const SUFFIXES: [&str; 4] = [".img", ".img.zst", ".raw", ".raw.zst"];

/// Why nothing of that architecture can be built from here; `None` where it can.
///
/// # Errors
/// Nix is there and can't be run.
pub async fn why_not(architecture: Architecture) -> Result<Option<String>, SeedError> {
    let mut nix = nix();
    nix.args(["config", "show", "--json"]).stdin(Stdio::null());
    let output = match nix.output().await {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Some("there is no Nix here".to_owned()));
        }
        Err(error) => return Err(SeedError::missing("nix")(error)),
    };
    // A Nix that does not know this command says itself what it can't build.
    let config: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let builders = config["builders"]["value"].as_str().unwrap_or_default();
    let builders = match builders.strip_prefix('@') {
        Some(file) => fs::read_to_string(file).unwrap_or_default(),
        None => builders.to_owned(),
    };
    Ok(lacks(&config, &builders, architecture.nix_system()))
}

/// By Nix' own settings, and its builders as they are written in its file of machines (nix.conf(5), "builders").
fn lacks(config: &Value, builders: &str, system: &str) -> Option<String> {
    let here = config["system"]["value"].as_str()?;
    let extra = config["extra-platforms"]["value"].as_array();
    let mut also = extra.into_iter().flatten().filter_map(Value::as_str);
    let is_built = |line: &str| {
        let systems = line.split_whitespace().nth(1).unwrap_or_default();
        systems.split(',').any(|s| s == system)
    };
    if here == system || also.any(|s| s == system) || builders.split([';', '\n']).any(is_built) {
        return None;
    }
    Some(format!(
        "Nix here is for {here}, and has no builder for {system}"
    ))
}

fn nix() -> Command {
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command flakes"])
        .kill_on_drop(true);
    nix
}

/// Has the person's own Nix build a disk of the commit, and shows what it says.
///
/// # Errors
/// It could not, or built something else than one disk.
pub async fn build(
    dir: &Path,
    commit: &CommitId,
    pool: &PoolName,
    architecture: Architecture,
) -> Result<PathBuf, SeedError> {
    let task = Task::begin(format!("built the image of {pool}"));
    let root = fs::canonicalize(dir).map_err(SeedError::file(dir))?;
    let system = architecture.nix_system();
    let what = format!(
        "{}?rev={commit}#packages.{system}.image-{pool}",
        checkout_url(&root)
    );
    let mut nix = nix();
    nix.args(["build", "--no-link", "--print-out-paths", &what])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // `output` would take what Nix says.
    let nix = nix.spawn().map_err(SeedError::missing("nix"))?;
    let output = nix.wait_with_output().await?;
    if !output.status.success() {
        let pool = pool.to_string();
        return Err(SeedError::Build { pool });
    }
    let out = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let file = only_disk(&out)?;
    task.end()?;
    Ok(file)
}

fn only_disk(dir: &Path) -> Result<PathBuf, SeedError> {
    let is_disk = |name: &OsStr| {
        let name = name.to_string_lossy();
        SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
    };
    let entries = fs::read_dir(dir).map_err(SeedError::file(dir))?;
    let disks: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(is_disk))
        .collect();
    match disks.as_slice() {
        [disk] => Ok(disk.clone()),
        _ => Err(SeedError::BuiltElse {
            dir: dir.to_owned(),
            found: disks.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_architecture_is_built_by_this_machine_by_what_it_emulates_or_by_a_builder() {
        let mac = json!({"system": {"value": "aarch64-darwin"}, "extra-platforms": {"value": ["x86_64-darwin"]}});
        let pc = json!({"system": {"value": "x86_64-linux"}, "extra-platforms": {"value": ["aarch64-linux"]}});
        let arm = "ssh-ng://build@arm aarch64-linux,armv7l-linux - 4 1 big-parallel";
        for (config, builders, system, can) in [
            (&mac, "", "aarch64-linux", false),
            (&mac, arm, "aarch64-linux", true),
            (&mac, arm, "x86_64-linux", false),
            (&pc, "", "x86_64-linux", true),
            (&pc, "", "aarch64-linux", true),
            (&Value::Null, "", "x86_64-linux", true),
        ] {
            let lacks = lacks(config, builders, system);
            assert_eq!(lacks.is_none(), can, "{system}: {lacks:?}");
        }
    }

    #[test]
    fn what_nix_built_is_found_where_it_is_one_disk() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("nix-support"), "").unwrap();
        assert!(matches!(
            only_disk(dir.path()),
            Err(SeedError::BuiltElse { found: 0, .. })
        ));
        let disk = dir.path().join("nixos.img.zst");
        fs::write(&disk, "").unwrap();
        assert_eq!(only_disk(dir.path()).unwrap(), disk);
        fs::write(dir.path().join("other.raw"), "").unwrap();
        assert!(matches!(
            only_disk(dir.path()),
            Err(SeedError::BuiltElse { found: 2, .. })
        ));
    }
}
