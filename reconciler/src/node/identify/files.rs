//! The files that a machine is started with, as text.

use std::net::Ipv4Addr;

use fabrik_core::id::NodeName;
use serde::Serialize;

use super::kept::{Identity, STATE_DIR, TOKEN};
use crate::node::config::{self, AgentConfig, Boot};

/// k3s reads all of this folder beside its `config.yaml` (docs.k3s.io, "Configuration File").
pub const K3S_DIR: &str = "etc/rancher/k3s/config.yaml.d";
/// In it, and k3s' own unit's (nixos/k3s.nix).
pub const INTERFACE: &str = "60-interface.yaml";
pub const K3S: &str = "etc/rancher/k3s/config.yaml.d/50-fabrik.yaml";
pub const AGENT: &str = "etc/fabrik/agent.toml";
const HOSTNAME: &str = "etc/fabrik/hostname";
/// Of nixos/network.nix; a person may have changed it there.
pub const NETWORK_OF_ALL: &str = "etc/systemd/network/10-fabrik.network";
/// Read by systemd-networkd in place of that one, for the public interface; gone at the next boot, and written again.
const NETWORK: &str = "run/systemd/network/05-fabrik-public.network";
const FRONT_PORT: u16 = 9644;

/// How k3s comes to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum K3s<'a> {
    /// At this supervisor.
    Joins(&'a str),
    /// It makes one. Said once, and to one server.
    Founds,
    /// It goes on with what it has. Without any data it does not start (nixos/k3s.nix).
    Goes,
}

/// All of them, each with its path below the machine's root. `network` is what holds for all interfaces.
pub fn of(identity: &Identity, told: K3s<'_>, network: &str) -> Vec<(&'static str, String)> {
    let mut files = vec![
        (K3S, k3s(identity, told)),
        (HOSTNAME, format!("{}\n", identity.node)),
    ];
    files.extend(agent(identity).map(|text| (AGENT, text)));
    files.extend(public_interface(identity, network).map(|text| (NETWORK, text)));
    files
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Arguments<'a> {
    node_name: &'a NodeName,
    node_ip: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_external_ip: Option<Ipv4Addr>,
    /// Of servers. k3s would tell others the external one (docs.k3s.io/cli/server), which firewalls keep them from.
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise_address: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cluster_init: bool,
    token_file: String,
    node_label: &'a [String],
    node_taint: &'a [String],
    /// Added to those of other files, where without the plus it would stand in their place.
    #[serde(rename = "kubelet-arg+")]
    kubelet_arg: [String; 1],
}

/// `server:` and `cluster-init:` are at the start of a line: the NixOS modules look for them before they start k3s.
pub fn k3s(identity: &Identity, told: K3s<'_>) -> String {
    let private = identity.addresses.private;
    let config = Arguments {
        node_name: &identity.node,
        node_ip: private,
        node_external_ip: identity.addresses.public,
        advertise_address: identity.control_plane.as_ref().map(|_| private),
        server: match told {
            K3s::Joins(server) => Some(server),
            K3s::Founds | K3s::Goes => None,
        },
        cluster_init: told == K3s::Founds,
        token_file: format!("/{STATE_DIR}/{TOKEN}"),
        node_label: &identity.labels,
        node_taint: &identity.taints,
        kubelet_arg: [format!(
            "provider-id={}",
            identity.server_id().provider_id()
        )],
    };
    // Texts and lists of texts: nothing in it has no YAML.
    serde_saphyr::to_string(&config).unwrap_or_default()
}

pub fn agent(identity: &Identity) -> Option<String> {
    let config = AgentConfig {
        node: identity.node.clone(),
        state_dir: "/var/lib/fabrik-agent".into(),
        root: "/".into(),
        kubeconfig: "/var/lib/rancher/k3s/agent/kubelet.kubeconfig".into(),
        front: ([127, 0, 0, 1], FRONT_PORT).into(),
        cluster: identity.agent.clone()?,
        cache: config::Cache {
            urls: identity.cache_urls.clone(),
        },
        nix: config::Nix {
            program_dir: "/run/current-system/sw/bin".into(),
            store: None,
        },
        boot: Boot::default(),
    };
    // Paths and texts: nothing in it has no TOML.
    toml::to_string(&config).ok()
}

