//! The machines' command lines.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::parts::Parts;

/// A machine that is on until it is told to stop, with its console at standard input and output.
#[derive(Debug)]
pub struct Qemu<'a> {
    parts: &'a Parts,
    pub command: Command,
    pub monitor: PathBuf,
}

/// How a disk is attached, and so what Linux calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// /dev/vda
    Virtio,
    /// /dev/sda, as at Hetzner.
    Scsi,
}

impl<'a> Qemu<'a> {
    /// Without a disk. Its monitor is a socket.
    pub fn new(parts: &'a Parts, monitor: PathBuf) -> Result<Self> {
        let mut command = parts.program("qemu-system-x86_64")?;
        command.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max"]);
        command.args(["-m", "256", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-vga", "none", "-serial", "stdio"]);
        for folder in ["usr/share/seabios", "usr/share/qemu"] {
            command.arg("-L").arg(parts.file(folder)?);
        }
        let socket = format!("unix:{},server=on,wait=off", monitor.display());
        command.arg("-monitor").arg(socket);
        Ok(Self {
            parts,
            command,
            monitor,
        })
    }

    /// The disk that the firmware boots from. All writes to it are recorded in `log`, when it is named.
    pub fn disk(&mut self, disk: &Path, bus: Bus, log: Option<&Path>) {
        let file = |name: &str, path: &Path| {
            format!("driver=file,node-name={name},filename={}", path.display())
        };
        self.command.arg("-blockdev").arg(file("file", disk));
        let mut node = "file";
        if let Some(log) = log {
            self.command.arg("-blockdev").arg(file("log", log));
            let logged = "driver=blklogwrites,node-name=logged,file=file,log=log";
            self.command.args(["-blockdev", logged]);
            node = "logged";
        }
        let device = match bus {
            Bus::Virtio => "virtio-blk-pci",
            Bus::Scsi => {
                self.command.args(["-device", "virtio-scsi-pci"]);
                "scsi-hd"
            }
        };
        // QEMU takes 0 for a kernel that it is given.
        let device = format!("{device},drive={node},bootindex=1");
        self.command.args(["-device", &device]);
    }

    /// One more disk, /dev/vda or the next.
    pub fn other_disk(&mut self, name: &str, disk: &Path, access: &str) {
        let drive = format!(
            "if=none,id={name},format=raw,{access}file={}",
            disk.display()
        );
        let device = format!("virtio-blk-pci,drive={name}");
        self.command.args(["-drive", &drive, "-device", &device]);
    }

    /// OVMF instead of SeaBIOS.
    pub fn uefi(&mut self, variables: &Path) -> Result<()> {
        let code = self.parts.file("usr/share/OVMF/OVMF_CODE.fd")?;
        for (access, file) in [("readonly=on,", &*code), ("", variables)] {
            let drive = format!("if=pflash,format=raw,{access}file={}", file.display());
            self.command.args(["-drive", &drive]);
        }
        Ok(())
    }

    /// A kernel of ours, past all loaders.
    pub fn kernel(&mut self, kernel: &Path, initrd: &Path, params: &str) {
        self.command.arg("-kernel").arg(kernel);
        self.command.arg("-initrd").arg(initrd);
        self.command.args(["-append", params]);
    }
}
