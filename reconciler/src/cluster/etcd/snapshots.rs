//! etcd's snapshots: which are on this server's disk, and one more by k3s' own way.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::members::Hosts;
use super::{EtcdError, unreadable};

/// etcd's largest recommended data set is written in less.
const SAVING: Duration = Duration::from_secs(120);

/// The names that whole snapshots were asked for by. A folder that is not there holds none.
pub fn complete(dir: &Path, hosts: &Hosts) -> Result<BTreeSet<String>, EtcdError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(unreadable(dir))?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(unreadable(dir))?;
        let whole = entry.metadata().is_ok_and(|m| m.is_file() && m.len() > 0);
        if let Some(file) = entry.file_name().to_str().filter(|_| whole) {
            names.extend(asked_for(file, hosts));
        }
    }
    Ok(names)
}

/// k3s calls a snapshot `NAME-NODE-SECONDS`, and adds `.zip` to one that it packs; etcd writes to another name until it
/// is whole.
fn asked_for(file: &str, hosts: &Hosts) -> Option<String> {
    let (name, seconds) = file.trim_end_matches(".zip").rsplit_once('-')?;
    let digits = !seconds.is_empty() && seconds.chars().all(|c| c.is_ascii_digit());
    let of = |node: &str| name.strip_suffix(node)?.strip_suffix('-');
    let mut names = hosts.names.iter().filter_map(|node| of(node.as_str()));
    names.next().filter(|_| digits).map(str::to_owned)
}

pub async fn save(name: &str) -> Result<(), EtcdError> {
    let run = Command::new("k3s")
        .args(["etcd-snapshot", "save", "--name", name])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let late = || EtcdError::Snapshot(format!("it did not end within {SAVING:?}"));
    let output = tokio::time::timeout(SAVING, run).await;
    let output = output.map_err(|_| late())?.map_err(EtcdError::NoK3s)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(EtcdError::Snapshot(format!(
        "{}: {}",
        output.status,
        last.unwrap_or("it says nothing").trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_known_by_the_name_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, bytes: &[u8]| std::fs::write(dir.path().join(file), bytes).unwrap();
        put("fabrik-before-1.37-5-server-1-1700000000", b"data");
        put("fabrik-before-1.37-51-server-2-1700000009.zip", b"data");
        put("fabrik-before-1.38-6-server-1-1700000000.part", b"data");
        put("fabrik-before-1.39-7-server-1-1700000000", b"");
        put("fabrik-before-1.37-8-elsewhere-1700000000", b"data");
        let hosts = Hosts {
            names: ["server-1", "server-2"].map(|n| n.parse().unwrap()).into(),
            ..Hosts::default()
        };
        let names: Vec<String> = complete(dir.path(), &hosts).unwrap().into_iter().collect();
        assert_eq!(names, ["fabrik-before-1.37-5", "fabrik-before-1.37-51"]);
        let nowhere = dir.path().join("nowhere");
        assert!(complete(&nowhere, &hosts).unwrap().is_empty());
    }
}
