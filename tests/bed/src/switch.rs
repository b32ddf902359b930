//! Hetzner's private networks: a place of its own in the kernel with a bridge for each, into which machines are plugged.
//!
//! Nothing of it is in this host's own network, so that beds stand side by side, all with 10.0.0.0/16.

use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::namespaces::{Entrance, Namespaces, Settings};
use crate::process::Dirs;

/// Lasts until it is dropped.
#[derive(Debug)]
pub struct Switch {
    namespaces: Namespaces,
    plugged: AtomicU32,
}

/// A machine's place in a private network, as Hetzner's metadata service lists it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Port {
    pub ip: Ipv4Addr,
    pub network_id: u64,
    /// The whole network.
    pub network: String,
}

/// The first of those that the metadata service lists, if there is one yet.
pub fn port(metadata: &str) -> Result<Option<Port>> {
    let ports: Option<Vec<Port>> = serde_saphyr::from_str(metadata).context("private-networks")?;
    Ok(ports.into_iter().flatten().next())
}

impl Switch {
    pub async fn start(dir: &Path, dirs: &Dirs) -> Result<Self> {
        let namespaces = Namespaces::start(Settings {
            name: "switch",
            script: ": >\"$1\"; exec sleep infinity",
            arguments: Vec::new(),
            network: true,
            dir,
            dirs,
        })
        .await?;
        Ok(Self {
            namespaces,
            plugged: AtomicU32::new(0),
        })
    }

    /// Gives a machine its address in a private network. It is unplugged when its network ends.
    pub fn plug(&self, machine: Entrance, port: &Port) -> Result<()> {
        let (bridge, cable) = (
            format!("net{}", port.network_id),
            format!("port{}", self.plugged.fetch_add(1, Ordering::Relaxed)),
        );
        let Port { ip, network, .. } = port;
        let machine_pid = machine.pid().as_raw_nonzero();
        let switch = self.namespaces.entrance();
        // Another machine may have made it.
        let _ = configure(switch, &format!("link add {bridge} type bridge\n"));
        configure(
            switch,
            &format!(
                "link set {bridge} up\n\
                 link add {cable} type veth peer name eth1 netns {machine_pid}\n\
                 link set {cable} master {bridge} up\n"
            ),
        )?;
        configure(
            machine,
            &format!(
                "address add {ip}/32 dev eth1\n\
                 link set eth1 up\n\
                 route add {network} dev eth1 src {ip}\n"
            ),
        )
    }
}

/// Runs lines of `ip` in a network.
pub fn configure(network: Entrance, lines: &str) -> Result<()> {
    let mut child = network
        .in_network("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip (package iproute2)")?;
    let mut stdin = child.stdin.take().context("standard input of ip")?;
    stdin.write_all(lines.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}: {lines}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_a_private_network_has_no_port_yet() {
        assert_eq!(port("").unwrap(), None);
        assert_eq!(port("[]").unwrap(), None);
        let listed = "- ip: 10.0.1.3\n  alias_ips: []\n  interface_num: 1\n  network_id: 7\n  network: 10.0.0.0/16\n";
        let expected = Port {
            ip: Ipv4Addr::new(10, 0, 1, 3),
            network_id: 7,
            network: "10.0.0.0/16".to_owned(),
        };
        assert_eq!(port(listed).unwrap(), Some(expected));
    }
}
