//! The disks of new servers as they are on the laptop: where each is, how long, and its digest.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::seed::{Architecture, Image, ImageDigest};
use fabrik_core::spec::{K3sRelease, Spec};
use ring::digest::{Context, SHA256};

use super::SeedError;
use super::options::SeedOptions;
use super::progress::{Task, far};
use super::state::State;

const CHUNK_BYTES: usize = 1024 * 1024;
/// RFC 8878, "Zstandard Frames".
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// What a disk that Nix built may be called.
const SUFFIXES: [&str; 4] = [".img", ".img.zst", ".raw", ".raw.zst"];

/// A disk to be.
#[derive(Debug, Clone)]
pub struct Disk {
    pub image: Image,
    pub file: PathBuf,
    pub is_compressed: bool,
    /// Of the file.
    pub file_bytes: u64,
    /// Of the disk: what is written and read back.
    pub bytes: u64,
    /// SHA-256 of the disk, in hex.
    pub sha256: String,
}

/// The disks that are wanted, each built if it was not named.
pub async fn disks(
    options: &SeedOptions,
    spec: &Spec,
    commit: &CommitId,
    state: &mut State,
) -> Result<Vec<Disk>, SeedError> {
    let mut disks = Vec::new();
    if options.images.is_empty() {
        for pool in without_image(spec) {
            if let Some(architecture) = architecture(spec, &pool) {
                let file = build(&options.dir, commit, &pool, architecture).await?;
                disks.push(disk(file, pool, architecture, spec, state).await?);
            }
        }
    }
    for named in &options.images {
        let file = std::path::absolute(&named.file).map_err(SeedError::file(&named.file))?;
        let architecture = architecture(spec, &named.pool).ok_or_else(|| SeedError::Image {
            file: file.clone(),
            problem: format!("cluster.toml has no {} to be on it", named.pool),
        })?;
        disks.push(disk(file, named.pool.clone(), architecture, spec, state).await?);
    }
    Ok(disks)
}

/// The control plane, and the pools that name no image of their own: each has a system of its own.
fn without_image(spec: &Spec) -> Vec<PoolName> {
    let pools = spec.pools.iter().filter(|(_, pool)| pool.image.is_none());
    let servers = spec.servers.iter().map(|_| PoolName::servers());
    servers.chain(pools.map(|(name, _)| name.clone())).collect()
}

/// What the servers of a pool are, by the first type that they may have: a pool has one.
fn architecture(spec: &Spec, pool: &PoolName) -> Option<Architecture> {
    let types = if *pool == PoolName::servers() {
        &spec.servers.as_ref()?.server_types
    } else {
        &spec.pools.get(pool)?.server_types
    };
    types.first().map(|t| Architecture::of_server_type(t))
}

/// What the commit has on all its nodes; a disk that was built elsewhere is taken to be of it.
fn k3s(spec: &Spec) -> Option<u32> {
    let wanted: K3sRelease = spec.kubernetes.version.parse().ok()?;
    Some(wanted.minor())
}

async fn disk(
    file: PathBuf,
    pool: PoolName,
    architecture: Architecture,
    spec: &Spec,
    state: &mut State,
) -> Result<Disk, SeedError> {
    let facts = fs::metadata(&file).map_err(SeedError::file(&file))?;
    let unusable = |problem: &str| SeedError::Image {
        file: file.clone(),
        problem: problem.to_owned(),
    };
    if !facts.is_file() || facts.len() == 0 {
        return Err(unusable("it is no file, or empty"));
    }
    let mut start = [0; ZSTD_MAGIC.len()];
    let opened = File::open(&file).and_then(|mut f| f.read(&mut start));
    opened.map_err(SeedError::file(&file))?;
    let is_compressed = start == ZSTD_MAGIC;
    let modified = facts.modified().ok();
    let modified = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let modified = modified.map_or(0, |since| since.as_nanos());
    let known_as = format!("{} {} {modified}", file.display(), facts.len());
    let known = state.record.digests.get(&known_as).cloned();
    let digest = if let Some(known) = known {
        known
    } else {
        let found = digest(file.clone(), is_compressed, facts.len()).await?;
        state.record.digests.insert(known_as, found.clone());
        state.save()?;
        found
    };
    let (sha256, bytes) = digest;
    Ok(Disk {
        image: Image {
            pool,
            digest: ImageDigest::of_sha256(&sha256).ok_or_else(|| unusable("it has no digest"))?,
            architecture,
            k3s: k3s(spec),
        },
        is_compressed,
        file_bytes: facts.len(),
        bytes,
        sha256,
        file,
    })
}

