//! Files of the repository: made where there are none, and never written over unasked.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::InitError;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Made,
    /// It was there with the very same content.
    Same,
    /// It was there, and is somebody's.
    Kept,
}

/// Makes a file that appears whole, with the folders above it; one that is there is kept.
pub fn create(path: &Path, content: &[u8], executable: bool) -> Result<Fate, InitError> {
    if path.symlink_metadata().is_ok() {
        let same = fs::read(path).is_ok_and(|there| there == content);
        return Ok(if same { Fate::Same } else { Fate::Kept });
    }
    match written(path, content, executable)?.persist_noclobber(path) {
        Ok(_) => Ok(Fate::Made),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(Fate::Kept),
        Err(error) => Err(failed("write", path)(error.error)),
    }
}

/// Writes a file anew, with the mode that it has.
pub fn replace(path: &Path, content: &str) -> Result<(), InitError> {
    let mode = fs::metadata(path).map(|there| there.permissions().mode());
    let executable = mode.is_ok_and(|mode| mode & 0o100 != 0);
    let file = written(path, content.as_bytes(), executable)?;
    let persisted = file.persist(path);
    persisted.map_err(|error| failed("write", path)(error.error))?;
    Ok(())
}

/// Refuses a link among the folders that lead to a file: it may lead out of the repository, and no commit has what is
/// behind it.
pub fn must_not_be_behind_link(dir: &Path, path: &str) -> Result<(), InitError> {
    let folders = Path::new(path).ancestors().skip(1);
    let folders = folders.filter(|folder| !folder.as_os_str().is_empty());
    match folders
        .map(|folder| dir.join(folder))
        .find(|folder| folder.is_symlink())
    {
        Some(folder) => Err(InitError::Link { folder }),
        None => Ok(()),
    }
}

fn written(
    path: &Path,
    content: &[u8],
    executable: bool,
) -> Result<tempfile::NamedTempFile, InitError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(failed("make", dir))?;
    let mode = if executable { 0o777 } else { 0o666 };
    let file = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(dir);
    let mut file = file.map_err(failed("write in", dir))?;
    file.write_all(content).map_err(failed("write", path))?;
    Ok(file)
}

pub fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InitError + use<> {
    let path = path.to_owned();
    move |source| InitError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_there_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let create = |text: &[u8]| create(&path, text, true).unwrap();
        assert_eq!(create(b"one"), Fate::Made);
        assert_eq!(create(b"one"), Fate::Same);
        assert_eq!(create(b"two"), Fate::Kept);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        replace(&path, "three").unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(
            (fs::read(&path).unwrap().as_slice(), mode & 0o100),
            (b"three".as_slice(), 0o100)
        );
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert_eq!(super::create(&link, b"", false).unwrap(), Fate::Kept);
    }
}
