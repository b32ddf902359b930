//! A home, a folder for repositories, and the real binary in it, with a sops that notes how it is called.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub const TOKEN: &str = "planted-token-0123456789";
pub const FABRIK: &str = env!("CARGO_BIN_EXE_fabrik");
/// RFC 8032's first public key.
pub const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea alice@laptop";
const ANSWERS: [&str; 12] = [
    "--workers",
    "3",
    "--server-types",
    "cx53",
    "--locations",
    "hel1,nbg1",
    "--ssh-key",
    SSH_KEY,
    "--fabrik-flake",
    "git+https://git.example.com/fabrik",
    "--token-file",
    "-",
];

pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["home", "tmp", "bin"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let place = Self { dir };
        let sops = sops_binary();
        let log = place.path("sops.log");
        place.script(
            "bin/sops",
            &format!(
                "#!/bin/sh\n{{ echo \"$@\"; export -p; }} >>'{}'\nexec '{}' \"$@\"\n",
                log.display(),
                sops.display()
            ),
        );
        place
    }

    /// One with a repository `demo`.
    pub fn with_repository() -> Self {
        let place = Self::new();
        let output = place.init("demo", &[]);
        assert!(output.status.success(), "{output:?}");
        place
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub fn repo(&self, below: &str) -> PathBuf {
        self.path("demo").join(below)
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.repo(path)).unwrap()
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.repo(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn edit(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} has no `{from}`:\n{text}");
        self.write(path, &text.replacen(from, to, 1));
    }

    pub fn script(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.path(path), executable).unwrap();
    }

    /// `fabrik init` with all answers, the token on its standard input.
    pub fn init(&self, dir: &str, more: &[&str]) -> Output {
        self.init_for("github", dir, more)
    }

    pub fn init_for(&self, forge: &str, dir: &str, more: &[&str]) -> Output {
        let args = ["init", dir, "--no-lock", "--forge", forge];
        let args = [args.as_slice(), &ANSWERS, more].concat();
        self.fabrik(&args, TOKEN)
    }

    pub fn fabrik(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = self
            .command(FABRIK)
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(stdin.as_bytes()).ok();
        drop(input);
        child.wait_with_output().unwrap()
    }

    /// A program as a person of this place runs it, without Nix.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", programs(self.path("bin")))
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("FABRIK_SOPS", self.path("bin/sops"))
            .env("HCLOUD_TOKEN", TOKEN)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null");
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "a");
            command.env(format!("GIT_{who}_EMAIL"), "a@example.com");
        }
        command
    }

    pub fn git(&self, args: &[&str]) -> String {
        let output = self
            .command("git")
            .args(args)
            .current_dir(self.repo(""))
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout)
    }

    /// All files of this place but git's, by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut dirs = vec![self.dir.path().to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    let name = path.strip_prefix(self.dir.path()).unwrap();
                    files.insert(name.to_str().unwrap().to_owned(), fs::read(&path).unwrap());
                }
            }
        }
        files
    }
}

/// Those of the place itself and of this machine but Nix, and fabrik.
fn programs(own: PathBuf) -> OsString {
    let path = std::env::var_os("PATH").unwrap();
    let without_nix = std::env::split_paths(&path).filter(|dir| !dir.join("nix").exists());
    let fabrik = Path::new(FABRIK).parent().unwrap().to_owned();
    let first = [own, fabrik].into_iter();
    std::env::join_paths(first.chain(without_nix)).unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn sops_binary() -> PathBuf {
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/parts");
    let parts = std::env::var_os("FABRIK_PARTS_DIR").map_or(parts, PathBuf::from);
    let named = std::env::var_os("FABRIK_SOPS").map(PathBuf::from);
    let candidates = named.into_iter().chain([parts.join("sops-3.13.3/sops")]);
    let found = candidates.into_iter().find(|candidate| candidate.is_file());
    let found = found.expect("sops is needed; tests/bed/README.md says how to get it");
    fs::canonicalize(found).unwrap()
}
