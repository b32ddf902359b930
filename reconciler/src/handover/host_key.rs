//! The SSH host key of a machine, and the laptop's key that it lets in: at first those of its user data.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{HandoverError, systemctl};
use crate::node::identify::STATE_DIR;
use crate::node::state::{read, write_durably};
use crate::secrets::{Secret, founding_keys};

/// What sshd has by default, and NixOS with it.
const HOST_KEY: &str = "etc/ssh/ssh_host_ed25519_key";
const AUTHORIZED_KEYS: &str = "root/.ssh/authorized_keys";
/// Ends the line of the laptop's key.
const MARK: &str = "fabrik-seed";
/// The machine's own, beside the rest of what it keeps.
const OWN: &str = "ssh_host_ed25519_key";
/// NixOS' name for it.
const SSHD: &str = "sshd";

/// Puts the host key of the user data in its place, and lets the laptop in.
///
/// # Errors
/// It is no key in OpenSSH's format, a file can't be written, or sshd does not restart.
pub async fn meet(root: &Path, host_key: &Secret, laptop: &str) -> Result<(), HandoverError> {
    let no_key = || HandoverError::Program {
        command: "reading the host key of the user data".to_owned(),
        reason: "it is no private key in OpenSSH's format".to_owned(),
    };
    let public = founding_keys::ssh_public_half(host_key).ok_or_else(no_key)?;
    place(root, host_key, &public)?;
    let_in(root, laptop)?;
    // Also where all was there: one that was cut off may not have come so far.
    systemctl(root, &["restart", SSHD]).await
}

/// Lets the laptop in by its key.
fn let_in(root: &Path, laptop: &str) -> Result<(), HandoverError> {
    let path = root.join(AUTHORIZED_KEYS);
    let there = read(&path)?.unwrap_or_default();
    let line = line_of(laptop);
    if !there.lines().any(|known| known == line) {
        let others = without_mark(&there);
        keep_authorized(&path, &format!("{others}{line}\n"))?;
    }
    Ok(())
}

/// The same, in a line for a machine's shell. The last line that is there may have no end.
pub fn let_in_line(laptop: &str) -> String {
    let (line, path) = (line_of(laptop), format!("/{AUTHORIZED_KEYS}"));
    format!(
        "umask 077 && mkdir -p /root/.ssh && {{ [ -z \"$(tail -c 1 {path} 2>/dev/null)\" ] || echo >>{path}; }} && \
         echo '{line}' >>{path}"
    )
}

/// The public half of the machine's own key, which is made once and nobody else has seen.
pub fn own(root: &Path, comment: &str) -> Result<String, HandoverError> {
    Ok(founding_keys::ensure_ssh(&own_path(root), comment)?)
}

/// Puts the machine's own key in the place of the other one. Connections that are there stay.
pub async fn use_own(root: &Path, comment: &str) -> Result<(), HandoverError> {
    let public = own(root, comment)?;
    let path = own_path(root);
    let key = fs::read(&path).map(Secret::new);
    place(root, &key.map_err(HandoverError::io(path))?, &public)?;
    systemctl(root, &["restart", SSHD]).await
}

/// Whether sshd is given the machine's own key.
pub fn is_own(root: &Path) -> Result<bool, HandoverError> {
    let content = |path: PathBuf| match fs::read(&path) {
        Ok(content) => Ok(Some(Secret::new(content))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HandoverError::io(path)(error)),
    };
    let own = content(own_path(root))?;
    Ok(own.is_some() && own == content(root.join(HOST_KEY))?)
}

/// Lets the laptop in no more.
pub fn part(root: &Path) -> Result<(), HandoverError> {
    let path = root.join(AUTHORIZED_KEYS);
    let Some(there) = read(&path)? else {
        return Ok(());
    };
    let others = without_mark(&there);
    if others != there {
        keep_authorized(&path, &others)?;
    }
    Ok(())
}

