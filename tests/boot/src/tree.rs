//! Files of Debian's packages on their way to a disk or an initrd: programs with their libraries, and busybox for the rest.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::Result;

use crate::parts::{Parts, output};

const LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// A program that is linked with libraries, into `root`/bin, and these where it looks for them.
pub fn program(parts: &Parts, file: &Path, root: &Path) -> Result<()> {
    let name = file.file_name().unwrap_or_default();
    install(file, &root.join("bin").join(name))?;
    libraries(parts, file, root)
}

/// What a program needs beside itself.
pub fn libraries(parts: &Parts, program: &Path, root: &Path) -> Result<()> {
    for library in parts.libraries(program)? {
        let name = library.file_name().unwrap_or_default();
        let folder = match library.parent() {
            Some(folder) if folder.ends_with("lib64") => root.join("lib64"),
            Some(folder) if folder.ends_with("systemd") => {
                root.join("usr").join(LIBRARIES).join("systemd")
            }
            _ => root.join(LIBRARIES),
        };
        install(&library, &folder.join(name))?;
    }
    Ok(())
}

/// Busybox with all that it can be called.
pub fn applets(parts: &Parts, root: &Path) -> Result<()> {
    let bin = root.join("bin");
    install(&parts.program_file("busybox")?, &bin.join("busybox"))?;
    for applet in applet_names(parts)? {
        symlink("busybox", bin.join(applet))?;
    }
    Ok(())
}

pub fn applet_names(parts: &Parts) -> Result<Vec<String>> {
    let names = output(parts.program("busybox")?.arg("--list"))?;
    Ok(names
        .lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect())
}

/// udev, by the rules that name disks.
pub fn udev(parts: &Parts, root: &Path) -> Result<()> {
    program(parts, &parts.program_file("udevadm")?, root)?;
    let daemon = root.join("lib/systemd/systemd-udevd");
    fs::create_dir_all(root.join("lib/systemd"))?;
    symlink("/bin/udevadm", daemon)?;
    for name in ["50-udev-default", "60-block", "60-persistent-storage"] {
        let rules = format!("lib/udev/rules.d/{name}.rules");
        install(&parts.file(&rules)?, &root.join(rules))?;
    }
    script(
        &root.join("bin/start-udev"),
        include_str!("../guest/start-udev"),
    )
}

pub fn install(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    // A package may have a link where the program is.
    if to.is_symlink() {
        fs::remove_file(to)?;
    }
    fs::copy(from, to)?;
    Ok(())
}

pub fn script(path: &Path, text: &str) -> Result<()> {
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
