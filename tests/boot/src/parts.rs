//! Where the programs, firmware and modules are: in `target/parts/boot`, got from Debian's packages once, or installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

const LIBRARIES: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// The parts, ready to use.
#[derive(Debug, Clone)]
pub struct Parts {
    root: PathBuf,
}

impl Parts {
    /// Gets what is missing: some seconds, once.
    pub fn get() -> Result<&'static Self> {
        static PARTS: OnceLock<Result<Parts, String>> = OnceLock::new();
        let parts = PARTS.get_or_init(|| Self::fetch().map_err(|error| format!("{error:#}")));
        parts.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn fetch() -> Result<Self> {
        let folder = std::env::var_os("FABRIK_PARTS_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/parts"),
            PathBuf::from,
        );
        let folder = folder.join("boot");
        run(Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("get-parts.sh")).arg(&folder))?;
        Ok(Self {
            root: folder.join("root").canonicalize()?,
        })
    }

    /// A file by its path from the root, from our folder or the machine's own.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        [self.root.join(path), Path::new("/").join(path)]
            .into_iter()
            .find(|path| path.exists())
            .with_context(|| format!("{path} is in no package that was got, and not installed"))
    }

    /// A program with its libraries, wherever Debian puts programs.
    pub fn program(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.program_file(name)?);
        command.env("LD_LIBRARY_PATH", self.library_path());
        Ok(command)
    }

    pub fn program_file(&self, name: &str) -> Result<PathBuf> {
        ["usr/bin", "usr/sbin", "bin", "sbin"]
            .iter()
            .find_map(|folder| self.file(&format!("{folder}/{name}")).ok())
            .with_context(|| format!("no program {name}"))
    }

    /// The libraries that a program needs, the loader among them.
    pub fn libraries(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let told = output(
            Command::new("ldd")
                .arg(program)
                .env("LD_LIBRARY_PATH", self.library_path()),
        )?;
        Ok(told
            .split_ascii_whitespace()
            .filter(|word| word.starts_with('/'))
            .map(PathBuf::from)
            .collect())
    }

    pub fn kernel(&self) -> Result<PathBuf> {
        only(&self.root.join("boot"), "vmlinuz-")
    }

    /// A kernel module by its name.
    pub fn module(&self, name: &str) -> Result<PathBuf> {
        let modules = only(&self.root.join("lib/modules"), "")?;
        let found = output(
            Command::new("find")
                .arg(modules)
                .args(["-name", &format!("{name}.ko")]),
        )?;
        let path = found
            .lines()
            .next()
            .with_context(|| format!("no kernel module {name}"))?;
        Ok(PathBuf::from(path))
    }

    fn library_path(&self) -> String {
        LIBRARIES
            .map(|folder| self.root.join(folder).display().to_string())
            .join(":")
    }
}

/// Runs to success.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs to its end.
pub fn output_of(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("{command:?}"))
}

/// Runs to success; gives standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = output_of(command)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {stderr}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    std::fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .with_context(|| format!("nothing in {}", folder.display()))
}