/// SHA-256 and length of what is on the disk.
async fn digest(file: PathBuf, is_compressed: bool, all: u64) -> Result<(String, u64), SeedError> {
    let task = Task::begin(format!("computed the digest of {}", file.display()));
    let work = move || -> Result<(String, u64), SeedError> {
        let began = std::time::Instant::now();
        let path = file.clone();
        let failed = |error| SeedError::file(path.clone())(error);
        let mut disk: Box<dyn Read> = Box::new(File::open(&file).map_err(failed)?);
        let mut child = None;
        if is_compressed {
            let mut zstd = Command::new("zstd");
            zstd.args(["-q", "-d", "-c", "--"]).arg(&file);
            zstd.stdin(Stdio::null()).stdout(Stdio::piped());
            let mut running = zstd.spawn().map_err(SeedError::missing("zstd"))?;
            if let Some(stdout) = running.stdout.take() {
                disk = Box::new(stdout);
            }
            child = Some(running);
        }
        let mut context = Context::new(&SHA256);
        let mut bytes: u64 = 0;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = match disk.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            context.update(buffer.get(..count).unwrap_or_default());
            bytes = bytes.saturating_add(count as u64);
            if !is_compressed {
                task.note(far(bytes, all, began.elapsed()));
            }
        }
        if let Some(mut child) = child
            && !child.wait().map_err(failed)?.success()
        {
            let problem = "zstd can't decompress it".to_owned();
            return Err(SeedError::Image { file, problem });
        }
        task.end()?;
        let digest = context.finish();
        let hex = digest.as_ref().iter().map(|byte| format!("{byte:02x}"));
        Ok((hex.collect(), bytes))
    };
    let failed = |error: tokio::task::JoinError| SeedError::Output(io::Error::other(error));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

/// Has the person's own Nix build a disk of the commit, and shows what it says.
async fn build(
    dir: &Path,
    commit: &CommitId,
    pool: &PoolName,
    architecture: Architecture,
) -> Result<PathBuf, SeedError> {
    let task = Task::begin(format!("built the image of {pool}"));
    let root = fs::canonicalize(dir).map_err(SeedError::file(dir))?;
    let system = architecture.nix_system();
    let what = format!(
        "git+file://{}?rev={commit}#packages.{system}.image-{pool}",
        root.display()
    );
    let mut nix = tokio::process::Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command flakes"])
        .args(["build", "--no-link", "--print-out-paths", &what])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let output = nix.output().await.map_err(SeedError::missing("nix"))?;
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
    use super::*;

    #[tokio::test]
    async fn a_disk_has_the_same_digest_whether_it_is_compressed_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("disk.img");
        fs::write(&raw, b"a disk").unwrap();
        let told = Command::new("sha256sum").arg(&raw).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let expected = (told.split(' ').next().unwrap().to_owned(), 6);
        assert_eq!(digest(raw.clone(), false, 6).await.unwrap(), expected);
        let zstd = Command::new("zstd").arg("-q").arg(&raw).status().unwrap();
        assert!(zstd.success());
        let compressed = dir.path().join("disk.img.zst");
        assert_eq!(digest(compressed.clone(), true, 6).await.unwrap(), expected);
        fs::write(&compressed, [ZSTD_MAGIC.as_slice(), b"cut off"].concat()).unwrap();
        let error = digest(compressed, true, 6).await.unwrap_err();
        assert!(matches!(error, SeedError::Image { .. }), "{error}");
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
