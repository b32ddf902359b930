//! A repository, a machine behind a real sshd, and what a laptop has in PATH.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fabrik::cluster::user_data::Joining;
use fabrik::report::observed::Document;
use fabrik_core::id::{ClusterId, NodeName, ServerId};
use fabrik_core::ledger::Change;
use fabrik_core::observed::Observed;
use jiff::Timestamp;
use serde_json::json;
use tempfile::TempDir;

use super::api::Api;

/// The machine, as far as it answers: what it is asked goes to `asked`, and what it is told to `told`.
const MACHINE: &str = r#"#!/bin/sh
dir=DIR
printf '%s\n' "$SSH_ORIGINAL_COMMAND" >>$dir/asked
case "$SSH_ORIGINAL_COMMAND" in
*os-release*)
    printf 'os=%s\narch=x86_64\nuser=0\nmemory=16303420\nidentity=%s\ndisk=\n' "$(cat $dir/os)" "$(cat $dir/identity 2>&1)"
    cat $dir/disk.json
    ;;
*machine.json*) cat >$dir/told ;;
esac
"#;

const DISK: &str = r#"{"blockdevices": [{"name": "nvme0n1", "type": "disk", "size": 512110190592, "model": "SAMSUNG MZVL",
"fstype": null, "mountpoint": null, "children": [{"name": "nvme0n1p2", "type": "part", "size": 511000000000, "model": null,
"fstype": "ext4", "mountpoint": "/"}]}]}
"#;

/// Writes down its call, and whom its ssh trusts when it is told, as the real one tells it, to trust anybody.
const NIXOS_ANYWHERE: &str = r#"#!/bin/sh
echo "$*" >>DIR/nixos-anywhere.calls
ssh -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -G 127.0.0.1 | grep '^stricthostkeychecking' >>DIR/trusts.calls
"#;

/// Writes down its call, and by which keys its ssh would come in.
const NIX: &str = r#"#!/bin/sh
echo "$*" >>DIR/nix.calls
case "$*" in
*build*) for last; do :; done; echo "/nix/store/built-${last##*.}" ;;
*copy*) ssh -G 127.0.0.1 | grep '^identityfile' >>DIR/keys.calls ;;
esac
"#;

/// A fragment begins by such a name where it is no path.
const REPOSITORY: &str = "repository#1";
const CLUSTER: &str = "abcdefgh01234567";

pub struct World {
    dir: TempDir,
    address: SocketAddr,
    sshd: Child,
    pub api: Api,
    pub commit: String,
}

impl Drop for World {
    fn drop(&mut self) {
        self.sshd.kill().ok();
        self.sshd.wait().ok();
    }
}

