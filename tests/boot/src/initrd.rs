//! The systems' initrds: busybox, the modules to reach the disk, and a first program (cpio, "newc").

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::parts::Parts;
use crate::systems::{Behaviour, Disks};
use crate::tree;

/// What /boot takes, and the watchdog, beside the drivers of the disk.
const MODULES: [&str; 5] = ["vfat", "nls_cp437", "nls_ascii", "nls_utf8", "watchdog"];
const STAGE_1: &str = include_str!("../guest/stage-1");

const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;
const PERMISSIONS: u32 = 0o777;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Major 5, minor 1.
const CONSOLE: (u32, u32) = (5, 1);

/// The initrd of a system.
pub fn build(parts: &Parts, number: usize, behaviour: Behaviour, disks: &Disks) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir()?;
    let root = folder.path();
    for folder in ["bin", "dev", "modules"] {
        fs::create_dir(root.join(folder))?;
    }
    tree::install(&parts.program_file("busybox")?, &root.join("bin/busybox"))?;
    if disks.by_udev {
        tree::udev(parts, root)?;
    }
    tree::script(&root.join("init"), STAGE_1)?;
    fs::write(root.join("generation"), number.to_string())?;
    fs::write(root.join("behaviour"), behaviour.word())?;
    let mut order = Vec::new();
    for name in disks.drivers.iter().map(String::as_str).chain(MODULES) {
        module(parts, name, &root.join("modules"), &mut order)?;
    }
    fs::write(root.join("modules/order"), order.join("\n"))?;

    let mut archive = Archive::default();
    archive.add_folder(root, "")?;
    archive.add("dev/console", CHARACTER_DEVICE, CONSOLE, &[]);
    Ok(archive.end())
}

/// A module and, before it, those that it depends on.
fn module(parts: &Parts, name: &str, folder: &Path, order: &mut Vec<String>) -> Result<()> {
    // What this kernel has built in is no module.
    let Ok(path) = parts.module(name) else {
        return Ok(());
    };
    let file = format!("{name}.ko");
    if order.contains(&file) {
        return Ok(());
    }
    let content = fs::read(path)?;
    for needed in dependencies(&content).split(',') {
        module(parts, needed, folder, order)?;
    }
    fs::write(folder.join(&file), content)?;
    order.push(file);
    Ok(())
}

/// As depmod reads them, in the section `.modinfo`.
fn dependencies(module: &[u8]) -> String {
    const KEY: &[u8] = b"depends=";
    let is_key = |field: &&[u8]| field.starts_with(KEY);
    let field = module.split(|byte| *byte == 0).find(is_key);
    String::from_utf8_lossy(&field.unwrap_or(KEY)[KEY.len()..]).into_owned()
}

#[derive(Default)]
struct Archive(Vec<u8>, u32);

impl Archive {
    /// All that is in a folder. `inside` ends with a slash, or is empty.
    fn add_folder(&mut self, folder: &Path, inside: &str) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string().ok().context("no UTF-8")?;
            let name = format!("{inside}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.add(&name, DIRECTORY, (0, 0), &[]);
                self.add_folder(&entry.path(), &format!("{name}/"))?;
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.add(&name, LINK, (0, 0), target.as_os_str().as_encoded_bytes());
            } else {
                let mode = entry.metadata()?.permissions().mode() & PERMISSIONS;
                self.add(&name, FILE | mode, (0, 0), &fs::read(entry.path())?);
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.1 += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len()).unwrap_or(u32::MAX) + 1;
        self.0.extend(b"070701");
        for field in [
            self.1, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ] {
            self.0.extend(format!("{field:08X}").into_bytes());
        }
        self.0.extend(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn end(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.0
    }
}
