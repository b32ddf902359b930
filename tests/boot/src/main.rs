//! What stands in for the agent on a machine of these tests: it reads its job from a disk, does the next step of booting
//! a system once by the product's own code, and says on the console what it did.
//!
//! Ends with 0 for a reboot, else the machine is powered off. Its journal is one file: written before the one-shot.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
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

/// The job: "old new [park]", then NULs.
fn run() -> Result<u8> {
    let disk = std::env::args()
        .nth(1)
        .context("the job's disk is missing")?;
    let bytes = fs::read(disk)?;
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text
        .trim_end_matches('\0')
        .split_ascii_whitespace()
        .collect();
    let (old, new, park) = match words[..] {
        [old, new] => (old, new, false),
        [old, new, "park"] => (old, new, true),
        _ => bail!("no job: {text:?}"),
    };
    let (old, new) = (System::parse(old)?, System::parse(new)?);
    let (said, code) = step(&machine(), &old, &new)?;
    println!("{said}");
    while park {
        std::thread::park();
    }
    Ok(code)
}

fn step(machine: &Machine, old: &System, new: &System) -> Result<(&'static str, u8)> {
    let booted = fs::read_link("/run/booted-system")?;
    if booted == Path::new(new.as_str()) {
        if machine.menu(machine.loader()?)?.default == *new {
            return Ok(("STEADY", POWER_OFF));
        }
        boot::keep(machine, new)?;
        return Ok(("KEPT", REBOOT));
    }
    if Path::new(JOURNAL).exists() {
        boot::abandon(machine, old, new)?;
        return Ok(("ABANDONED", POWER_OFF));
    }
    boot::prepare(machine, old, new)?;
    println!("PREPARED");
    let mut journal = File::create(JOURNAL)?;
    journal.write_all(new.as_str().as_bytes())?;
    journal.sync_all()?;
    boot::boot_once(machine, old, new)?;
    Ok(("ONCE", REBOOT))
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
        sync: tool("sync"),
    };
    Machine::new(PathBuf::from("/"), Layout::default(), tools)
}