impl World {
    /// Whose machine runs that Linux.
    pub async fn start(os: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["host_key", "other_key", "mine"] {
            keygen(&root.join(name));
        }
        fs::copy(root.join("mine.pub"), root.join("authorized_keys")).unwrap();
        fs::write(root.join("os"), os).unwrap();
        fs::write(root.join("disk.json"), DISK).unwrap();
        program(
            &root.join("machine"),
            &MACHINE.replace("DIR", root.to_str().unwrap()),
        );
        fs::create_dir(root.join("bin")).unwrap();
        for (name, text) in [("nixos-anywhere", NIXOS_ANYWHERE), ("nix", NIX)] {
            program(
                &root.join("bin").join(name),
                &text.replace("DIR", root.to_str().unwrap()),
            );
        }
        let (address, sshd) = sshd(root);
        let commit = repository(&root.join(REPOSITORY), root, address.port());
        let api = Api::start(observation(&commit), root.join("told")).await;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "demo",
            "clusters": [{"name": "demo", "cluster": {"server": api.url}}],
            "contexts": [{"name": "demo", "context": {"cluster": "demo", "user": "admin"}}],
            "users": [{"name": "admin", "user": {"token": "t"}}],
        });
        fs::write(root.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self {
            dir,
            address,
            sshd,
            api,
            commit,
        }
    }

    /// Whether it went well, and all that it said.
    pub async fn install(&self, machine: &str, more: &[&str]) -> (bool, String) {
        let path = std::env::var("PATH").unwrap();
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_fabrik"))
            .args(["install", "--cluster", "demo", "--dir"])
            .arg(self.repository())
            .arg("-i")
            .arg(self.path("mine"))
            .args(more)
            .arg(machine)
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("KUBECONFIG", self.path("kubeconfig"))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn repository(&self) -> PathBuf {
        fs::canonicalize(self.path(REPOSITORY)).unwrap()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn is_already(&self, node: &str) {
        let cluster: ClusterId = CLUSTER.parse().unwrap();
        let server = ServerId::of_machine(&cluster, &node.parse().unwrap());
        let identity = json!({"server": server, "node": node}).to_string();
        fs::write(self.path("identity"), identity).unwrap();
    }

    pub fn commit_once_more(&self) {
        git(
            &self.repository(),
            &["commit", "-q", "--allow-empty", "-m", "more"],
        );
    }

    /// Command lines that it ran.
    pub fn asked_of_machine(&self) -> String {
        fs::read_to_string(self.path("asked")).unwrap_or_default()
    }

    pub fn told(&self) -> String {
        fs::read_to_string(self.path("told")).unwrap()
    }

    pub fn sshd_log(&self) -> String {
        fs::read_to_string(self.path("sshd.log")).unwrap()
    }

    pub fn calls(&self, program: &str) -> String {
        fs::read_to_string(self.path(&format!("{program}.calls"))).unwrap_or_default()
    }

    pub fn fingerprint(&self, key: &str) -> String {
        let mut keygen = Command::new("ssh-keygen");
        let shown = keygen.arg("-lf").arg(self.path(key)).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        shown.split(' ').nth(1).unwrap().to_owned()
    }
}

fn observation(commit: &str) -> Vec<u8> {
    let cluster: ClusterId = CLUSTER.parse().unwrap();
    let empty = json!({
        "at": "2026-11-21T12:00:00Z", "hetzner": {"servers": {}, "gone": [], "network": null, "firewall": null,
        "ssh_keys": {}, "placement_groups": {}, "taken": {}}, "nodes": {}, "pods": {}, "pinned": [], "tokens": [],
        "units": {}, "ledger": {"schema": 1, "cluster": cluster}, "paused": null,
    });
    let mut observed: Observed = serde_json::from_value(empty).unwrap();
    let node: NodeName = "demo-home-desktop".parse().unwrap();
    let awaits = |node: NodeName, id: &str| Change::Expect {
        id: id.parse().unwrap(),
        pool: "home".parse().unwrap(),
        server: ServerId::of_machine(&cluster, &node),
        name: node,
    };
    let now = Timestamp::now();
    observed.ledger.apply(&awaits(node, "abc234"), now);
    observed
        .ledger
        .apply(&awaits("demo-home-nas".parse().unwrap(), "abc235"), now);
    let mut document = Document::new(observed, now);
    document.in_force = Some(commit.parse().unwrap());
    document.joining = Some(Joining {
        servers: vec!["https://10.0.1.1:6443".to_owned()],
        public_key: Some("fabrik-demo-1:AAAA".to_owned()),
        cache_urls: vec!["https://10.0.1.1:9642".to_owned()],
        ca_hash: "00".repeat(32),
    });
    document.publish().unwrap()
}

fn repository(dir: &Path, keys: &Path, port: u16) -> String {
    let key = |name: &str| {
        let line = fs::read_to_string(keys.join(name).with_extension("pub")).unwrap();
        line.trim().to_owned()
    };
    // The second one is at the same place, and cluster.toml has another host key for it.
    let spec = format!(
        "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36.3+k3s1\"\n[hetzner]\n\
         token = {{ file = \"secrets/hetzner.yaml\", key = \"token\" }}\n[pools.home]\nlabels = {{ place = \"home\" }}\n\
         [pools.home.machines.desktop]\naddress = \"127.0.0.1\"\nport = {port}\nhost-key = \"{}\"\n\
         disk = \"/dev/disk/by-id/nvme-desktop\"\nnode-ip = \"10.0.9.50\"\n\
         [pools.home.machines.nas]\naddress = \"localhost\"\nport = {port}\nhost-key = \"{}\"\n\
         disk = \"/dev/disk/by-id/ata-nas\"\nnode-ip = \"10.0.9.51\"\n[ssh-keys]\nme = \"{}\"\n",
        key("host_key"),
        key("other_key"),
        key("mine"),
    );
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("cluster.toml"), spec).unwrap();
    git(dir, &["init", "-q"]);
    git(dir, &["add", "."]);
    git(dir, &["commit", "-q", "-m", "begin"]);
    git(dir, &["rev-parse", "HEAD"])
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(dir)
        .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]);
    let output = git.args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn keygen(path: &Path) {
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path);
    assert!(keygen.status().unwrap().success());
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn sshd(dir: &Path) -> (SocketAddr, Child) {
    // sshd asks for it where it runs as root; Debian's unit makes it at boot.
    fs::create_dir_all("/run/sshd").ok();
    // Free again at once, for sshd.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let dir_ = dir.display();
    let config = format!(
        "ListenAddress {address}\nHostKey {dir_}/host_key\nAuthorizedKeysFile {dir_}/authorized_keys\nPidFile none\nUsePAM no\n\
         StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nForceCommand {dir_}/machine\n\
         LogLevel VERBOSE\n"
    );
    fs::write(dir.join("sshd_config"), config).unwrap();
    let child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stdin(Stdio::null())
        .stderr(fs::File::create(dir.join("sshd.log")).unwrap())
        .spawn()
        .expect("sshd is needed: apt-get install openssh-server");
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "sshd does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    (address, child)
}
