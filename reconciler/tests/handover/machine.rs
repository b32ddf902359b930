//! A machine as far as `fabrik receive` sees one: a folder, and a `systemctl` in PATH that writes down what it is asked.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use fabrik::secrets::founding_keys;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Made for this test by ssh-keygen.
pub const USER_DATA_KEY: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACAjgBqv98wDabHkmykRra1Pow/mH/wOq0M0qMTIYmNXGQAAAIgJqCRCCagk
QgAAAAtzc2gtZWQyNTUxOQAAACAjgBqv98wDabHkmykRra1Pow/mH/wOq0M0qMTIYmNXGQ
AAAEAuBE8J9GXePqPT5gCacccDokmXywvHQWZ3lGY0FyQGRSOAGq/3zANpseSbKRGtrU+j
D+Yf/A6rQzSoxMhiY1cZAAAAAAECAwQF
-----END OPENSSH PRIVATE KEY-----
";

/// Does what systemd and k3s would: an API answers when k3s has started, and etcd has data. With a file `kill`, it kills who
/// asks for that, before or after it is done.
const SYSTEMCTL: &str = r#"#!/bin/sh
root=ROOT
echo "$*" >>"$root.calls"
dies() { [ "$(cat "$root.kill" 2>/dev/null)" = "$1" ] && rm "$root.kill" && kill -9 $PPID; }
case "$*" in
"restart sshd") dies "restart sshd" ;;
"start k3s")
    dies "start k3s" && exit 1
    mkdir -p "$root/var/lib/rancher/k3s/server/db/etcd/member/wal"
    cp "$root.kubeconfig" "$root/etc/rancher/k3s/k3s.yaml"
    dies "started k3s"
    ;;
"start fabrik fabrik-agent") dies "start fabrik" ;;
esac
exit 0
"#;

pub struct Machine {
    dir: TempDir,
    root: PathBuf,
    said: Mutex<String>,
}

impl Machine {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let program = dir.path().join("bin/systemctl");
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(&program, SYSTEMCTL.replace("ROOT", root.to_str().unwrap())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            dir,
            root,
            said: Mutex::default(),
        }
    }

    /// Runs fabrik on it; returns whether that went well, and what it says: on standard output, else where it fails.
    pub fn fabrik(&self, arguments: &[&str], input: &[u8]) -> (bool, String) {
        let path = std::env::var("PATH").unwrap();
        let bin = self.dir.path().join("bin");
        let mut child = Command::new(env!("CARGO_BIN_EXE_fabrik"))
            .args(arguments)
            .arg("--root")
            .arg(&self.root)
            .env("PATH", format!("{}:{path}", bin.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who refuses reads nothing.
        let _closed = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        write!(self.said.lock().unwrap(), "{out}{err}").unwrap();
        (
            output.status.success(),
            if output.status.success() { out } else { err },
        )
    }

    /// It boots.
    pub fn identify(&self, metadata: &str) -> Result<(), String> {
        let (ok, said) = self.fabrik(&["identify", "--or-by-hand", "--metadata", metadata], b"");
        if ok { Ok(()) } else { Err(said) }
    }

    /// What k3s writes when its API answers.
    pub fn k3s_is(&self, kubeconfig: &Path) {
        fs::copy(kubeconfig, self.root.with_extension("kubeconfig")).unwrap();
    }

    /// Kills fabrik once, when it asks for that step.
    pub fn kill_at(&self, step: &str) {
        fs::write(self.root.with_extension("kill"), step).unwrap();
    }

    /// What systemd was asked since the last time.
    pub fn take_calls(&self) -> Vec<String> {
        let path = self.root.with_extension("calls");
        let calls = fs::read_to_string(&path).unwrap_or_default();
        self.said.lock().unwrap().push_str(&calls);
        let _none_yet = fs::remove_file(path);
        calls.lines().map(str::to_owned).collect()
    }

    /// By fabrik, and to systemd as far as calls were taken.
    pub fn all_that_was_said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    pub fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap().permissions().mode() & 0o777
    }
}

pub fn user_data() -> String {
    json!({
        "fabrik": 1, "role": "first-server", "node-name": "demo-servers-abc234", "cluster-name": "demo",
        "cluster-id": "abcdefgh01234567", "host-key": USER_DATA_KEY,
        "authorized-key": "ssh-ed25519 AAAAlaptop",
    })
    .to_string()
}

/// New keys each time, with `over` in the place of what is called so.
pub fn bundle(over: Value) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    founding_keys::ensure(dir.path(), &"demo".parse().unwrap()).unwrap();
    let file = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let mut bundle = json!({
        "fabrik": 1, "cluster": {"name": "demo", "id": "abcdefgh01234567"},
        "repository": {"url": "https://git.example.com/demo.git", "branch": "main", "token": "planted-access-token"},
        "age-key": file("age.key"), "deploy-key": file("deploy.key"), "signing-key": file("signing.key"),
        "webhook-secret": file("webhook.secret"), "k3s-token": "planted-k3s-token",
    });
    let Value::Object(over) = over else {
        unreachable!()
    };
    bundle.as_object_mut().unwrap().extend(over);
    bundle.to_string().into_bytes()
}

/// What of a bundle must be seen nowhere.
pub fn planted(bundle: &[u8]) -> Vec<String> {
    let Ok(bundle) = serde_json::from_slice::<Value>(bundle) else {
        return vec!["AGE-SECRET-KEY".to_owned(), "PRIVATE KEY".to_owned()];
    };
    let secrets = [
        "age-key",
        "deploy-key",
        "signing-key",
        "webhook-secret",
        "k3s-token",
    ];
    let secrets = secrets.iter().filter_map(|name| bundle[name].as_str());
    let lines = secrets
        .chain(bundle["repository"]["token"].as_str())
        .flat_map(str::lines);
    // A comment, and what frames a key, is no secret.
    lines
        .filter(|line| line.len() > 12 && !line.starts_with(['#', '-']))
        .map(str::to_owned)
        .collect()
}
