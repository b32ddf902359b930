//! Programs of the machine, run by absolute path and as lists of arguments.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Where programs are looked for.
#[derive(Debug, Clone)]
pub struct Programs {
    folders: Vec<PathBuf>,
}

impl Programs {
    /// First in `first`, then along PATH.
    pub fn new(first: &Path) -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut folders = vec![first.to_owned()];
        folders.extend(env::split_paths(&path));
        Self { folders }
    }

    /// The program's path. Of one that is nowhere, where it should have been: the error of its start names it.
    pub fn find(&self, name: &str) -> PathBuf {
        let places = self.folders.iter().map(|folder| folder.join(name));
        let missing = || {
            self.folders
                .first()
                .map_or_else(PathBuf::new, |f| f.join(name))
        };
        places.clone().find(|p| p.is_file()).unwrap_or_else(missing)
    }

    /// PATH for programs that look for others.
    pub fn path(&self) -> OsString {
        env::join_paths(&self.folders).unwrap_or_default()
    }
}
