//! What it takes to go from the running system to another one, by the files of the two.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use fabrik_core::id::StorePath;
use fabrik_core::system::Needs;

use super::{AgentConfig, NodeError};

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

/// `Nothing`, `Switch` or `Reboot`: whether a node is to be drained besides, the leader knows.
pub fn needs(
    config: &AgentConfig,
    booted: &StorePath,
    running: &StorePath,
    new: &StorePath,
) -> Result<Needs, NodeError> {
    if running == new {
        return Ok(Needs::Nothing);
    }
    let (before, after) = (
        config.on_machine(booted.as_str()),
        config.on_machine(new.as_str()),
    );
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
