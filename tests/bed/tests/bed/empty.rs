//! A bed that begins with an empty Hetzner project: machines that become servers by what is written to them over SSH. What
//! `fabrik seed` makes of such a bed is told by its stories.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fabrik_bed::{Bed, Machine, Options, State, Transport};
use reqwest::Method;
use serde_json::{Value, json};

use crate::ssh::Laptop;

const BOOT: Duration = Duration::from_secs(90);
const SERVER_TOKEN: &str = "the-token-of-servers";

async fn empty() -> Result<Bed> {
    Bed::start(Options {
        servers: 0,
        systems: true,
        transport: Transport::Ssh,
        action_duration: Duration::from_millis(50),
        ..Options::default()
    })
    .await
}

/// Orders a server in a private network, and lets the laptop in; what `fabrik identify` does for a role that it knows.
async fn server(bed: &Bed, laptop: &Laptop, network: &Value, name: &str) -> Result<Machine> {
    let order = json!({
        "name": name, "server_type": "cx23", "image": "debian-12", "location": "fsn1", "networks": [network],
        "user_data": json!({"fabrik": 1, "role": "server"}).to_string(),
    });
    bed.hetzner().create_server(&order).await?;
    let machine = bed.machine_appears(name, BOOT).await?;
    let host_key = "etc/ssh/ssh_host_ed25519_key.pub";
    bed.wait_until("sshd has a host key", BOOT, async || {
        let root = machine.root();
        Ok(root.filter(|root| root.path(host_key).exists()))
    })
    .await?;
    let root = machine.root().context("a root")?;
    std::fs::create_dir_all(root.path("root/.ssh"))?;
    std::fs::write(root.path("root/.ssh/authorized_keys"), laptop.public_key()?)?;
    let host = machine.address().to_string();
    bed.wait_until("sshd lets in", BOOT, async || {
        laptop.run(&host, "true", b"").map(Some)
    })
    .await?;
    Ok(machine)
}

async fn network(bed: &Bed) -> Result<Value> {
    let subnet = json!({"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.1.0/24"});
    let network = json!({"name": "demo", "ip_range": "10.0.0.0/16", "subnets": [subnet]});
    let made = bed
        .hetzner()
        .call(Method::POST, "/networks", &network)
        .await?;
    Ok(made["network"]["id"].clone())
}

/// Tells k3s who it is, and what else.
fn configure(laptop: &Laptop, machine: &Machine, ip: &str, more: &str, token: &str) -> Result<()> {
    let host = machine.address().to_string();
    let (name, id) = (machine.name(), machine.id());
    let config = format!(
        "node-name: {name}\nnode-ip: {ip}\nnode-external-ip: {host}\ntoken-file: /etc/fabrik/k3s.token\n\
         kubelet-arg+: [\"provider-id=hcloud://{id}\"]\n{more}\n"
    );
    laptop.run(
        &host,
        "umask 077; cat >/etc/fabrik/k3s.token",
        token.as_bytes(),
    )?;
    let write = "mkdir -p /etc/rancher/k3s/config.yaml.d; cat >/etc/rancher/k3s/config.yaml.d/50-fabrik.yaml";
    laptop.run(&host, write, config.as_bytes())?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_joins_with_the_server_token_and_never_founds_a_second_cluster() -> Result<()> {
    let mut bed = empty().await?;
    let laptop = Laptop::new(&bed)?;
    let network = network(&bed).await?;
    let first = server(&bed, &laptop, &network, "server-1").await?;
    let second = server(&bed, &laptop, &network, "server-2").await?;
    let hosts = [&first, &second].map(|machine| machine.address().to_string());
    configure(
        &laptop,
        &first,
        "10.0.1.1",
        "cluster-init: true",
        SERVER_TOKEN,
    )?;
    laptop.run(&hosts[0], "systemctl start k3s", b"")?;

    let server = "server: https://10.0.1.1:6443";
    configure(&laptop, &second, "10.0.1.2", server, "another-token")?;
    let refused = laptop.ssh(&hosts[1], "systemctl start k3s", b"")?;
    let refused = String::from_utf8(refused.stderr)?;
    ensure!(refused.contains("not the server token"), "{refused}");
    laptop.run(&hosts[1], "systemctl stop k3s", b"")?;
    configure(&laptop, &second, "10.0.1.2", server, SERVER_TOKEN)?;
    laptop.run(&hosts[1], "systemctl start k3s", b"")?;
    second.wait_running(BOOT).await?;

    // Whatever its etcd was doing, it goes on.
    laptop.run(&hosts[1], "systemctl restart k3s", b"")?;
    second.wait_running(BOOT).await?;
    bed.adopt("server-2")?;
    bed.wait_until("both are servers", BOOT, async || {
        let servers = [
            "get",
            "nodes",
            "--no-headers",
            "-l",
            "node-role.kubernetes.io/etcd",
        ];
        let nodes = bed.kubectl(&servers)?;
        Ok((nodes.matches(" Ready ").count() == 2).then_some(()))
    })
    .await?;

    // Its data are lost: it waits, whoever starts it, and a masked one is not even looked at.
    laptop.run(&hosts[0], "systemctl mask --now k3s", b"")?;
    let masked = laptop.ssh(&hosts[0], "systemctl start k3s", b"")?;
    let masked = String::from_utf8(masked.stderr)?;
    ensure!(masked.contains("is masked"), "{masked}");
    laptop.run(
        &hosts[0],
        "systemctl unmask k3s; rm -rf /var/lib/rancher",
        b"",
    )?;
    let lost = laptop.ssh(&hosts[0], "systemctl start k3s", b"")?;
    let lost = String::from_utf8(lost.stderr)?;
    ensure!(lost.contains("would found a second cluster"), "{lost}");
    assert_eq!(first.state(), State::Booting);
    bed.shutdown().await;
    Ok(())
}
