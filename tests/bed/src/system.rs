//! NixOS systems of a bed: the flake in its cluster repository, how a test changes it, and the image
//! that machines are made from. Real Nix evaluates and builds them; there is no nixpkgs in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::git::Worktree;

/// Settings of Nix on every machine. Builds find a shell and its programs in those of this machine.
const NIX_CONF: &str = "experimental-features = nix-command flakes
build-users-group =
substituters =
sandbox = true
sandbox-paths = /bin=/usr/bin /usr /lib=/usr/lib /lib64=/usr/lib64
";

const FILES: [(&str, &str); 5] = [
    ("flake.nix", include_str!("../system/flake.nix")),
    ("flake.lock", include_str!("../system/flake.lock")),
    // The product's own, which reads `cluster.toml`.
    (
        "nixos/spec.nix",
        include_str!("../../../nixos/lib/spec.nix"),
    ),
    ("nixos/toplevel.sh", include_str!("../system/toplevel.sh")),
    (
        "nixos/switch-to-configuration.sh",
        include_str!("../system/switch-to-configuration.sh"),
    ),
];
const SETTINGS: &str = "systems.json";

/// The pool of the control plane, as fabrik calls it.
pub const SERVERS: &str = "servers";
/// The pool of the default repository.
pub const WORKERS: &str = "workers";

/// Which build of fabrik a system has, in its file `fabrik-build`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Build {
    /// The one that is tested.
    Tested,
    /// An older one ([`Options::former_fabrik`]).
    ///
    /// [`Options::former_fabrik`]: crate::Options::former_fabrik
    Former,
}

impl Build {
    /// What the machines of a bed begin with.
    pub(crate) fn at_first(former: Option<&Path>) -> Self {
        former.map_or(Self::Tested, |_| Self::Former)
    }

    /// As its system's file says it.
    pub(crate) fn read(text: &str) -> Result<Self> {
        Ok(serde_json::from_value(text.trim().into())?)
    }
}

/// What a commit does to the system of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemChange {
    /// Another package: no reboot.
    Package(String),
    /// Another kernel: a reboot.
    Kernel(String),
    /// Another k3s, as `1.36.3+k3s1`.
    K3s(String),
    /// Another build of fabrik: no reboot.
    Fabrik(Build),
    /// The kubelet is not ready on it.
    Sick,
    /// Its kernel panics while it boots.
    Panics,
    /// It hangs while it boots.
    Hangs,
    DoesNotEvaluate,
    DoesNotBuild,
    /// None of the faults above.
    Fixed,
}

/// What `systems.json` says of a pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Settings {
    /// Another pool's, where it is to have the very same system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    platform: String,
    package: String,
    kernel: String,
    k3s: String,
    fabrik: Build,
    faults: Vec<String>,
    evaluates: bool,
    builds: bool,
}

impl Settings {
    fn new(kubernetes_version: &str, fabrik: Build) -> Self {
        Self {
            name: None,
            platform: format!("{}-linux", std::env::consts::ARCH),
            package: "1".to_owned(),
            kernel: "6.12.1".to_owned(),
            k3s: format!("{kubernetes_version}+k3s1"),
            fabrik,
            faults: Vec::new(),
            evaluates: true,
            builds: true,
        }
    }

    fn change(&mut self, change: &SystemChange) {
        match change {
            SystemChange::Package(version) => self.package.clone_from(version),
            SystemChange::Kernel(version) => self.kernel.clone_from(version),
            SystemChange::K3s(version) => self.k3s.clone_from(version),
            SystemChange::Fabrik(build) => self.fabrik = *build,
            SystemChange::Sick => self.faults.push("sick".to_owned()),
            SystemChange::Panics => self.faults.push("panics".to_owned()),
            SystemChange::Hangs => self.faults.push("hangs".to_owned()),
            SystemChange::DoesNotEvaluate => self.evaluates = false,
            SystemChange::DoesNotBuild => self.builds = false,
            SystemChange::Fixed => {
                self.faults.clear();
                (self.evaluates, self.builds) = (true, true);
            }
        }
    }
}

/// Writes the flake into a work tree that does not have it. Commits nothing.
pub fn write(worktree: &Worktree, kubernetes_version: &str, fabrik: Build) -> Result<()> {
    if worktree.dir().join(SETTINGS).exists() {
        return Ok(());
    }
    for (path, text) in flake(kubernetes_version, fabrik)? {
        worktree.write(&path, text)?;
    }
    Ok(())
}

/// Writes the flake into a folder of its own, where it stands in for fabrik's.
pub fn write_stand_in(dir: &Path, kubernetes_version: &str) -> Result<()> {
    write_to(dir, kubernetes_version, Build::Tested)
}

fn write_to(dir: &Path, kubernetes_version: &str, fabrik: Build) -> Result<()> {
    for (path, text) in flake(kubernetes_version, fabrik)? {
        let file = dir.join(path);
        fs::create_dir_all(file.parent().context("a folder")?)?;
        fs::write(file, text)?;
    }
    Ok(())
}

/// Changes the system of a pool in a work tree. Commits nothing.
pub fn change(worktree: &Worktree, pool: &str, change: &SystemChange) -> Result<()> {
    let mut pools: BTreeMap<String, Settings> = serde_json::from_str(&worktree.read(SETTINGS)?)?;
    let settings = pools.get_mut(pool);
    let settings = settings.with_context(|| format!("{SETTINGS} has no pool {pool}"))?;
    settings.change(change);
    worktree.write(SETTINGS, serde_json::to_string_pretty(&pools)?)
}

