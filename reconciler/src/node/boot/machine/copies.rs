//! The copies of a system's kernel and initrd on the boot partition.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::super::{BootError, Loader, System, space};
use super::{Machine, STORE, failed_at, run};

/// A file of a system, and its name on the boot partition.
struct Copy {
    from: PathBuf,
    to: PathBuf,
}

impl Machine {
    /// Copies the kernel and the initrd of `new` to where NixOS' installation will look for them, if they fit beside what is
    /// there, and brings them to the disk while no menu names them.
    ///
    /// The installation copies nothing to a name that is there. So what an attempt before has left, which a power cut has
    /// ended, is told by its content; and it writes through, which takes long for such files.
    pub(in super::super) fn copy_kernel(
        &self,
        loader: Loader,
        new: &System,
    ) -> Result<(), BootError> {
        let mut missing = self.copies(loader, new)?;
        missing.retain(|copy| !copy.is_whole().unwrap_or(false));
        self.check_space(&missing)?;
        for copy in &missing {
            copy.make().map_err(failed_at(&copy.to))?;
        }
        self.sync()
    }

    fn check_space(&self, missing: &[Copy]) -> Result<(), BootError> {
        let size = |copy: &Copy| Ok(fs::metadata(&copy.from)?.len());
        let sizes = missing
            .iter()
            .map(|copy| size(copy).map_err(failed_at(&copy.from)))
            .collect::<Result<Vec<u64>, _>>()?;
        let boot = self.path(&self.layout.boot);
        let df = run(&self.tools.df, &[OsStr::new("-Pk"), boot.as_os_str()])?;
        let free = space::free_bytes(&df).ok_or_else(|| BootError::Tool {
            command: format!("{} -Pk {}", self.tools.df.display(), boot.display()),
            reason: format!("this is no table of file systems: {df}"),
        })?;
        space::check(&self.layout.boot, free, &sizes)
    }

    fn copies(&self, loader: Loader, system: &System) -> Result<Vec<Copy>, BootError> {
        let kernels = self.path(&self.layout.boot).join(match loader {
            Loader::SystemdBoot => "EFI/nixos",
            Loader::GrubBios | Loader::GrubUefi => "kernels",
        });
        ["kernel", "initrd"]
            .iter()
            .map(|file| {
                let source = self.resolve(&Path::new(system.as_str()).join(file))?;
                Ok(Copy {
                    from: self.path(&source),
                    to: kernels.join(copy_name(loader, &source)),
                })
            })
            .collect()
    }
}

impl Copy {
    /// NixOS appends secrets to the copy of an initrd. One that is shorter is an error.
    fn is_whole(&self) -> io::Result<bool> {
        let mut from = BufReader::new(File::open(&self.from)?);
        let mut to = BufReader::new(File::open(&self.to)?);
        loop {
            let part = from.fill_buf()?;
            let mut same = vec![0; part.len()];
            to.read_exact(&mut same)?;
            if same.is_empty() || same != part {
                return Ok(same.is_empty());
            }
            from.consume(same.len());
        }
    }

    fn make(&self) -> io::Result<()> {
        if let Some(folder) = self.to.parent() {
            fs::create_dir_all(folder)?;
        }
        // What has its name is whole: NixOS' own installation believes so.
        let mut beside = self.to.clone().into_os_string();
        beside.push(".tmp");
        let written = self.write(Path::new(&beside));
        if written.is_err() {
            // The first error tells.
            let _ = fs::remove_file(&beside);
        }
        written
    }

    fn write(&self, beside: &Path) -> io::Result<()> {
        let mut to = File::create(beside)?;
        // Not fs::copy: a file of the store is read-only.
        io::copy(&mut File::open(&self.from)?, &mut to)?;
        to.sync_all()?;
        fs::rename(beside, &self.to)
    }
}

/// The name that NixOS gives to the copy of a store file: install-grub.pl joins its parts, systemd-boot-builder.py adds
/// ".efi".
fn copy_name(loader: Loader, source: &Path) -> String {
    let joined = source
        .strip_prefix(STORE)
        .unwrap_or(source)
        .to_string_lossy()
        .replace('/', "-");
    match loader {
        Loader::SystemdBoot => format!("{joined}.efi"),
        Loader::GrubBios | Loader::GrubUefi => joined,
    }
}
