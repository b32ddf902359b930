//! `/run/fabrik/secrets`: a file for each secret, and no other but a note of what was placed. `/run` is memory, and empty
//! after a boot.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, Permissions};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use fabrik_core::hex;
use fabrik_core::id::SecretName;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::delivery::SecretFile;
use crate::node::{AgentConfig, NodeError};

const FOLDER: &str = "/run/fabrik/secrets";
/// Who knows a name may try to open it; nobody sees which there are.
const FOLDER_MODE: u32 = 0o711;
const PARENT_MODE: u32 = 0o755;
/// Of a file whose owner or group is not there.
const NOBODY_S_MODE: u32 = 0o400;
const MODE_BITS: u32 = 0o7777;

/// What was placed last, for root alone. No secret's name begins with a dot.
const PLACED: &str = ".placed";

/// Where the files are, and where their owners are looked up.
pub struct Folder {
    path: PathBuf,
    users: PathBuf,
    groups: PathBuf,
}

/// Whose a file is, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    user: u32,
    group: u32,
    mode: u32,
}

/// A file as it was placed. Root without capabilities can't read what belongs to others, so what is in one is known by this:
/// whoever writes to it, or gives it away, changes its ctime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Placed {
    value: String,
    inode: u64,
    changed: (i64, i64),
}

impl Folder {
    pub fn of(config: &AgentConfig) -> Self {
        Self {
            path: config.on_machine(FOLDER),
            users: config.on_machine("/etc/passwd"),
            groups: config.on_machine("/etc/group"),
        }
    }

    /// Has these files here, each whole at any moment, and no other. Returns what is amiss: an owner who is not on this
    /// machine, for one, as long as the system that brings him does not run. Such a file is root's meanwhile.
    pub fn place(
        &self,
        files: &BTreeMap<SecretName, SecretFile>,
    ) -> Result<Vec<String>, NodeError> {
        self.make()?;
        // Two may place at once: the agent, and the unit that does it before others start.
        let (mut record, mut placed) =
            self.lock().map_err(NodeError::io(self.path.join(PLACED)))?;
        let mut amiss = Vec::new();
        for (name, file) in files {
            let owner = self.owner(file).unwrap_or_else(|problem| {
                let what = "belongs to root alone until then";
                amiss.push(format!("secret {name}: {problem}; {what}"));
                Owner {
                    user: 0,
                    group: 0,
                    mode: NOBODY_S_MODE,
                }
            });
            let path = self.path.join(name.as_str());
            let before = placed.get(name.as_str());
            if !before.is_some_and(|before| is_there(&path, file, owner, before)) {
                let new = self.write(&path, file, owner);
                let new = new.map_err(NodeError::io(path))?;
                placed.insert(name.to_string(), new);
            }
        }
        self.remove_others(files)?;
        placed.retain(|name, _| files.keys().any(|wanted| wanted.as_str() == name));
        note(&mut record, &placed).map_err(NodeError::io(self.path.join(PLACED)))?;
        Ok(amiss)
    }

    /// What was placed before, for as long as the file is open nobody else's to change. One that can't be read says nothing.
    fn lock(&self) -> std::io::Result<(File, BTreeMap<String, Placed>)> {
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut record = options.mode(0o600).open(self.path.join(PLACED))?;
        record.lock()?;
        let mut text = Vec::new();
        record.read_to_end(&mut text)?;
        Ok((record, serde_json::from_slice(&text).unwrap_or_default()))
    }

    fn make(&self) -> Result<(), NodeError> {
        let parent = self.path.parent().unwrap_or(&self.path);
        for (folder, mode) in [(parent, PARENT_MODE), (&self.path, FOLDER_MODE)] {
            fs::create_dir_all(folder).map_err(NodeError::io(folder))?;
            let there = fs::metadata(folder).map_err(NodeError::io(folder))?;
            if there.mode() & MODE_BITS != mode {
                let set = fs::set_permissions(folder, Permissions::from_mode(mode));
                set.map_err(NodeError::io(folder))?;
            }
        }
        Ok(())
    }

    fn write(&self, path: &Path, file: &SecretFile, owner: Owner) -> std::io::Result<Placed> {
        // For its maker alone, until it is whole.
        let mut new = tempfile::NamedTempFile::new_in(&self.path)?;
        new.write_all(file.value.expose())?;
        let open = new.as_file();
        open.set_permissions(Permissions::from_mode(owner.mode))?;
        let is = open.metadata()?;
        if (is.uid(), is.gid()) != (owner.user, owner.group) {
            fchown(open, Some(owner.user), Some(owner.group))?;
        }
        let new = new.persist(path).map_err(|error| error.error)?;
        // Of this very file, whatever has become of its name: the ctime is that of the rename.
        Ok(Placed::now(&new.metadata()?, file))
    }

