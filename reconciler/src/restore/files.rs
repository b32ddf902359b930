//! etcd's files: how much they are, when they were written, a copy of them, and the snapshots beside them.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fabrik_core::restore::Snapshot;
use jiff::Timestamp;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::error::{RestoreError, at};

const MEBIBYTE: u64 = 1024 * 1024;
/// What is left free besides: etcd writes its log in files of 64 MB.
const MARGIN: u64 = 128 * MEBIBYTE;
/// bbolt writes whole pages, so what is left over of this is the digest that etcd puts behind them.
/// (etcd, `etcdutl snapshot restore`: "integrity check")
const BLOCK: u64 = 512;

/// Whether there are data: what etcd, and k3s, take for such is its log.
pub fn has_data(etcd: &Path) -> bool {
    etcd.join("member/wal").is_dir()
}

/// When anything below `dir` was last written.
pub fn last_written(dir: &Path) -> Result<Timestamp, RestoreError> {
    let mut newest = SystemTime::UNIX_EPOCH;
    each_file(dir, &mut |_, metadata| {
        newest = newest.max(metadata.modified()?);
        Ok(())
    })?;
    time(dir, newest)
}

/// How much the files below `dir` are, in bytes; 0 where there are none.
pub fn size(dir: &Path) -> Result<u64, RestoreError> {
    let mut bytes = 0;
    each_file(dir, &mut |_, metadata| {
        bytes += metadata.len();
        Ok(())
    })?;
    Ok(bytes)
}

/// Sees that the file system of `dir` has room for `bytes`, and a bit more.
pub fn has_room(dir: &Path, bytes: u64) -> Result<(), RestoreError> {
    let system = rustix::fs::statvfs(dir).map_err(|e| at(dir)(e.into()))?;
    let (free, needed) = (system.f_bavail * system.f_frsize, bytes + MARGIN);
    if free >= needed {
        return Ok(());
    }
    Err(RestoreError::NoRoom {
        path: dir.to_owned(),
        free: free / MEBIBYTE,
        needed: needed.div_ceil(MEBIBYTE),
    })
}

/// Has `to` be what `from` is, whole and on the disk, or not be there at all.
pub fn copy(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let part = to.with_extension("part");
    remove(&part)?;
    copy_dir(from, &part)?;
    remove(to)?;
    fs::rename(&part, to).map_err(at(to))?;
    let parent = to.parent().unwrap_or(to);
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(at(parent))
}

/// Removes a folder or a file. One that is not there is none.
pub fn remove(path: &Path) -> Result<(), RestoreError> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// What looks like a snapshot below `dir`. A folder that is not there holds none.
pub fn snapshots(dir: &Path) -> Result<Vec<Snapshot>, RestoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(at(dir))?.path();
        // etcd writes to this name until a snapshot is whole.
        let unfinished = path.extension().is_some_and(|e| e == "part");
        if !unfinished && path.metadata().is_ok_and(|m| m.is_file() && m.len() > 0) {
            found.push(snapshot(&path)?);
        }
    }
    Ok(found)
}

/// A snapshot: k3s calls it `NAME-NODE-SECONDS`, with `.zip` behind it where it is packed; else its file says when.
pub fn snapshot(path: &Path) -> Result<Snapshot, RestoreError> {
    let absolute = path.canonicalize().map_err(at(path))?;
    let name = absolute.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let seconds = name.trim_end_matches(".zip").rsplit_once('-');
    let named = seconds.and_then(|(_, s)| Timestamp::from_second(s.parse().ok()?).ok());
    let taken = if let Some(taken) = named {
        taken
    } else {
        let metadata = absolute.metadata().and_then(|m| m.modified());
        time(path, metadata.map_err(at(path))?)?
    };
    Ok(Snapshot {
        file: absolute.display().to_string(),
        taken,
    })
}

/// Sees that a snapshot is whole, by the digest that etcd has put at its end. k3s sees to those that are packed.
pub fn is_whole(path: &Path) -> Result<(), RestoreError> {
    if path.extension().is_some_and(|e| e == "zip") {
        return Ok(());
    }
    let broken = |problem: &str| RestoreError::Snapshot {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let mut file = File::open(path).map_err(at(path))?;
    let length = file.metadata().map_err(at(path))?.len();
    let digest_len = SHA256_OUTPUT_LEN as u64;
    if length % BLOCK != digest_len {
        return Err(broken("its length is none that etcd writes"));
    }
    let mut pages = (&mut file).take(length - digest_len);
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pages.read(&mut buffer).map_err(at(path))? {
            0 => break,
            read => digest.update(buffer.get(..read).unwrap_or_default()),
        }
    }
    let mut stated = Vec::new();
    file.read_to_end(&mut stated).map_err(at(path))?;
    if digest.finish().as_ref() == stated {
        Ok(())
    } else {
        Err(broken("its digest differs"))
    }
}

