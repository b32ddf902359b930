//! Real Nix, with stores of its own, and the systems of the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use fabrik::secrets::founding_keys;
use fabrik::signing::SigningKey;
use fabrik_core::id::StorePath;
use fabrik_core::system::System;

/// Builds find a shell and its programs in those of this machine.
const NIX_CONF: &str = "experimental-features = nix-command
build-users-group =
substituters =
sandbox = true
sandbox-paths = /bin=/usr/bin /usr /lib=/usr/lib /lib64=/usr/lib64
";

/// The leader's store and what it has built, served as files.
pub struct Leader {
    dir: PathBuf,
    pub key: SigningKey,
    pub public_key: String,
}

impl Leader {
    pub fn new(dir: &Path) -> Self {
        let dir = dir.to_owned();
        std::fs::create_dir_all(dir.join("conf")).unwrap();
        std::fs::write(dir.join("conf/nix.conf"), NIX_CONF).unwrap();
        let keys = founding_keys::ensure(&dir, &"demo".parse().unwrap()).unwrap();
        Self {
            key: SigningKey::read(&dir.join("signing.key")).unwrap(),
            public_key: keys.signing_key,
            dir,
        }
    }

    /// A script that runs Nix with the settings of these tests.
    pub fn wrapper(&self) -> String {
        format!(
            "#!/bin/sh\nexport NIX_CONF_DIR='{0}/conf' HOME='{0}' XDG_CACHE_HOME='{0}/cache'\nexec '{1}' \"$@\"\n",
            self.dir.display(),
            nix().display()
        )
    }

    /// Where the signed cache's files are.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("binary-cache")
    }

    /// Builds a system; it is in no cache yet.
    pub fn build(&self, name: &str, kernel: &str, faults: &str) -> System {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/agent/machine/systems.nix");
        let store = self.store();
        let nix = |verb: &[&str]| {
            let mut command = self.command();
            command.args(verb).args(["--store", &store, "--file"]);
            command.arg(&file).args(["--argstr", "name", name]);
            command.args(["--argstr", "kernel", kernel, "--argstr", "faults", faults]);
            run(&mut command)
        };
        let output = nix(&["build", "--no-link", "--print-out-paths"]);
        let derivation = nix(&["eval", "--raw", "drvPath"]);
        System {
            output: output.trim().parse().unwrap(),
            derivation: derivation.trim().parse().unwrap(),
            kubernetes: "1.36.3+k3s1".parse().unwrap(),
        }
    }

    /// Puts it into the cache, signed.
    pub fn offer(&self, system: &System) {
        let key = self.dir.join("signing.key");
        let cache = format!(
            "file://{}?secret-key={}",
            self.cache().display(),
            key.display()
        );
        self.copy(&system.output, &cache);
    }

    /// Puts it into a machine's store, as its installation did.
    pub fn install(&self, system: &System, root: &Path) {
        self.copy(&system.output, &root.display().to_string());
    }

    fn copy(&self, path: &StorePath, to: &str) {
        let mut command = self.command();
        command.args([
            "copy",
            "--no-check-sigs",
            "--from",
            &self.store(),
            "--to",
            to,
        ]);
        run(command.arg(path.as_str()));
    }

    fn store(&self) -> String {
        self.dir.join("store").display().to_string()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(nix());
        command
            .env("NIX_CONF_DIR", self.dir.join("conf"))
            .env("HOME", &self.dir)
            .env("XDG_CACHE_HOME", self.dir.join("cache"));
        command
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// On PATH, or got as `make nix` gets it.
fn nix() -> &'static Path {
    static NIX: OnceLock<PathBuf> = OnceLock::new();
    NIX.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places = std::env::split_paths(&path).map(|folder| folder.join("nix"));
        if let Some(found) = places.find(|place| place.is_file()) {
            return found;
        }
        let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let dest = project.join("target/nix");
        run(Command::new(project.join("tests/nix/get-nix.sh")).arg(&dest));
        dest.join("bin/nix").canonicalize().unwrap()
    })
}