    fn remove_others(&self, files: &BTreeMap<SecretName, SecretFile>) -> Result<(), NodeError> {
        let failed = || NodeError::io(&self.path);
        for entry in fs::read_dir(&self.path).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            if name == PLACED {
                continue;
            }
            let wanted = name.to_str().and_then(|name| name.parse().ok());
            if wanted.is_some_and(|name: SecretName| files.contains_key(&name)) {
                continue;
            }
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(NodeError::io(entry.path())(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn owner(&self, file: &SecretFile) -> Result<Owner, String> {
        Ok(Owner {
            user: number(&self.users, "user", &file.owner)?,
            group: number(&self.groups, "group", &file.group)?,
            mode: file.mode.bits(),
        })
    }
}

/// By number, or by the third field of its line.
fn number(file: &Path, kind: &str, name: &str) -> Result<u32, String> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    if name == "root" {
        return Ok(0);
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let is = fields.next() == Some(name);
        fields.nth(1).filter(|_| is)?.parse().ok()
    });
    found.ok_or_else(|| format!("this machine has no {kind} `{name}`"))
}

impl Placed {
    fn now(is: &Metadata, file: &SecretFile) -> Self {
        Self {
            value: hex(digest(&SHA256, file.value.expose()).as_ref()),
            inode: is.ino(),
            changed: (is.ctime(), is.ctime_nsec()),
        }
    }
}

/// A file that is as it should be is left alone: who watches it would take it for a new one.
fn is_there(path: &Path, file: &SecretFile, owner: Owner, before: &Placed) -> bool {
    fs::symlink_metadata(path).is_ok_and(|is| {
        let now = Owner {
            user: is.uid(),
            group: is.gid(),
            mode: is.mode() & MODE_BITS,
        };
        is.is_file() && now == owner && Placed::now(&is, file) == *before
    })
}

fn note(record: &mut File, placed: &BTreeMap<String, Placed>) -> std::io::Result<()> {
    let text = serde_json::to_vec(placed)?;
    record.set_len(0)?;
    record.rewind()?;
    record.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::tests::delivery;

    fn folder() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let folder = Folder {
            path: at("run/fabrik/secrets"),
            users: at("passwd"),
            groups: at("group"),
        };
        (dir, folder)
    }

    /// Files that belong to whoever runs the tests.
    fn files(files: &[(&str, &str, &str)]) -> BTreeMap<SecretName, SecretFile> {
        let mut files = delivery(1, files).files;
        let own = fs::metadata("/proc/self").unwrap();
        for file in files.values_mut() {
            (file.owner, file.group) = (own.uid().to_string(), own.gid().to_string());
        }
        files
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & MODE_BITS
    }

    #[test]
    fn files_come_change_and_go_as_they_are_wanted() {
        let (_dir, folder) = folder();
        let at = |name: &str| folder.path.join(name);
        let first = files(&[("a", "one", "0400"), ("b", "two", "0440")]);
        assert_eq!(folder.place(&first).unwrap(), Vec::<String>::new());
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "one");
        assert_eq!((mode(&at("a")), mode(&at("b"))), (0o400, 0o440));
        assert_eq!(
            (mode(&folder.path), mode(folder.path.parent().unwrap())),
            (0o711, 0o755)
        );

        let inode = |name: &str| fs::metadata(at(name)).unwrap().ino();
        let (a, b) = (inode("a"), inode("b"));
        fs::write(at(".left-by-a-crash"), "x").unwrap();
        let then = files(&[("a", "one", "0400"), ("b", "three", "0400")]);
        folder.place(&then).unwrap();
        assert_eq!(inode("a"), a, "what is as it should be is left alone");
        assert_ne!(inode("b"), b, "another file, whole, in its place");
        assert_eq!(
            (
                fs::read_to_string(at("b")).unwrap().as_str(),
                mode(&at("b"))
            ),
            ("three", 0o400)
        );
        assert!(!at(".left-by-a-crash").exists());

        fs::set_permissions(at("a"), Permissions::from_mode(0o644)).unwrap();
        folder.place(&then).unwrap();
        assert_eq!(mode(&at("a")), 0o400);
        fs::write(at("a"), "somebody's").unwrap();
        folder.place(&then).unwrap();
        assert_eq!(fs::read_to_string(at("a")).unwrap(), "one");
        fs::write(at(PLACED), "cut off by a cras").unwrap();
        folder.place(&then).unwrap();
        assert_eq!(mode(&at(PLACED)), 0o600);
        folder.place(&BTreeMap::new()).unwrap();
        assert_eq!(
            fs::read_dir(&folder.path).unwrap().count(),
            1,
            "what was placed is noted"
        );
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let (dir, folder) = folder();
        folder.place(&BTreeMap::new()).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "one").unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path.join("a")).unwrap();
        folder.place(&files(&[("a", "two", "0400")])).unwrap();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "one");
        assert_eq!(fs::read_to_string(folder.path.join("a")).unwrap(), "two");
    }

    #[test]
    fn who_places_at_the_same_time_takes_nobody_s_file_away() {
        let (_dir, folder) = folder();
        let wanted = files(&[("a", "one", "0400"), ("b", "two", "0400")]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        // Each time all of it anew.
                        let _ = fs::remove_file(folder.path.join("a"));
                        folder.place(&wanted).unwrap();
                    }
                });
            }
        });
        folder.place(&wanted).unwrap();
        assert_eq!(fs::read_to_string(folder.path.join("a")).unwrap(), "one");
    }

    #[test]
    fn owners_are_looked_up_on_the_machine() {
        let (_dir, folder) = folder();
        fs::write(
            &folder.users,
            "root:x:0:0::/:/bin/sh\nwg:x:977:978::/:/bin/sh\nbroken\n",
        )
        .unwrap();
        fs::write(&folder.groups, "wg:x:978:\n").unwrap();
        assert_eq!(number(&folder.users, "user", "wg"), Ok(977));
        assert_eq!(number(&folder.groups, "group", "wg"), Ok(978));
        assert_eq!(number(&folder.users, "user", "12"), Ok(12));
        assert_eq!(number(Path::new("/nowhere"), "user", "root"), Ok(0));
        let told = number(&folder.users, "user", "broken").unwrap_err();
        assert_eq!(told, "this machine has no user `broken`");
    }
}