fn time(path: &Path, time: SystemTime) -> Result<Timestamp, RestoreError> {
    Timestamp::try_from(time).map_err(|e| at(path)(std::io::Error::other(e)))
}

fn each_file(
    dir: &Path,
    see: &mut dyn FnMut(&Path, &fs::Metadata) -> std::io::Result<()>,
) -> Result<(), RestoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(at(dir))?,
    };
    for entry in entries {
        let path = entry.map_err(at(dir))?.path();
        let metadata = match path.symlink_metadata() {
            // etcd, which may run, has removed it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.map_err(at(&path))?,
        };
        if metadata.is_dir() {
            each_file(&path, see)?;
        } else {
            see(&path, &metadata).map_err(at(&path))?;
        }
    }
    Ok(())
}

fn copy_dir(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o700).create(to).map_err(at(to))?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let path: PathBuf = entry.map_err(at(from))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_dir(&path, &target)?;
        } else {
            copy_file(&path, &target).map_err(at(&target))?;
        }
    }
    let written = File::open(to).and_then(|dir| dir.sync_all());
    written.map_err(at(to))
}

/// For its owner alone, and as old as it was: the age of etcd's data is told by its files.
fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::copy(from, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o600))?;
    let file = File::options().write(true).open(to)?;
    file.set_modified(from.metadata()?.modified()?)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_whole_and_replaces_what_a_kill_has_left() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("etcd"), dir.path().join("copy"));
        assert!(!has_data(&from));
        assert_eq!(size(&from).unwrap(), 0);
        fs::create_dir_all(from.join("member/wal")).unwrap();
        fs::write(from.join("member/wal/0.wal"), b"log").unwrap();
        fs::write(from.join("name"), b"server-3").unwrap();
        assert!(has_data(&from));
        assert_eq!(size(&from).unwrap(), 11);
        fs::create_dir_all(dir.path().join("copy.part/half")).unwrap();
        let log = File::options()
            .write(true)
            .open(from.join("member/wal/0.wal"));
        log.unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        copy(&from, &to).unwrap();
        let wal = to.join("member/wal");
        assert_eq!(last_written(&wal).unwrap(), Timestamp::UNIX_EPOCH);
        assert_eq!(fs::read(to.join("member/wal/0.wal")).unwrap(), b"log");
        fs::remove_file(from.join("name")).unwrap();
        copy(&from, &to).unwrap();
        assert!(!to.join("name").exists() && !dir.path().join("copy.part").exists());
    }

    #[test]
    fn room_that_is_not_there_is_told_with_figures() {
        let dir = tempfile::tempdir().unwrap();
        has_room(dir.path(), 0).unwrap();
        let error = has_room(dir.path(), u64::MAX / 2).unwrap_err();
        assert!(error.to_string().contains("MiB free"), "{error}");
    }

    #[test]
    fn a_snapshot_is_dated_by_its_name_and_an_unfinished_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| fs::write(dir.path().join(name), b"data").unwrap();
        put("etcd-snapshot-server-1-1700000000");
        put("on-demand-server-1-1700000009.zip");
        put("etcd-snapshot-server-1-1700000020.part");
        put("copied");
        let mut found = snapshots(dir.path()).unwrap();
        found.sort_by_key(|s| s.taken);
        let taken: Vec<i64> = found.iter().map(|s| s.taken.as_second()).collect();
        assert_eq!(taken[..2], [1_700_000_000, 1_700_000_009]);
        assert!(found.len() == 3 && found[2].file.ends_with("/copied"));
        assert!(snapshots(&dir.path().join("nowhere")).unwrap().is_empty());
    }

    #[test]
    fn a_snapshot_that_was_cut_off_or_changed_is_not_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        let mut content = vec![7; 4096];
        let digest = ring::digest::digest(&SHA256, &content);
        content.extend(digest.as_ref());
        fs::write(&path, &content).unwrap();
        is_whole(&path).unwrap();
        fs::write(&path, &content[..4096]).unwrap();
        let error = is_whole(&path).unwrap_err().to_string();
        assert!(error.contains("its length is none"), "{error}");
        content[17] = 8;
        fs::write(&path, &content).unwrap();
        let error = is_whole(&path).unwrap_err().to_string();
        assert!(error.contains("its digest differs"), "{error}");
    }
}
