//! The systems' initrds: busybox, the modules to reach the disk, and a first program (cpio, "newc").

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::parts::Parts;
use crate::systems::Behaviour;

/// In the order in which they load.
const MODULES: [&str; 12] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "fat",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_utf8",
    "watchdog",
];
const STAGE_1: &str = include_str!("../guest/stage-1");

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// Major 5, minor 1.
const CONSOLE: (u32, u32) = (5, 1);

/// The initrd of a system.
pub fn build(parts: &Parts, number: usize, behaviour: Behaviour) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "modules"] {
        archive.add(folder, DIRECTORY, (0, 0), &[]);
    }
    archive.add("dev/console", CHARACTER_DEVICE, CONSOLE, &[]);
    archive.add(
        "bin/busybox",
        PROGRAM,
        (0, 0),
        &fs::read(parts.program_file("busybox")?)?,
    );
    archive.add("init", PROGRAM, (0, 0), STAGE_1.as_bytes());
    archive.add("generation", FILE, (0, 0), number.to_string().as_bytes());
    archive.add("behaviour", FILE, (0, 0), behaviour.word().as_bytes());
    let mut order = String::new();
    for name in MODULES {
        // What this kernel has built in is no module.
        let Ok(path) = parts.module(name) else {
            continue;
        };
        let file = Path::new(&path)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        archive.add(&format!("modules/{file}"), FILE, (0, 0), &fs::read(&path)?);
        order.push_str(&file);
        order.push('\n');
    }
    archive.add("modules/order", FILE, (0, 0), order.as_bytes());
    Ok(archive.end())
}

#[derive(Default)]
struct Archive(Vec<u8>, u32);

impl Archive {
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
