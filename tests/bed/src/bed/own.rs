//! Machines of somebody's own, and what that person has for `fabrik install`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::Bed;
use crate::emulator::Boots;
use crate::git::make_host_key;
use crate::machine::{Machine, Role, State, own};
use crate::parts::Parts;

/// Above all that the emulator gives its servers.
const FIRST_ID: u64 = 1 << 40;
/// The third part of their addresses, outside of what the emulator gives.
const NETWORK: u8 = 200;
const BOOT: Duration = Duration::from_secs(90);
const NIXOS_ANYWHERE: &str = include_str!("../../stand-ins/own/nixos-anywhere");
const OF_MACHINE: [(&str, &str); 2] = [
    ("lay-system", include_str!("../../stand-ins/own/lay-system")),
    ("lsblk", include_str!("../../stand-ins/own/lsblk")),
];

impl Bed {
    /// A machine with power and another Linux, in a bed with systems; and its public host key. `node` is the name of the Node
    /// that it is to be. Needs root.
    pub async fn own_machine(&self, node: &str) -> Result<(Machine, String)> {
        let machines = self.machines();
        let number = machines.iter().filter(|m| m.id() >= FIRST_ID).count();
        let id = FIRST_ID + number as u64;
        let dir = self.dir().join("machines").join(id.to_string());
        let root = dir.join("root");
        for (file, text) in [
            (own::BOOT_ID, ""),
            (own::AUTHORIZED_KEYS, &self.owner_key()?),
        ] {
            write(&root.join(file), text)?;
        }
        fs::create_dir_all(root.join(own::FIRMWARE))?;
        let host_key = root.join(own::HOST_KEY);
        fs::create_dir_all(host_key.parent().context("a folder")?)?;
        make_host_key(&host_key)?;
        for (name, text) in OF_MACHINE {
            program(&dir.join(own::PROGRAMS).join(name), text)?;
        }
        let address = self.slot.address(NETWORK, 1 + u8::try_from(number)?);
        let machine = self.fleet.add(id, node, address, Role::Own)?;
        machine.boot(Boots::Disk);
        let lets_in = |state: &State| *state == State::OtherLinux;
        let waited = machine.wait_for(BOOT, lets_in).await;
        waited.map_err(|error| error.context(crate::wait::log_tails(&self.logs())))?;
        let public = fs::read_to_string(host_key.with_extension("pub"))?;
        Ok((machine, public.trim().to_owned()))
    }

    /// `fabrik install` by their owner, with a real Nix and the stand-in for nixos-anywhere, which writes down its calls.
    pub fn install_cmd(&self, machine: &str) -> Result<Command> {
        let home = self.owner();
        let text = NIXOS_ANYWHERE.replace("@DIR@", &home.display().to_string());
        program(&home.join("bin/nixos-anywhere"), &text)?;
        let mut command = self.fabrik_cmd(&["install", machine, "--yes", machine])?;
        command.arg("--identity").arg(home.join("key"));
        let path = command.get_envs().find(|(name, _)| *name == "PATH");
        let path = path.and_then(|(_, path)| path).unwrap_or_default();
        let nix = Parts::nix()?;
        let folders = nix.parent().map(Path::to_owned).into_iter();
        let folders = [home.join("bin")].into_iter().chain(folders);
        let path = std::env::join_paths(folders.chain(std::env::split_paths(path)))?;
        command
            .env("PATH", path)
            .env("HOME", &home)
            .env("NIX_REMOTE", home.join("store"))
            .env("NIX_CONF_DIR", self.dir().join("image/root/etc/nix"));
        Ok(command)
    }

    /// How nixos-anywhere was called, a line each.
    pub fn nixos_anywhere_calls(&self) -> String {
        fs::read_to_string(self.owner().join("nixos-anywhere.calls")).unwrap_or_default()
    }

    fn owner(&self) -> PathBuf {
        self.dir().join("owner")
    }

    /// Their public key, which is made once.
    fn owner_key(&self) -> Result<String> {
        let key = self.owner().join("key");
        if !key.exists() {
            fs::create_dir_all(self.owner())?;
            make_host_key(&key)?;
        }
        Ok(fs::read_to_string(key.with_extension("pub"))?)
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(file.parent().context("a folder")?)?;
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn program(file: &Path, text: &str) -> Result<()> {
    write(file, text)?;
    Ok(fs::set_permissions(
        file,
        fs::Permissions::from_mode(0o755),
    )?)
}
