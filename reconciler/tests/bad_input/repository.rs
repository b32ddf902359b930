//! A good repository in a directory, and changes to it.

use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fabrik::repo::{RepoError, Tree};
use fabrik::secrets::Sops;
use fabrik_core::id::CommitId;

pub const GOOD_SPEC: &str = r#"[cluster]
name = "demo"
[kubernetes]
version = "1.36.3+k3s1"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }

[pools.workers]
count = 2
server-types = ["cx33"]
locations = ["fsn1"]
image = "debian-12"
"#;
const GOOD_RULES: &str = "creation_rules:
  - path_regex: ^secrets/
";
const GOOD_MANIFEST: &str = "apiVersion: v1
kind: ConfigMap
metadata:
  name: shop
data:
  k: v
";
const GOOD_SECRET: &str = "apiVersion: v1
kind: Secret
metadata:
  name: password
stringData:
  password: planted-password
";
/// Only what Kubernetes keeps secret, as people do it for manifests.
const MANIFEST_ARGS: &str = "--encrypted-regex ^(data|stringData)$";

/// The cluster's age key, and a stranger's.
pub struct Keys {
    dir: tempfile::TempDir,
    ours: String,
    stranger: String,
}

impl Keys {
    pub fn new() -> Self {
        use age::secrecy::ExposeSecret;
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let identity = age::x25519::Identity::generate();
            let text = identity.to_string();
            fs::write(dir.path().join(name), text.expose_secret()).unwrap();
            identity.to_public().to_string()
        };
        let (ours, stranger) = (make("ours"), make("stranger"));
        Self {
            dir,
            ours,
            stranger,
        }
    }

    pub fn sops(&self) -> Sops {
        Sops::new(self.our_file(), Some(sops_binary()))
    }

    pub fn our_file(&self) -> PathBuf {
        self.dir.path().join("ours")
    }

    pub fn stranger_file(&self) -> PathBuf {
        self.dir.path().join("stranger")
    }

    /// A report with names for the keys, which are others each time.
    pub fn named(&self, report: &str) -> String {
        report
            .replace(&self.ours, "OURS")
            .replace(&self.stranger, "STRANGER")
    }

    fn encrypt(&self, path: &str, plaintext: &str, args: &str) -> String {
        let format = if has_ending(path, "json") {
            "json"
        } else {
            "yaml"
        };
        let args = match args.strip_prefix("stranger") {
            Some(rest) => format!("--age {} {rest}", self.stranger),
            None => format!("--age {} {args}", self.ours),
        };
        let mut child = Command::new(sops_binary())
            .args(["encrypt", "--input-type", format, "--output-type", format])
            .args(["--filename-override", path])
            .args(args.split_whitespace())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(plaintext.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{path}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

pub fn sops_binary() -> PathBuf {
    let parts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/parts");
    let parts = std::env::var_os("FABRIK_PARTS_DIR").map_or(parts, PathBuf::from);
    let in_path = std::env::var_os("PATH").unwrap_or_default();
    std::env::var_os("FABRIK_SOPS")
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&in_path).map(|dir| dir.join("sops")))
        .chain([parts.join("sops-3.13.3/sops")])
        .find(|candidate| candidate.is_file())
        .expect("sops is needed; tests/bed/README.md says how to get it")
}

pub struct Repository {
    dir: tempfile::TempDir,
    from_directory: bool,
    rewind: bool,
}

impl Repository {
    pub fn good(keys: &Keys) -> Self {
        let repository = Self::empty();
        repository.write("cluster.toml", GOOD_SPEC);
        repository.write(".sops.yaml", GOOD_RULES);
        repository.write("manifests/web/shop.yaml", GOOD_MANIFEST);
        let path = "manifests/web/password.yaml";
        repository.write(path, keys.encrypt(path, GOOD_SECRET, MANIFEST_ARGS));
        let path = "secrets/hetzner.yaml";
        repository.write(path, keys.encrypt(path, "token: planted-token\n", ""));
        repository
    }

