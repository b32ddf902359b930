//! A real etcd and API server for one test, without controllers: nothing happens in it but what the test does.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::core::Request;
use kube::{Api, Client, Config};
use tempfile::TempDir;

use crate::eventually;

const TOKEN: &str = "test-admin";

pub struct ApiServer {
    pub client: Client,
    processes: Vec<Child>,
    _dir: TempDir,
}

impl ApiServer {
    pub async fn start() -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        let [etcd_port, peer_port, api_port] = free_ports();
        let etcd = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut etcd_command = Command::new(part("etcd-3.7.3/etcd"));
        etcd_command
            .args(["--unsafe-no-fsync", "--log-level=error", "--data-dir"])
            .arg(path.join("etcd"))
            .args([
                "--listen-client-urls",
                &etcd,
                "--advertise-client-urls",
                &etcd,
            ])
            .args([
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
            ])
            .args(["--initial-cluster", &format!("default={peer}")]);
        let key = path.join("service-accounts.key");
        let pair = rcgen::KeyPair::generate().unwrap();
        fs::write(&key, pair.serialize_pem()).unwrap();
        let public = path.join("service-accounts.pub");
        fs::write(&public, pair.public_key_pem()).unwrap();
        let tokens = path.join("tokens.csv");
        fs::write(&tokens, format!("{TOKEN},admin,admin,system:masters\n")).unwrap();
        let mut api_command = Command::new(part("kubernetes-1.36.3/kube-apiserver"));
        api_command
            .args([
                format!("--etcd-servers={etcd}"),
                format!("--secure-port={api_port}"),
            ])
            .args([
                "--bind-address=127.0.0.1",
                "--service-cluster-ip-range=10.43.0.0/16",
            ])
            .args([
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://test",
            ])
            .args(["--disable-admission-plugins=ServiceAccount", "--cert-dir"])
            .arg(path.join("certificates"))
            .arg(flag("service-account-signing-key-file", &key))
            .arg(flag("service-account-key-file", &public))
            .arg(flag("token-auth-file", &tokens));
        let processes = vec![
            spawn(etcd_command, &path.join("etcd.log")),
            spawn(api_command, &path.join("api-server.log")),
        ];
        let url = format!("https://127.0.0.1:{api_port}");
        let client = client(&url);
        let server = Self {
            client: client.clone(),
            processes,
            _dir: dir,
        };
        eventually(
            "the API server is ready",
            Duration::from_secs(60),
            async || {
                let namespaces: Api<Namespace> = Api::all(client.clone());
                namespaces.get("default").await.is_ok()
            },
        )
        .await;
        server
    }

    /// How many server-side applies it has answered since it started.
    pub async fn applies(&self) -> u64 {
        let request = Request::new("/metrics").list(&ListParams::default());
        let metrics = self.client.request_text(request.unwrap()).await.unwrap();
        let counters = metrics.lines().filter(|line| {
            line.starts_with("apiserver_request_total{") && line.contains("verb=\"APPLY\"")
        });
        counters
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

fn client(url: &str) -> Client {
    let mut config = Config::new(url.parse().unwrap());
    config.auth_info.token = Some(TOKEN.to_owned().into());
    // Its certificate is its own, made when it started.
    config.accept_invalid_certs = true;
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn part(path: &str) -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/parts");
    let parts = std::env::var_os("FABRIK_PARTS_DIR").map_or(default, PathBuf::from);
    let part = parts.join(path);
    assert!(
        part.exists(),
        "{} is missing: run `bed parts`",
        part.display()
    );
    part
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn spawn(mut command: Command, log: &Path) -> Child {
    let log = fs::File::create(log).unwrap();
    let command = command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log).spawn().unwrap()
}

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
