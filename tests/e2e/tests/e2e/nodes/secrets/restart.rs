//! A service that must not wait for its secret: another one makes another system, which rolls as any other.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::Machine;
use fabrik_e2e::World;
use serde_json::Value;

use super::{FOLDER, MODE, VPN, holds, push};

const RESTART: &str = "restart = [\"wg0.service\"]";
const JOURNAL: &str = "var/lib/fabrik-agent/journal.json";
const NOTED: &str = "run/restarted";

/// No node is told to try it before the secret is in place, so the service finds that.
pub async fn is_rolled_out_under_a_ticket(world: &World, worker: &Machine) -> Result<()> {
    let (boots, before) = (worker.boots(), next_ticket(world).await?);
    let wanted = world.push_edited(MODE, &format!("{MODE}\n{RESTART}"))?;
    world.carried_out(&wanted).await?;
    let (first, then) = (kept(worker)?, found(worker)?);

    let rotated = push(world, VPN[2])?;
    world.carried_out(&rotated).await?;
    holds(worker, &[("vpn", VPN[2], 0o440)])?;
    let second = kept(worker)?;
    // The server has a secret of the same file, and no service that must not wait.
    ensure!(
        before <= first && first < second && next_ticket(world).await? == second + 1,
        "tickets {before}, {first}, {second}"
    );
    let restarted = noted(worker)?;
    ensure!(restarted == [then, found(worker)?], "{restarted:?}");
    ensure!(worker.boots() == boots, "it booted");
    Ok(())
}

/// The number that the next ticket has at least.
pub async fn next_ticket(world: &World) -> Result<u64> {
    let ledger = fabrik_e2e::ledger(&world.bed).await?;
    ledger["nextTicket"].as_u64().context("no number")
}

/// The ticket under which it has switched to its system.
fn kept(machine: &Machine) -> Result<u64> {
    let journal = machine.root().context("a disk")?.path(JOURNAL);
    let journal: Value = serde_json::from_slice(&fs::read(journal)?)?;
    let current = &journal["current"];
    let is_kept = current["phase"] == "kept" && current["needs"] == "switch";
    ensure!(
        is_kept && current["system"] == machine.system()?.path.as_str(),
        "{journal:#}"
    );
    current["ticket"].as_u64().context("no ticket")
}

/// What a machine noted of services that a switch has started again.
pub fn noted(machine: &Machine) -> Result<Vec<String>> {
    let noted = machine.root().context("a disk")?.path(NOTED);
    match fs::read_to_string(noted) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// What it notes of one that finds the very file that is in place.
fn found(machine: &Machine) -> Result<String> {
    let folder = machine.root().context("a disk")?.path(FOLDER);
    let inode = fs::metadata(folder.join("vpn"))?.ino();
    Ok(format!("wg0.service: {inode} vpn"))
}
