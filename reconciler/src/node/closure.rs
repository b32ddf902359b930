//! What it takes to go from the running system to another one, by the files of the two.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use fabrik_core::id::StorePath;
use fabrik_core::system::Needs;

use super::NodeError;

/// A running kernel keeps these until the next boot.
const OF_A_BOOT: [&str; 5] = [
    "kernel",
    "initrd",
    "kernel-modules",
    "kernel-params",
    "systemd",
];
/// What can't be replaced while it runs, by name (nixpkgs, system.switch.inhibitors).
const INHIBITORS: &str = "switch-inhibitors";

/// `Nothing`, `Switch` or `Reboot`, of systems below `root`: whether a node is to be drained besides, the leader knows.
pub fn needs(
    root: &Path,
    booted: &StorePath,
    running: &StorePath,
    new: &StorePath,
) -> Result<Needs, NodeError> {
    if running == new {
        return Ok(Needs::Nothing);
    }
    let of = |system: &StorePath| root.join(system.as_str().trim_start_matches('/'));
    let (before, after) = (of(booted), of(new));
    for part in OF_A_BOOT {
        if content(&before.join(part))? != content(&after.join(part))? {
            return Ok(Needs::Reboot);
        }
    }
    let (before, after) = (inhibitors(&before)?, inhibitors(&after)?);
    let differs = |(name, value)| after.get(name).is_some_and(|other| other != value);
    if before.iter().any(differs) {
        return Ok(Needs::Reboot);
    }
    Ok(Needs::Switch)
}

/// Where a link points to, or what a file holds; `None` where there is neither.
fn content(path: &Path) -> Result<Option<Vec<u8>>, NodeError> {
    let read = fs::read_link(path)
        .map(|target| target.into_os_string().into_encoded_bytes())
        .or_else(|error| match error.kind() {
            ErrorKind::InvalidInput => fs::read(path), // no link
            _ => Err(error),
        });
    match read {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(NodeError::io(path)(error)),
    }
}

fn inhibitors(system: &Path) -> Result<BTreeMap<String, serde_json::Value>, NodeError> {
    let path = system.join(INHIBITORS);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(NodeError::io(path)(error)),
    };
    serde_json::from_slice(&text).map_err(|error| NodeError::Malformed {
        path,
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A system with these files; those that begin with `/` are links.
    fn system(root: &Path, name: &str, files: &[(&str, &str)]) -> StorePath {
        let path = format!("/nix/store/{}-{name}", "0".repeat(32));
        let dir = root.join(&path[1..]);
        fs::create_dir_all(&dir).unwrap();
        for (file, content) in files {
            if content.starts_with('/') {
                symlink(content, dir.join(file)).unwrap();
            } else {
                fs::write(dir.join(file), content).unwrap();
            }
        }
        path.parse().unwrap()
    }

    #[test]
    fn what_a_kernel_keeps_takes_a_boot_and_all_else_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let base = [
            ("kernel", "/nix/store/k1"),
            ("initrd", "/nix/store/i1"),
            ("kernel-modules", "/nix/store/m1"),
            ("kernel-params", "panic=10"),
            ("systemd", "/nix/store/s1"),
            ("switch-inhibitors", r#"{"dbus": "1", "gone": "1"}"#),
        ];
        let booted = system(root, "booted", &base);
        let needs = |new: &StorePath| needs(root, &booted, &booted, new).unwrap();
        assert_eq!(needs(&booted), Needs::Nothing);
        assert_eq!(needs(&system(root, "same", &base)), Needs::Switch);
        for (index, (file, _)) in base.iter().enumerate().take(5) {
            for (kind, content) in [("link", "/nix/store/other"), ("file", "other")] {
                let mut files = base;
                files[index].1 = content;
                let new = system(root, &format!("{file}-{kind}"), &files);
                assert_eq!(needs(&new), Needs::Reboot, "{file}");
            }
            let mut files = base.to_vec();
            files.remove(index);
            let new = system(root, &format!("no-{file}"), &files);
            assert_eq!(needs(&new), Needs::Reboot, "without {file}");
        }
        let inhibited = |name: &str, text| {
            let mut files = base;
            files[5].1 = text;
            needs(&system(root, name, &files))
        };
        assert_eq!(
            inhibited("same-dbus", r#"{"dbus": "1", "new": "1"}"#),
            Needs::Switch
        );
        assert_eq!(inhibited("other-dbus", r#"{"dbus": "2"}"#), Needs::Reboot);
    }

    #[test]
    fn it_is_the_booted_system_that_counts_and_not_the_running_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let booted = system(root, "booted", &[("kernel", "/nix/store/k1")]);
        let running = system(root, "running", &[("kernel", "/nix/store/k2")]);
        let new = system(root, "new", &[("kernel", "/nix/store/k2")]);
        assert_eq!(needs(root, &booted, &running, &new).unwrap(), Needs::Reboot);
        assert_eq!(
            needs(root, &booted, &running, &booted).unwrap(),
            Needs::Switch
        );
    }
}
