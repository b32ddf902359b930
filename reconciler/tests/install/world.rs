//! A repository, a machine behind a real sshd, and what a laptop has in PATH.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fabrik::cluster::user_data::Joining;
use fabrik::report::observed::Document;
use fabrik_core::id::{ClusterId, NodeName, PoolName, ServerId};
use fabrik_core::ledger::{Change, Member};
use fabrik_core::observed::{Datastore, Etcd, Node, Observed, Role};
use fabrik_core::spec;
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
    printf 'os=%s\narch=x86_64\nuser=0\nmemory=16303420\n' "$(cat $dir/os)"
    echo "from=$(cat $dir/from 2>/dev/null || echo "${SSH_CONNECTION%% *}")"
    echo "port=$(cat $dir/port 2>/dev/null || echo "${SSH_CONNECTION##* }")"
    printf 'identity=%s\ndisk=\n' "$(cat $dir/identity 2>&1)"
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
/// A machine's table, its name, where it is, and the host key that is pinned for it.
type Named = (&'static str, &'static str, &'static str, &'static str);
/// The second one is at the same place, and cluster.toml has another host key for it.
const POOL: &[Named] = &[
    ("pools.home", "desktop", "127.0.0.1", "host_key"),
    ("pools.home", "nas", "localhost", "other_key"),
];
/// The first one is a server already.
const SERVERS: &[Named] = &[
    ("servers", "attic", "attic.example.com", "other_key"),
    ("servers", "cellar", "127.0.0.1", "host_key"),
    ("servers", "roof", "roof.example.com", "mine"),
];
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
    /// Whose machine runs that Linux, and is to be a worker.
    pub async fn start(os: &str) -> Self {
        Self::with(POOL, os).await
    }

    /// Whose machine is to be a server.
    pub async fn of_servers() -> Self {
        Self::with(SERVERS, "debian").await
    }

    async fn with(machines: &[Named], os: &str) -> Self {
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
        let commit = repository(
            &root.join(REPOSITORY),
            &spec_of(machines, root, address.port()),
        );
        let text = fs::read_to_string(root.join(REPOSITORY).join("cluster.toml")).unwrap();
        let spec = spec::parse("cluster.toml", &text).unwrap();
        let api = Api::start(observation(&commit), spec, root.join("told")).await;
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

    /// As the machine sees this laptop.
    pub fn comes_from(&self, address: &str) {
        fs::write(self.path("from"), address).unwrap();
    }

    /// As a router leads there: to that port of the machine's own.
    pub fn is_forwarded_to(&self, port: u16) {
        fs::write(self.path("port"), port.to_string()).unwrap();
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

/// A Node of the control plane, and its etcd member.
pub fn server(observed: &mut Observed, node: &str) -> Node {
    let name: NodeName = node.parse().unwrap();
    let id = ServerId::of_machine(&observed.ledger.cluster, &name);
    let node = json!({
        "name": name, "uid": format!("uid-{name}"), "provider_id": id.provider_id(), "control_plane": true, "ready": true,
        "unschedulable": false, "cordoned_under": null, "deleting": false, "kubelet_version": "v1.36.3+k3s1",
        "labels": {}, "our_labels": [],
    });
    let node: Node = serde_json::from_value(node).unwrap();
    let member = json!({
        "id": id, "name": name, "node": name, "learner": false, "healthy": true, "leader": false, "lag": 0,
    });
    let Datastore::Etcd(etcd) = &mut observed.datastore else {
        panic!("it is etcd");
    };
    let members = etcd.members.get_or_insert_default();
    members.push(serde_json::from_value(member).unwrap());
    observed.nodes.insert(name, node.clone());
    node
}

fn observation(commit: &str) -> Document {
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
    observed.datastore = Datastore::Etcd(Etcd::default());
    let attic = server(&mut observed, "demo-servers-attic");
    let attic = Member {
        role: Role::Server,
        pool: PoolName::servers(),
        server: ServerId::of_machine(&cluster, &attic.name),
        name: attic.name,
        uid: attic.uid,
    };
    let id = "abc236".parse().unwrap();
    observed.ledger.members.insert(id, attic);
    let mut document = Document::new(observed, now);
    document.in_force = Some(commit.parse().unwrap());
    document.joining = Some(Joining {
        servers: vec!["https://10.0.1.1:6443".to_owned()],
        public_key: Some("fabrik-demo-1:AAAA".to_owned()),
        cache_urls: vec!["https://10.0.1.1:9642".to_owned()],
        join_urls: vec!["https://10.0.1.1:9643".to_owned()],
        ca_hash: "00".repeat(32),
    });
    document
}

/// Without a project at Hetzner where the machines are servers.
fn spec_of(machines: &[Named], keys: &Path, port: u16) -> String {
    let key = |name: &str| {
        let line = fs::read_to_string(keys.join(name).with_extension("pub")).unwrap();
        line.trim().to_owned()
    };
    let mut spec = format!(
        "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36.3+k3s1\"\n[firewall]\nssh-from = [\"127.0.0.0/8\"]\n\
         [ssh-keys]\nme = \"{}\"\n",
        key("mine"),
    );
    if machines == POOL {
        spec += "[hetzner]\ntoken = { file = \"secrets/hetzner.yaml\", key = \"token\" }\n[pools.home]\n\
                 labels = { place = \"home\" }\n";
    }
    for (number, (table, name, address, host_key)) in machines.iter().enumerate() {
        let table = format!(
            "[{table}.machines.{name}]\naddress = \"{address}\"\nport = {port}\nhost-key = \"{}\"\n\
             disk = \"/dev/disk/by-id/nvme-{name}\"\nnode-ip = \"10.0.9.{}\"\n",
            key(host_key),
            50 + number,
        );
        spec += &table;
    }
    spec
}

fn repository(dir: &Path, spec: &str) -> String {
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
         LogLevel VERBOSE\nSetEnv HOME={dir_}\n"
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
