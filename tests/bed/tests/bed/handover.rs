//! A first server is handed its keys over SSH, by the program that `fabrik seed` runs there, and comes back as that server.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Bed, Options, Transport};
use reqwest::Method;
use serde_json::{Value, json};

use crate::ssh::Laptop;

const BOOT: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_first_server_is_handed_its_keys_and_founds() -> Result<()> {
    // Whose keys they are is all the same.
    let other = Bed::start(Options {
        fabrik: true,
        ..Options::default()
    })
    .await?;
    let key = |name: &str| std::fs::read_to_string(other.fabrik(0).dir().join(name));
    let keys = json!({
        "age-key": key("age.key")?, "deploy-key": key("deploy.key")?, "signing-key": key("signing.key")?,
        "webhook-secret": key("webhook.secret")?, "k3s-token": "0123456789abcdef",
    });
    other.shutdown().await;
    let mut bed = Bed::start(Options {
        servers: 0,
        systems: true,
        transport: Transport::Ssh,
        action_duration: Duration::from_millis(50),
        ..Options::default()
    })
    .await?;
    let laptop = Laptop::new(&bed)?;
    let subnet = json!({"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.1.0/24"});
    let network = json!({"name": "demo", "ip_range": "10.0.0.0/16", "subnets": [subnet], "labels": {"fabrik.dev/cluster": "abcdefgh01234567"}});
    let network = bed
        .hetzner()
        .call(Method::POST, "/networks", &network)
        .await?;
    let host_key = bed.dir().join("told");
    let made = Command::new("ssh-keygen")
        .args(["-qt", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&host_key)
        .status()?;
    ensure!(made.success());
    let user_data = json!({
        "fabrik": 1, "role": "first-server", "node-name": "demo-servers-abc234", "cluster-name": "demo",
        "cluster-id": "abcdefgh01234567", "host-key": std::fs::read_to_string(&host_key)?, "authorized-key": laptop.public_key()?,
    });
    let order = json!({
        "name": "demo-servers-abc234", "server_type": "cx23", "image": "debian-12", "location": "fsn1",
        "networks": [network["network"]["id"]], "user_data": user_data.to_string(),
        "labels": {"fabrik.dev/cluster": "abcdefgh01234567", "fabrik.dev/role": "server"},
    });
    let (_, address) = bed.hetzner().create_server(&order).await?;
    let host = address.to_string();
    let public = std::fs::read_to_string(host_key.with_extension("pub"))?;
    bed.wait_until("the told host key", BOOT, async || {
        std::fs::write(&laptop.known_hosts, format!("{host} {public}"))?;
        laptop.run(&host, "true", b"").map(Some)
    })
    .await?;
    let own = laptop.run(&host, "fabrik receive host-key", b"")?;
    laptop.run(&host, "fabrik receive host-key --use", b"")?;
    std::fs::write(&laptop.known_hosts, format!("{host} {own}\n"))?;
    let mut bundle = keys;
    bundle["fabrik"] = 1.into();
    bundle["cluster"] = json!({"name": "demo", "id": "abcdefgh01234567"});
    bundle["repository"] = json!({
        "url": bed.repository_url(), "branch": "main",
        "known-hosts": std::fs::read_to_string(bed.git_servers().known_hosts())?,
    });
    bundle["hetzner-endpoint"] = format!("{}/v1", bed.emulator_url()).into();
    let founded = laptop.run(
        &host,
        "fabrik receive identity",
        bundle.to_string().as_bytes(),
    )?;
    let founded: Value = serde_json::from_str(&founded)?;
    assert_eq!(founded["clusterId"], "abcdefgh01234567");
    laptop.run(&host, "fabrik receive done", b"")?;
    bed.adopt("demo-servers-abc234")?;
    let machine = bed.machine("demo-servers-abc234")?;
    bed.wait_until("all run", BOOT, async || {
        let root = machine.root().context("a root")?;
        let all = ["sshd", "k3s", "fabrik", "fabrik-agent"].map(|unit| {
            std::fs::read_to_string(root.path(&format!("run/services/state.{unit}")))
                .unwrap_or_default()
        });
        ensure!(all.iter().all(|state| state == "active\n"), "{all:?}");
        let nodes = bed.kubectl(&["get", "nodes,fabriknodes"])?;
        Ok(nodes.contains(" Ready ").then_some(()))
    })
    .await?;
    // The next boot knows all of it.
    machine.reboot().await;
    machine.wait_running(BOOT).await?;
    bed.wait_until("fabrik runs again", BOOT, async || {
        let root = machine.root().context("a root")?;
        Ok(
            (std::fs::read_to_string(root.path("run/services/state.fabrik"))? == "active\n")
                .then_some(()),
        )
    })
    .await?;
    bed.shutdown().await;
    Ok(())
}