/// networkd takes the first file that matches an interface and no other, so all that `network` says is in this one too.
fn public_interface(identity: &Identity, network: &str) -> Option<String> {
    let ipv6 = identity.addresses.ipv6.as_ref()?;
    let mut of_match = false;
    let others = network.lines().filter(|line| {
        let line = line.trim();
        if line.starts_with('[') {
            of_match = line == "[Match]";
        }
        !of_match
    });
    let others: String = others.map(|line| format!("{line}\n")).collect();
    Some(format!(
        "[Match]\nMACAddress={}\n\n[Network]\nDHCP=ipv4\nAddress={}\nGateway={}\n\n{others}",
        ipv6.mac, ipv6.address, ipv6.gateway
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::super::kept::ControlPlane;
    use super::super::metadata::{Addresses, Ipv6};
    use super::*;

    pub fn identity() -> Identity {
        Identity {
            server: 42,
            addresses: Addresses {
                private: "10.0.1.3".parse().unwrap(),
                public: Some("203.0.113.7".parse().unwrap()),
                ipv6: Some(Ipv6 {
                    mac: "96:00:00:00:00:01".to_owned(),
                    address: "2001:db8:1::1/64".to_owned(),
                    gateway: "fe80::1".to_owned(),
                }),
            },
            agent: Some(config::Cluster {
                name: "demo".parse().unwrap(),
                id: "abcdefgh01234567".parse().unwrap(),
                public_key: "fabrik-demo-1:l7HQMPq1P9pXkdFeoCXiKGVPCgIiIjYF8QxhF4K7dKE=".to_owned(),
            }),
            cache_urls: vec!["https://10.0.1.1:9642".to_owned()],
            node: "demo-workers-k3x9qd".parse().unwrap(),
            servers: vec!["https://10.0.1.1:6443".to_owned()],
            labels: vec!["tier=web".to_owned()],
            taints: vec!["dedicated=web:NoSchedule".to_owned()],
            control_plane: None,
        }
    }

    fn text(files: &[(&str, String)], path: &str) -> String {
        let file = files.iter().find(|(of, _)| *of == path);
        file.unwrap_or_else(|| panic!("{path}")).1.clone()
    }

    #[test]
    fn k3s_is_told_all_that_differs_from_node_to_node() {
        let files = of(&identity(), K3s::Joins("https://10.0.1.2:6443"), "");
        let written = text(&files, K3S);
        assert!(written.contains("\nserver: "), "{written}");
        let config: Value = serde_saphyr::from_str(&written).unwrap();
        let expected = json!({
            "node-name": "demo-workers-k3x9qd", "node-ip": "10.0.1.3", "node-external-ip": "203.0.113.7",
            "server": "https://10.0.1.2:6443", "token-file": "/var/lib/fabrik-identity/token",
            "node-label": ["tier=web"], "node-taint": ["dedicated=web:NoSchedule"],
            "kubelet-arg+": ["provider-id=hcloud://42"],
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn a_server_tells_its_private_address_and_founds_where_it_is_told_to() {
        let server = Identity {
            control_plane: Some(ControlPlane {
                name: "demo".parse().unwrap(),
                id: "abcdefgh01234567".parse().unwrap(),
                is_first: true,
            }),
            ..identity()
        };
        let founds = k3s(&server, K3s::Founds);
        assert!(founds.contains("\ncluster-init: true\n"), "{founds}");
        assert!(!founds.contains("server:"), "{founds}");
        let goes = k3s(&server, K3s::Goes);
        assert!(!goes.contains("cluster-init") && !goes.contains("server:"));
        let config: Value = serde_saphyr::from_str(&goes).unwrap();
        assert_eq!(config["advertise-address"], "10.0.1.3");
        let worker = k3s(&identity(), K3s::Goes);
        assert!(!worker.contains("advertise-address"), "{worker}");
    }

    #[test]
    fn the_public_interface_is_as_all_others_and_has_its_address() {
        let all = "[Match]\nKind=!*\nType=ether\n\n[Network]\nIPv6AcceptRA=false\nDNS=192.0.2.1\n\n[DHCPv4]\nUseHostname=false\n";
        let written = text(&of(&identity(), K3s::Goes, all), NETWORK);
        let expected = "[Match]\nMACAddress=96:00:00:00:00:01\n\n[Network]\nDHCP=ipv4\nAddress=2001:db8:1::1/64\n\
                        Gateway=fe80::1\n\n[Network]\nIPv6AcceptRA=false\nDNS=192.0.2.1\n\n[DHCPv4]\nUseHostname=false\n";
        assert_eq!(written, expected);
    }

    #[test]
    fn the_agent_reads_what_is_written_for_it() {
        let files = of(&identity(), K3s::Goes, "");
        let config = AgentConfig::parse("agent.toml", &text(&files, AGENT)).unwrap();
        assert_eq!(config.node, identity().node);
        assert_eq!(config.cluster, identity().agent.unwrap());
        let keyless = Identity {
            agent: None,
            ..identity()
        };
        let files = of(&keyless, K3s::Goes, "");
        assert!(!files.iter().any(|(path, _)| *path == AGENT));
    }
}