fn line_of(laptop: &str) -> String {
    // A line break would be a second key.
    let key = laptop.lines().next().unwrap_or_default().trim();
    format!("{key} {MARK}")
}

fn own_path(root: &Path) -> PathBuf {
    root.join(STATE_DIR).join(OWN)
}

fn place(root: &Path, key: &Secret, public: &str) -> Result<(), HandoverError> {
    let path = root.join(HOST_KEY);
    let dir = path.parent().unwrap_or(root);
    write_durably(dir, &path, key.expose()).map_err(HandoverError::io(&path))?;
    let path = path.with_extension("pub");
    let public = format!("{public}\n");
    write_durably(dir, &path, public.as_bytes()).map_err(HandoverError::io(path))
}

fn without_mark(lines: &str) -> String {
    let others = lines.lines().filter(|line| !is_of_laptop(line));
    others.map(|line| format!("{line}\n")).collect()
}

/// A key's type, the key, and nothing but the mark.
fn is_of_laptop(line: &str) -> bool {
    let mut comment = line.split(' ').skip(2).peekable();
    comment.peek().is_some() && comment.all(|word| word == MARK)
}

/// sshd passes over a file that others could write (sshd_config(5), "StrictModes").
fn keep_authorized(path: &Path, text: &str) -> Result<(), HandoverError> {
    let dir = path.parent().unwrap_or(path);
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    let private = fs::Permissions::from_mode(0o700);
    made.and_then(|()| fs::set_permissions(dir, private))
        .and_then(|()| write_durably(dir, path, text.as_bytes()))
        .map_err(HandoverError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_laptop_s_line_goes_and_others_stay() {
        let root = tempfile::tempdir().unwrap();
        part(root.path()).unwrap();
        let path = root.path().join(AUTHORIZED_KEYS);
        keep_authorized(&path, "ssh-ed25519 AAAA me\nssh-ed25519 BBBB fabrik-seed\n").unwrap();
        part(root.path()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "ssh-ed25519 AAAA me\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    }

    #[test]
    fn whose_key_has_no_line_break_behind_it_is_let_in_before_and_afterwards() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(AUTHORIZED_KEYS);
        let below = |line: &str| line.replace("/root", &format!("{}/root", root.path().display()));
        let line = below(&let_in_line("ssh-ed25519 BBBB fabrik-seed"));
        for (there, kept) in [
            ("", ""),
            ("ssh-ed25519 AAAA me", "ssh-ed25519 AAAA me\n"),
            ("ssh-ed25519 AAAA me\n", "ssh-ed25519 AAAA me\n"),
            (
                "ssh-ed25519 AAAA my fabrik-seed\n",
                "ssh-ed25519 AAAA my fabrik-seed\n",
            ),
        ] {
            keep_authorized(&path, there).unwrap();
            // Told again, as it is when the laptop was cut off.
            for _ in 0..2 {
                let mut shell = std::process::Command::new("sh");
                assert!(shell.args(["-c", &line]).status().unwrap().success());
            }
            let text = fs::read_to_string(&path).unwrap();
            let own = "ssh-ed25519 BBBB fabrik-seed fabrik-seed";
            assert!(text.lines().any(|line| line == own), "{text}");
            part(root.path()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), kept);
        }
        fs::remove_dir_all(root.path().join("root")).unwrap();
        let mut shell = std::process::Command::new("sh");
        assert!(shell.args(["-c", &line]).status().unwrap().success());
        assert!(path.exists(), "where nobody was let in by it before");
    }

    #[test]
    fn a_machine_s_own_key_is_made_once_and_is_not_the_one_in_use_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(!is_own(root).unwrap());
        fs::create_dir_all(root.join(STATE_DIR)).unwrap();
        let public = own(root, "root@demo").unwrap();
        assert_eq!(own(root, "root@demo").unwrap(), public);
        assert!(public.starts_with("ssh-ed25519 ") && public.ends_with(" root@demo"));
        assert!(!is_own(root).unwrap());
    }
}
