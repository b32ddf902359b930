//! A machine learns who it is from the metadata service of its server, once, and keeps to it.

mod identify {
    pub mod cloud;
}

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fabrik::node::AgentConfig;
use fabrik::node::identify::{self as identity, ByHand, IdentifyError};
use serde_json::{Value, json};

use identify::cloud::Cloud;

const TOKEN: &str = "K10ca::id.planted-join-token";

async fn run(metadata: &str, root: &Path) -> Result<(), IdentifyError> {
    identity::run(metadata, root, ByHand::Refused).await
}

fn user_data(server: &str) -> String {
    json!({
        "fabrik": 1, "role": "agent", "pool": "workers", "node-name": "demo-workers-k3x9qd",
        "cluster-name": "demo", "cluster-id": "abcdefgh01234567",
        "public-key": "fabrik-demo-1:l7HQMPq1P9pXkdFeoCXiKGVPCgIiIjYF8QxhF4K7dKE=",
        "cache-urls": ["https://10.0.1.1:9642"], "servers": ["https://127.0.0.1:1", server],
        "token": TOKEN, "labels": {"tier": "web"}, "taints": ["dedicated=web:NoSchedule"],
    })
    .to_string()
}

fn k3s(root: &Path) -> Value {
    let path = root.join("etc/rancher/k3s/config.yaml.d/50-fabrik.yaml");
    serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test]
async fn a_machine_knows_who_it_is_from_its_first_boot_on() {
    let cloud = Cloud::start().await;
    // Something that answers where a supervisor would; before it in the list is nobody.
    let supervisor = format!(
        "https://{}",
        cloud.emulator.url().trim_start_matches("http://")
    );
    let (id, metadata) = cloud.server("one", &user_data(&supervisor)).await;
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    run(&metadata, root).await.unwrap();

    let config = k3s(root);
    assert_eq!(config["node-name"], "demo-workers-k3x9qd");
    assert_eq!(config["server"], supervisor.as_str());
    assert_eq!(config["node-ip"], "10.0.1.1");
    assert_eq!(
        config["kubelet-arg+"],
        json!([format!("provider-id=hcloud://{id}")])
    );
    let agent = AgentConfig::load(&root.join("etc/fabrik/agent.toml")).unwrap();
    assert_eq!(agent.node.as_str(), "demo-workers-k3x9qd");
    let network = root.join("run/systemd/network/05-fabrik-public.network");
    assert!(
        fs::read_to_string(&network)
            .unwrap()
            .contains("Gateway=fe80::1")
    );
    let token = root.join("var/lib/fabrik-identity/token");
    assert_eq!(fs::read_to_string(&token).unwrap(), TOKEN);
    let mode = fs::metadata(&token).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // The next boot: what is in /run is gone, and what the metadata service says of the rest by now is not asked.
    fs::remove_dir_all(root.join("run")).unwrap();
    run(&metadata, root).await.unwrap();
    assert!(network.exists());
    assert_eq!(k3s(root), config);

    // What can't be written again stays, as on a disk that is full.
    let hostname = root.join("etc/fabrik/hostname");
    fs::remove_file(&hostname).unwrap();
    fs::create_dir_all(hostname.join("in the way")).unwrap();
    run(&metadata, root).await.unwrap();
    assert!(hostname.is_dir());
    // Where there is nothing yet, the machine is not told who it is.
    fs::remove_dir_all(root.join("run")).unwrap();
    fs::write(root.join("run"), "").unwrap();
    run(&metadata, root).await.unwrap_err();
}

/// All servers that there were at its first boot have been replaced since.
#[tokio::test]
async fn a_worker_finds_its_way_by_the_servers_that_its_k3s_knew_last() {
    let cloud = Cloud::start().await;
    let supervisor = cloud
        .emulator
        .url()
        .trim_start_matches("http://")
        .to_owned();
    let gone = "https://127.0.0.1:1";
    let (_, metadata) = cloud
        .server("one", &user_data(&format!("https://{supervisor}")))
        .await;
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    run(&metadata, root).await.unwrap();
    let identity = root.join("var/lib/fabrik-identity/identity.json");
    let mut kept: Value = serde_json::from_slice(&fs::read(&identity).unwrap()).unwrap();
    kept["servers"] = json!([gone]);
    fs::write(&identity, kept.to_string()).unwrap();

    let balancer = json!({"ServerURL": gone, "ServerAddresses": ["127.0.0.1:1", supervisor]});
    let dir = root.join("var/lib/rancher/k3s/agent/etc");
    fs::create_dir_all(&dir).unwrap();
    fs::write(
        dir.join("k3s-agent-load-balancer.json"),
        balancer.to_string(),
    )
    .unwrap();
    run(&metadata, root).await.unwrap();
    assert_eq!(k3s(root)["server"], format!("https://{supervisor}"));
}

#[tokio::test]
async fn a_disk_that_can_not_say_who_it_was_joins_nothing() {
    let cloud = Cloud::start().await;
    let (_, metadata) = cloud.server("one", &user_data("https://127.0.0.1:1")).await;
    let kept = tempfile::tempdir().unwrap();
    let identity = kept.path().join("var/lib/fabrik-identity/identity.json");
    fs::create_dir_all(identity.parent().unwrap()).unwrap();
    fs::write(&identity, "").unwrap();
    run(&metadata, kept.path()).await.unwrap_err();
    fs::remove_file(&identity).unwrap();
    // What is no file can't be read.
    fs::create_dir(&identity).unwrap();
    run(&metadata, kept.path()).await.unwrap_err();
    assert!(!kept.path().join("etc").exists(), "k3s is told nothing");
}

#[tokio::test]
async fn a_disk_of_another_server_joins_nothing() {
    let cloud = Cloud::start().await;
    let supervisor = format!(
        "https://{}",
        cloud.emulator.url().trim_start_matches("http://")
    );
    let (first, metadata) = cloud.server("one", &user_data(&supervisor)).await;
    let (second, copied) = cloud.server("two", "#cloud-config\n").await;
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    run(&metadata, root).await.unwrap();
    let config = root.join("etc/rancher/k3s/config.yaml.d/50-fabrik.yaml");
    fs::remove_file(&config).unwrap();
    let error = run(&copied, root).await.unwrap_err();
    assert!(
        matches!(error, IdentifyError::OtherServer { kept_server, server, .. } if (kept_server, server) == (first, second)),
        "{error}"
    );
    assert!(!config.exists(), "k3s is told nothing");

    let empty = tempfile::tempdir().unwrap();
    let error = run(&copied, empty.path()).await.unwrap_err();
    assert!(matches!(error, IdentifyError::NotOurs { .. }), "{error}");
    assert!(!empty.path().join("etc").exists());
}
