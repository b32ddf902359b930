//! What the machine shows: which system runs, was booted, and would boot.

use std::fs;

use fabrik_core::agent::{Facts, Outcome};
use fabrik_core::id::{BootId, StorePath};
use fabrik_core::system::Staged;
use jiff::Timestamp;

use super::boot::BootError;
use super::{AgentConfig, NodeError, closure};

const RUNNING: &str = "/run/current-system";
const BOOTED: &str = "/run/booted-system";
const PROFILE: &str = "/nix/var/nix/profiles/system";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Looks at the machine, with nothing staged yet. `last` is how the last command ended.
pub fn facts(config: &AgentConfig, last: Option<Outcome>) -> Result<Facts, NodeError> {
    Ok(Facts {
        now: Timestamp::now(),
        boot: boot_id(config)?,
        // Nodes go back, and obey what needs no boot, with a menu that nobody can read.
        default: default(config).map_err(|error| error.to_string()),
        running: running(config)?,
        booted: system(config, BOOTED)?,
        staged: None,
        last,
    })
}

/// What it takes to go to `new`, which is whole in the store of a machine that shows `facts`.
pub fn staged(config: &AgentConfig, facts: &Facts, new: &StorePath) -> Result<Staged, NodeError> {
    let needs = closure::needs(&config.root, &facts.booted, &facts.running, new)?;
    let system = new.clone();
    Ok(Staged { system, needs })
}

pub fn boot_id(config: &AgentConfig) -> Result<BootId, NodeError> {
    let path = config.on_machine(BOOT_ID);
    let text = fs::read_to_string(&path).map_err(NodeError::io(&path))?;
    text.trim()
        .parse()
        .map_err(|error: fabrik_core::id::InvalidId| NodeError::Malformed {
            path,
            problem: error.to_string(),
        })
}

pub fn running(config: &AgentConfig) -> Result<StorePath, NodeError> {
    system(config, RUNNING)
}

/// What an ordinary boot starts. A loader that fabrik does not know boots what was installed last: the profile.
pub fn default(config: &AgentConfig) -> Result<StorePath, NodeError> {
    let machine = config.machine();
    let menu = machine.loader().and_then(|loader| machine.menu(loader));
    match menu {
        Ok(menu) => parse(menu.default.as_str(), "the boot loader's default"),
        Err(BootError::UnknownLoader { .. }) => {
            let profile = config.on_machine(PROFILE);
            let generation = fs::read_link(&profile).map_err(NodeError::io(&profile))?;
            let folder = profile.parent().unwrap_or(&profile);
            let generation = folder.join(generation);
            let system = fs::read_link(&generation).map_err(NodeError::io(&generation))?;
            parse(&system.to_string_lossy(), PROFILE)
        }
        Err(error) => Err(error.into()),
    }
}

fn system(config: &AgentConfig, link: &str) -> Result<StorePath, NodeError> {
    let path = config.on_machine(link);
    let target = fs::read_link(&path).map_err(NodeError::io(&path))?;
    parse(&target.to_string_lossy(), link)
}

fn parse(found: &str, place: &str) -> Result<StorePath, NodeError> {
    found.parse().map_err(|_| NodeError::NoSystem {
        path: place.into(),
        found: found.to_owned(),
    })
}
