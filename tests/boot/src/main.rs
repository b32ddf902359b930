//! What stands in for the agent on a machine of these tests: it reads its job from a disk, does the next step of booting
//! a system once by the product's own code, and says on the console what it did.
//!
//! Ends with 0 for a reboot, else the machine is powered off. Its journal is one file: written before the one-shot.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use fabrik::node::boot::{self, Layout, Machine, System, Tools};

const JOURNAL: &str = "/var/attempt";
const REBOOT: u8 = 0;
const POWER_OFF: u8 = 1;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            println!("FAILED {error:#}");
            ExitCode::from(POWER_OFF)
        }
    }
}

/// The job: the trusted system and those to try, one after the other.
fn run() -> Result<u8> {
    let disk = std::env::args()
        .nth(1)
        .context("the job's disk is missing")?;
    let bytes = fs::read(disk)?;
    let text = String::from_utf8_lossy(&bytes);
    let words = text.trim_end_matches('\0').split_ascii_whitespace();
    let systems: Vec<System> = words.map(System::parse).collect::<Result<_, _>>()?;
    let (old, tried) = systems.split_first().context("no job")?;
    let booted = fs::read_link("/run/booted-system")?;
    let machine = machine();
    match tried.iter().find(|new| booted == Path::new(new.as_str())) {
        Some(new) => verified(&machine, new),
        None => next(&machine, old, tried),
    }
}

/// This is the new system, and it works.
fn verified(machine: &Machine, new: &System) -> Result<u8> {
    if machine.menu(machine.loader()?)?.default == *new {
        println!("STEADY");
        return Ok(POWER_OFF);
    }
    boot::keep(machine, new)?;
    pause_after("KEPT")?;
    Ok(REBOOT)
}

/// This is the old system: what was tried failed, and the next one has its turn.
fn next(machine: &Machine, old: &System, tried: &[System]) -> Result<u8> {
    let mut left = tried.iter();
    if let Ok(failed) = fs::read_to_string(JOURNAL) {
        let failed = left
            .find(|new| new.as_str() == failed)
            .context("the journal names a system of no job")?;
        boot::abandon(machine, old, failed)?;
        fs::remove_file(JOURNAL)?;
        pause_after("ABANDONED")?;
    }
    let Some(new) = left.next() else {
        println!("DONE");
        return Ok(POWER_OFF);
    };
    boot::prepare(machine, old, new)?;
    pause_after("PREPARED")?;
    let mut journal = File::create(JOURNAL)?;
    journal.write_all(new.as_str().as_bytes())?;
    journal.sync_all()?;
    boot::boot_once(machine, old, new)?;
    pause_after("ONCE")?;
    Ok(REBOOT)
}

/// Until a line comes from the console: whoever watches sees what is on the disk by now, and nothing else.
fn pause_after(word: &str) -> Result<()> {
    println!("{word}");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn machine() -> Machine {
    let tool = |name: &str| PathBuf::from("/bin").join(name);
    let tools = Tools {
        nix_env: tool("nix-env"),
        nixos_rebuild: tool("nixos-rebuild"),
        grub_reboot: tool("grub-reboot"),
        grub_editenv: tool("grub-editenv"),
        bootctl: tool("bootctl"),
        df: tool("df"),
        mount: tool("mount"),
        sync: tool("sync"),
    };
    Machine::new(PathBuf::from("/"), Layout::default(), tools)
}