/// Gives another pool the system that workers have. Commits nothing.
pub fn add_pool(worktree: &Worktree, pool: &str) -> Result<()> {
    let mut pools: BTreeMap<String, Settings> = serde_json::from_str(&worktree.read(SETTINGS)?)?;
    let workers = pools.get(WORKERS).cloned();
    let mut settings = workers.with_context(|| format!("{SETTINGS} has no pool {WORKERS}"))?;
    settings.name = Some(WORKERS.to_owned());
    pools.insert(pool.to_owned(), settings);
    worktree.write(SETTINGS, serde_json::to_string_pretty(&pools)?)
}

fn flake(kubernetes_version: &str, fabrik: Build) -> Result<Vec<(String, String)>> {
    let settings = Settings::new(kubernetes_version, fabrik);
    let pools = BTreeMap::from([(SERVERS, settings.clone()), (WORKERS, settings)]);
    let fixed = FILES.iter();
    let mut files: Vec<_> = fixed
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect();
    files.push((SETTINGS.to_owned(), serde_json::to_string_pretty(&pools)?));
    Ok(files)
}

/// Where an image says what is in it, below its root.
const CONTENT: &str = "etc/bed/image.json";

/// What the disk of a new machine holds: a store with the systems of the default repository.
#[derive(Debug)]
pub struct Image {
    /// A chroot store of Nix.
    pub root: PathBuf,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// Folder with `nix` and `nix-store`, which are no part of the image.
    nix: PathBuf,
    /// Store paths by pool.
    systems: BTreeMap<String, String>,
}

impl Image {
    /// Builds the systems. Blocks for a second or two.
    pub fn build(dir: &Path, nix: &Path, kubernetes_version: &str, fabrik: Build) -> Result<Self> {
        let (root, source, programs) = (dir.join("root"), dir.join("flake"), dir.join("nix"));
        write_to(&source, kubernetes_version, fabrik)?;
        let conf = root.join("etc/nix");
        for folder in [&conf, &programs, &root.join("root")] {
            fs::create_dir_all(folder)?;
        }
        fs::write(conf.join("nix.conf"), NIX_CONF)?;
        for name in ["nix", "nix-store"] {
            std::os::unix::fs::symlink(nix, programs.join(name))?;
        }
        let mut image = Self {
            root,
            content: Content {
                nix: programs,
                systems: BTreeMap::new(),
            },
        };
        for pool in [SERVERS, WORKERS] {
            let attribute = format!("nixosConfigurations.{pool}.config.system.build.toplevel");
            let installable = format!("path:{}#{attribute}", source.display());
            let system = image.nix(&["build", "--no-link", "--print-out-paths", &installable])?;
            image.content.systems.insert(pool.to_owned(), system);
        }
        let file = image.root.join(CONTENT);
        fs::create_dir_all(file.parent().context("a folder")?)?;
        fs::write(file, serde_json::to_string_pretty(&image.content)?)?;
        Ok(image)
    }

    /// What a root folder was made from.
    pub(crate) fn of(root: &Path) -> Result<Self> {
        let file = root.join(CONTENT);
        let content = fs::read(&file).context("there is no system on this disk")?;
        let content = serde_json::from_slice(&content);
        Ok(Self {
            root: root.to_owned(),
            content: content.with_context(|| format!("reading {}", file.display()))?,
        })
    }

    /// Writes it as what a disk begins with: a tar, whose bytes are the same each time.
    pub fn archive(&self, file: &Path) -> Result<()> {
        let archived = Command::new("tar")
            .args(["--create", "--sort=name", "--format=gnu", "--mtime=@1"])
            .args(["--owner=0", "--group=0", "--numeric-owner"])
            // What Nix remembers of evaluations.
            .arg("--exclude=./root/.cache")
            .arg("--file")
            .arg(file)
            .arg("--directory")
            .arg(&self.root)
            .arg(".")
            .status()
            .context("starting tar")?;
        if !archived.success() {
            bail!("writing {}: {archived}", file.display());
        }
        Ok(())
    }

    pub fn nix_programs(&self) -> &Path {
        &self.content.nix
    }

    /// The system that a new machine of this pool comes with: that of workers, where it has no other.
    pub fn system(&self, pool: &str) -> Result<&str> {
        let systems = &self.content.systems;
        let system = systems.get(pool).or(systems.get(WORKERS));
        system
            .map(String::as_str)
            .context("the image has no systems")
    }

    fn nix(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(self.content.nix.join("nix"))
            .args(arguments)
            .arg("--store")
            .arg(&self.root)
            .env("NIX_CONF_DIR", self.root.join("etc/nix"))
            .env("HOME", self.root.join("root"))
            .env("XDG_CACHE_HOME", self.root.join("root/.cache"))
            .stdin(Stdio::null())
            .output()
            .context("starting nix")?;
        if !output.status.success() {
            let reason = String::from_utf8_lossy(&output.stderr);
            bail!("nix {}: {}\n{reason}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_a_fault_leaves_are_those_that_a_machine_looks_for() {
        let mut settings = Settings::new("1.36.3", Build::Tested);
        for change in [
            SystemChange::Sick,
            SystemChange::Panics,
            SystemChange::Hangs,
        ] {
            settings.change(&change);
        }
        assert_eq!(settings.faults, ["sick", "panics", "hangs"]);
        assert_eq!(settings.k3s, "1.36.3+k3s1");
        assert!(settings.evaluates && settings.builds);
    }
}
