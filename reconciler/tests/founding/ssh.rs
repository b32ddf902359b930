//! `fabrik ssh` to a real sshd, whose key the node has reported, or another one.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fabrik::cluster::resources::FabrikNode;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::world::World;

const NODE: &str = "server-1";

/// A machine's sshd, on a high port of this machine.
struct Sshd {
    dir: PathBuf,
    address: SocketAddr,
    process: Child,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

pub async fn knows_a_node_by_what_it_has_reported(world: &World) {
    let sshd = Sshd::start(world).await;
    let all: Api<FabrikNode> = Api::all(world.bed.kube().await.unwrap());
    let nodes: Api<Node> = Api::all(world.bed.kube().await.unwrap());
    let uid = nodes.get(NODE).await.unwrap().uid().unwrap();
    let spec = json!({"pool": "servers", "serverId": 1, "uid": uid, "intent": ""});
    let node = FabrikNode::new(NODE, serde_json::from_value(spec).unwrap());
    all.create(&PostParams::default(), &node).await.unwrap();
    let own: Api<FabrikNode> = Api::all(world.node(NODE).await);
    let reports = async |key: Option<String>| {
        let status = json!({"status": {"sshHostKeys": key.map(|key| vec![key])}});
        let params = PatchParams::default();
        let patch = Patch::Merge(&status);
        own.patch_status(NODE, &params, &patch).await.unwrap();
    };

    let unknown = sshd.fabrik(world, NODE, &["true"]);
    let told = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert_eq!(unknown.status.code(), Some(1), "{told}");
    assert!(
        told.contains("is not known") && told.contains("first use"),
        "{told}"
    );
    let none = sshd.fabrik(world, "server-9", &["true"]);
    let told = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(
        told.contains("no Node server-9") && told.contains(NODE),
        "{told}"
    );

    reports(Some(sshd.public("host_key"))).await;
    let hello = sshd.fabrik(world, NODE, &["echo", "$((40 + 2))"]);
    assert!(hello.status.success(), "{hello:?}");
    assert_eq!(String::from_utf8(hello.stdout).unwrap(), "42\n");
    assert_eq!(sshd.fabrik(world, NODE, &["exit 7"]).status.code(), Some(7));

    reports(Some(sshd.public("other_key"))).await;
    let refused = sshd.fabrik(world, NODE, &["touch", "never"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(255), "{told}");
    assert!(told.contains("Host key verification failed"), "{told}");
}

impl Sshd {
    async fn start(world: &World) -> Self {
        let dir = world.path("sshd");
        fs::create_dir_all(&dir).unwrap();
        for name in ["host_key", "other_key", "mine"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(dir.join(name))
                .status();
            assert!(made.unwrap().success());
        }
        fs::copy(dir.join("mine.pub"), dir.join("authorized_keys")).unwrap();
        // Free again at once, for sshd.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let of = |name: &str| dir.join(name).display().to_string();
        let configuration = format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nSetEnv HOME={}\n",
            of("host_key"),
            of("authorized_keys"),
            dir.display(),
        );
        fs::write(dir.join("sshd_config"), configuration).unwrap();
        let process = Command::new(&world.bed.parts().sshd)
            .args(["-D", "-e", "-f"])
            .arg(dir.join("sshd_config"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let sshd = Self {
            dir,
            address,
            process,
        };
        let listens = async || Ok(TcpStream::connect(address).ok());
        let deadline = Duration::from_secs(30);
        let bed = &world.bed;
        bed.wait_until("sshd listens", deadline, listens)
            .await
            .unwrap();
        sshd
    }

    fn fabrik(&self, world: &World, node: &str, command: &[&str]) -> Output {
        let user = Command::new("id").arg("-un").output().unwrap();
        Command::new(env!("CARGO_BIN_EXE_fabrik"))
            .args(["ssh", "--address", "127.0.0.1", "--port"])
            .arg(self.address.port().to_string())
            .args([
                "--user",
                String::from_utf8(user.stdout).unwrap().trim(),
                "-i",
            ])
            .arg(self.dir.join("mine"))
            .arg(node)
            .args(command)
            .env("KUBECONFIG", world.bed.kubeconfig())
            .env("XDG_CACHE_HOME", self.dir.join("a cache"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn public(&self, key: &str) -> String {
        let line = fs::read_to_string(Path::new(&self.dir).join(key).with_extension("pub"));
        let line = line.unwrap();
        let words: Vec<&str> = line.split_whitespace().take(2).collect();
        words.join(" ")
    }
}
