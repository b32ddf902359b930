//! The disks of new servers: whose system is on each, and where it comes from.

mod build;
mod file;

use std::path::PathBuf;

use fabrik_core::hex;
use fabrik_core::id::{CommitId, PoolName};
use fabrik_core::seed::{Architecture, Image, ImageDigest};
use fabrik_core::spec::{K3sRelease, Spec};
use ring::digest::{SHA256, digest};

pub use self::file::{DiskFile, is_known};

use super::SeedError;
use super::options::SeedOptions;
use super::progress::tell;
use super::state::State;

/// What a system, Nix and all that is built for it take of the temporary server's disk, by far.
const BUILT_THERE_BYTES: u64 = 10_000_000_000;

/// A disk to be.
#[derive(Debug, Clone)]
pub struct Disk {
    pub image: Image,
    /// Of the disk, at most.
    pub bytes: u64,
    pub source: Source,
}

#[derive(Debug, Clone)]
pub enum Source {
    File(DiskFile),
    /// The temporary server builds it of the commit.
    Commit,
}

/// The disks that are wanted, each built here or there if it was not named.
pub async fn disks(
    options: &SeedOptions,
    spec: &Spec,
    commit: &CommitId,
    state: &mut State,
) -> Result<Vec<Disk>, SeedError> {
    let mut disks = Vec::new();
    if options.images.is_empty() {
        for pool in without_image(spec) {
            let Some(architecture) = architecture(spec, &pool) else {
                continue;
            };
            let disk = if is_built_there(options, &pool, architecture).await? {
                built_there(commit, pool, architecture, spec)?
            } else {
                let file = build::build(&options.dir, commit, &pool, architecture).await?;
                of_file(file, pool, architecture, spec, state).await?
            };
            disks.push(disk);
        }
    }
    for named in &options.images {
        let file = std::path::absolute(&named.file).map_err(SeedError::file(&named.file))?;
        let architecture = architecture(spec, &named.pool).ok_or_else(|| SeedError::Image {
            file: file.clone(),
            problem: format!("cluster.toml has no {} to be on it", named.pool),
        })?;
        disks.push(of_file(file, named.pool.clone(), architecture, spec, state).await?);
    }
    Ok(disks)
}

/// Says why, where nobody has asked for it.
async fn is_built_there(
    options: &SeedOptions,
    pool: &PoolName,
    architecture: Architecture,
) -> Result<bool, SeedError> {
    if options.build_on_server {
        return Ok(true);
    }
    let why = build::why_not(architecture).await?;
    if let Some(why) = &why {
        tell(format_args!(
            "{:>9}  the temporary server will build the image of {pool}: {why}",
            ""
        ))?;
    }
    Ok(why.is_some())
}

async fn of_file(
    file: PathBuf,
    pool: PoolName,
    architecture: Architecture,
    spec: &Spec,
    state: &mut State,
) -> Result<Disk, SeedError> {
    let (file, bytes) = file::look(file, state).await?;
    let digest = ImageDigest::of_sha256(&file.sha256).ok_or_else(|| SeedError::Image {
        file: file.file.clone(),
        problem: "it has no digest".to_owned(),
    })?;
    Ok(Disk {
        image: Image {
            pool,
            digest,
            architecture,
            k3s: k3s(spec),
        },
        bytes,
        source: Source::File(file),
    })
}

/// What is built of a commit is known by that, before it is built.
fn built_there(
    commit: &CommitId,
    pool: PoolName,
    architecture: Architecture,
    spec: &Spec,
) -> Result<Disk, SeedError> {
    let built_of = format!("{commit} {pool} {}", architecture.nix_system());
    let sha256 = hex(digest(&SHA256, built_of.as_bytes()).as_ref());
    let digest = ImageDigest::of_sha256(&sha256);
    let digest = digest.ok_or_else(|| std::io::Error::other("a digest is no digest"))?;
    Ok(Disk {
        image: Image {
            pool,
            digest,
            architecture,
            k3s: k3s(spec),
        },
        bytes: BUILT_THERE_BYTES,
        source: Source::Commit,
    })
}

/// What the commit has on all its nodes; a disk that was built elsewhere is taken to be of it.
fn k3s(spec: &Spec) -> Option<u32> {
    let wanted: K3sRelease = spec.kubernetes.version.parse().ok()?;
    Some(wanted.minor())
}

/// The control plane, and the pools that name no image of their own: each has a system of its own.
fn without_image(spec: &Spec) -> Vec<PoolName> {
    let pools = spec.pools.iter().filter(|(_, pool)| pool.boots_snapshot());
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
