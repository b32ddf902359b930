//! A disk in a file of the laptop: whether it is compressed, how long it is, and its digest, which is computed once.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use fabrik_core::hex;
use ring::digest::{Context, SHA256};

use super::super::SeedError;
use super::super::progress::{Task, far};
use super::super::state::State;

const CHUNK_BYTES: usize = 1024 * 1024;
/// RFC 8878, "Zstandard Frames".
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[derive(Debug, Clone)]
pub struct DiskFile {
    pub file: PathBuf,
    pub is_compressed: bool,
    /// Of the file.
    pub bytes: u64,
    /// SHA-256 of the disk, in hex.
    pub sha256: String,
}

/// What is known of it, and how long the disk in it is.
///
/// # Errors
/// It can't be read, or is no disk.
pub async fn look(file: PathBuf, state: &mut State) -> Result<(DiskFile, u64), SeedError> {
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
    let known_as = known_as(&file, &facts);
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
    let disk = DiskFile {
        is_compressed,
        bytes: facts.len(),
        sha256,
        file,
    };
    Ok((disk, bytes))
}

/// What tells a file from another one, and from itself before it was written anew.
fn known_as(file: &Path, facts: &Metadata) -> String {
    let modified = facts.modified().ok();
    let modified = modified.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let modified = modified.map_or(0, |since| since.as_nanos());
    format!("{} {} {modified}", file.display(), facts.len())
}

/// Whether it was made a snapshot of from here, or was about to be.
pub fn is_known(file: &Path, state: &State) -> bool {
    let Ok(file) = std::path::absolute(file) else {
        return false;
    };
    let digests = &state.record.digests;
    fs::metadata(&file).is_ok_and(|facts| digests.contains_key(&known_as(&file, &facts)))
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
        Ok((hex(context.finish().as_ref()), bytes))
    };
    let failed = |error: tokio::task::JoinError| SeedError::Output(io::Error::other(error));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
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
}