    /// A copy with changes. Each is a line:
    /// * `~ PATH: OLD => NEW` an edit of the file as it lies there; `\n` is a line break;
    /// * `- PATH` removes a file or a folder, `@ PATH -> TARGET` links, `cut PATH: TEXT` ends a file before a text;
    /// * `submodule PATH` with a manifest in it, checked out;
    /// * `bytes PATH: HEX`, `big PATH` (above the limit), `name HEX` (an empty file), `many` (files);
    /// * `! rewind` and `! directory` (read as it lies there, and not as a commit);
    /// * `>>> PATH` the file that follows, `>>> PATH sops ARGS` encrypted to us, or to `stranger`; in the latter `300,000
    ///   letters` stands for as many.
    pub fn changed(&self, changes: &str, keys: &Keys) -> Self {
        let mut copy = Self::empty();
        copy_all(self.dir(), copy.dir());
        // The marks of a merge conflict end alike, but never begin a line here.
        let changes = format!("\n{changes}");
        let mut parts = changes.split("\n>>> ");
        let changes = parts.next().unwrap_or_default().trim_start();
        for file in parts {
            let (head, text) = file.split_once('\n').unwrap();
            match head.split_once(" sops") {
                None => copy.write(head, text),
                Some((path, args)) => {
                    let text = &text.replace("300,000 letters", &"x".repeat(300_000));
                    copy.write(path, keys.encrypt(path, text, args.trim()));
                }
            }
        }
        for line in changes.lines() {
            copy.change(line);
        }
        copy
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn is_read_from_directory(&self) -> bool {
        self.from_directory
    }

    pub fn is_a_rewind(&self) -> bool {
        self.rewind
    }

    /// The directory as a commit, by the real git.
    pub fn committed(&self) -> Result<(CommitId, Tree), RepoError> {
        commit_all(self.dir());
        Tree::of_checkout_revision(self.dir(), "HEAD")
    }

    fn empty() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            from_directory: false,
            rewind: false,
        }
    }

    fn change(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (path, argument) = rest.split_once(": ").unwrap_or((rest, ""));
        match verb {
            "~" => {
                let (old, new) = argument.split_once("=> ").unwrap();
                let text = fs::read_to_string(self.dir().join(path)).unwrap();
                let (old, new) = (old.trim().replace("\\n", "\n"), new.replace("\\n", "\n"));
                assert!(text.contains(&old), "`{old}` is not in {path}");
                self.write(path, text.replacen(&old, &new, 1));
            }
            "-" if self.dir().join(path).is_dir() => {
                fs::remove_dir_all(self.dir().join(path)).unwrap();
            }
            "-" => fs::remove_file(self.dir().join(path)).unwrap(),
            "submodule" => {
                self.write(format!("{path}/a.yaml"), GOOD_MANIFEST);
                commit_all(&self.dir().join(path));
            }
            "@" => {
                let (path, target) = rest.split_once(" -> ").unwrap();
                self.write(path, "");
                fs::remove_file(self.dir().join(path)).unwrap();
                std::os::unix::fs::symlink(target, self.dir().join(path)).unwrap();
            }
            "cut" => {
                let text = fs::read_to_string(self.dir().join(path)).unwrap();
                let (kept, _) = text.split_once(argument).unwrap();
                self.write(path, kept);
            }
            "bytes" => self.write(path, bytes(argument)),
            "big" => self.write(path, "# a comment\n".repeat(500_000)),
            "name" => {
                let name = bytes(path);
                self.write(Path::new(std::ffi::OsStr::from_bytes(&name)), "");
            }
            "many" => (0..20_000).for_each(|n| self.write(format!("notes/{n}"), "")),
            "!" if rest == "rewind" => self.rewind = true,
            "!" if rest == "directory" => self.from_directory = true,
            _ => panic!("no such change: {line}"),
        }
    }

    fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.dir().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn commit_all(dir: &Path) {
    for args in [
        ["init", "--quiet"].as_slice(),
        &["add", "--all"],
        &["commit", "--quiet", "--allow-empty", "-m", "a"],
    ] {
        let output = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com"])
            .args(args)
            .current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn has_ending(path: &str, ending: &str) -> bool {
    Path::new(path).extension().is_some_and(|e| e == ending)
}

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}
