//! `fabrik ssh`: the person's own ssh to a node, whose host key is known from the cluster and not from whoever answers first.
//!
//! fabrik becomes ssh, so nothing could remove a temporary file afterwards: what is known of a node is in the user's cache, is
//! written anew from the cluster each time, and is believed by nothing else.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Args;
use fabrik_core::id::{ClusterName, NodeName};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams};
use serde::Deserialize;

use super::Failure;
use super::access::{Access, ClusterOptions, asked_to, part};
use crate::node::host_key;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Where to reach it; else its Node's ExternalIP, else its InternalIP.
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// As whom.
    #[arg(long, value_name = "USER", default_value = "root")]
    user: String,
    /// Your private key, beside those that ssh tries by itself.
    #[arg(long, short, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// The Node's name.
    node: NodeName,
    /// What to run there, as ssh has it; else a shell.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
enum SshError {
    #[error("there is no Node {node}. There are: {known}")]
    NoNode { node: NodeName, known: String },
    #[error(
        "the host key of {node} is not known: its `fabrik agent` has reported none{why}. Nobody is trusted on first use. Look at \
         the agent (`kubectl get fabriknode {node} -o yaml`); until it reports, the machine's console at Hetzner shows the key, \
         `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`"
    )]
    NoKey { node: NodeName, why: &'static str },
    #[error("Node {node} has no address. Give one by --address")]
    NoAddress { node: NodeName },
    #[error("`{address}` is no host to connect to. Give another one by --address")]
    Address { address: String },
    #[error("there is no folder for what is known of hosts: set HOME or XDG_CACHE_HOME")]
    NoCache,
    #[error("{path} can't be given to ssh: its name has a quote or a line break. Set XDG_CACHE_HOME to another folder", path = path.display())]
    Path { path: PathBuf },
    #[error("{path} can't be written: {source}", path = path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("ssh can't be run: {0}. Install OpenSSH's client and have it in PATH")]
    Missing(#[source] std::io::Error),
}

/// What a FabrikNode says, as far as it is needed here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
    ssh_host_keys: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meant {
    uid: String,
}

/// What ssh is started with.
struct Host {
    alias: String,
    address: String,
    known_hosts: String,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let access = options.cluster.open().await?;
    let node = read_node(&access, &options.node).await?;
    let fabrik_node = access.nodes().get_opt(options.node.as_str()).await;
    let fabrik_node = fabrik_node.map_err(asked_to(format!("read FabrikNode {}", options.node)))?;
    let key = host_key_of(&options.node, &node, fabrik_node.as_ref())?;
    let address = match &options.address {
        Some(address) => address.clone(),
        None => address_of(&node).ok_or(SshError::NoAddress {
            node: options.node.clone(),
        })?,
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:%[]".contains(c);
    if address.is_empty() || address.starts_with('-') || !address.chars().all(is_host) {
        return Err(SshError::Address { address }.into());
    }
    let alias = options.node.to_string();
    let file = remember(
        &access.cluster.parse()?,
        &options.node,
        &format!("{alias} {key}\n"),
    )?;
    let host = Host {
        alias,
        address,
        known_hosts: quoted(&file)?,
    };
    match become_ssh(&host, &options)? {}
}

async fn read_node(access: &Access, name: &NodeName) -> Result<Node, Failure> {
    let nodes: Api<Node> = Api::all(access.client.clone());
    let node = nodes.get_opt(name.as_str()).await;
    if let Some(node) = node.map_err(asked_to(format!("read Node {name}")))? {
        return Ok(node);
    }
    let known = nodes.list(&ListParams::default()).await;
    let known = known.map_err(asked_to("list Nodes"))?;
    let names: Vec<String> = known.iter().map(ResourceExt::name_any).collect();
    Err(SshError::NoNode {
        node: name.clone(),
        known: names.join(", "),
    }
    .into())
}

/// The key that this very machine has reported: one of the same name before it may have had another.
fn host_key_of(
    name: &NodeName,
    node: &Node,
    fabrik_node: Option<&DynamicObject>,
) -> Result<String, Failure> {
    let none = |why| SshError::NoKey {
        node: name.clone(),
        why,
    };
    let fabrik_node = fabrik_node.ok_or_else(|| none(", and the leader knows no such node"))?;
    let meant: Meant = part(fabrik_node, "spec")?;
    if node.metadata.uid.as_ref() != Some(&meant.uid) {
        return Err(none(" since a machine of that name joined anew").into());
    }
    let said: Said = part(fabrik_node, "status")?;
    let key = said
        .ssh_host_keys
        .iter()
        .find_map(|key| host_key::bare(key));
    Ok(key.ok_or_else(|| none(""))?)
}

fn address_of(node: &Node) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let of_type = |wanted: &str| {
        let mut found = addresses.iter().filter(|a| a.type_ == wanted);
        found.find(|a| a.address.parse::<IpAddr>().is_ok())
    };
    let found = of_type("ExternalIP").or_else(|| of_type("InternalIP"))?;
    Some(found.address.clone())
}

/// Writes what is known of a node into the user's cache, whole.
fn remember(cluster: &ClusterName, node: &NodeName, line: &str) -> Result<PathBuf, SshError> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let cache = cache.ok_or(SshError::NoCache)?;
    let dir = cache.join("fabrik/known_hosts").join(cluster.as_str());
    let path = dir.join(node.as_str());
    let write = || {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        let mut file = tempfile::NamedTempFile::new_in(&dir)?;
        file.write_all(line.as_bytes())?;
        file.persist(&path)?;
        Ok::<(), std::io::Error>(())
    };
    match write() {
        Ok(()) => Ok(path),
        Err(source) => Err(SshError::File { path, source }),
    }
}

/// A path as ssh's options take it: blanks would end it, and `%` begins what ssh fills in (ssh_config(5), "TOKENS").
fn quoted(path: &Path) -> Result<String, SshError> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(['"', '\n', '\\']));
    let text = text.ok_or_else(|| SshError::Path {
        path: path.to_owned(),
    })?;
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

/// In the place of this process. What is said here counts before the person's own configuration, which decides all else.
fn become_ssh(host: &Host, options: &Options) -> Result<Infallible, SshError> {
    let mut ssh = Command::new("ssh");
    for option in [
        "StrictHostKeyChecking=yes",
        &format!("UserKnownHostsFile={}", host.known_hosts),
        "GlobalKnownHostsFile=/dev/null",
        "KnownHostsCommand=none",
        "VerifyHostKeyDNS=no",
        "UpdateHostKeys=no",
        &format!("HostKeyAlias={}", host.alias),
        "HostKeyAlgorithms=ssh-ed25519",
        // A connection that is open already may be to whoever answered first.
        "ControlPath=none",
    ] {
        ssh.args(["-o", option]);
    }
    ssh.args(["-l", &options.user]);
    if let Some(port) = options.port {
        ssh.args(["-p", &port.to_string()]);
    }
    if let Some(identity) = &options.identity {
        ssh.arg("-i").arg(identity);
    }
    ssh.arg("--").arg(&host.address).args(&options.command);
    Err(SshError::Missing(ssh.exec()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(addresses: &[(&str, &str)]) -> Node {
        let addresses: Vec<_> = addresses
            .iter()
            .map(|(kind, address)| json!({"type": kind, "address": address}))
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "a", "uid": "u"},
            "status": {"addresses": addresses},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_reached_at_its_public_address_or_else_at_its_own() {
        let inner = ("InternalIP", "10.0.1.1");
        for (addresses, expected) in [
            (
                vec![inner, ("ExternalIP", "203.0.113.7")],
                Some("203.0.113.7"),
            ),
            (vec![inner, ("Hostname", "a")], Some("10.0.1.1")),
            (
                vec![("ExternalIP", "-oProxyCommand=x"), inner],
                Some("10.0.1.1"),
            ),
            (vec![], None),
        ] {
            assert_eq!(address_of(&node(&addresses)).as_deref(), expected);
        }
    }

    #[test]
    fn only_the_key_of_this_very_machine_counts() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk";
        let name = "a".parse().unwrap();
        let said = |uid: &str, keys: serde_json::Value| -> DynamicObject {
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"uid": uid},
                "status": {"sshHostKeys": keys}}))
            .unwrap()
        };
        let found = |said: Option<&DynamicObject>| {
            host_key_of(&name, &node(&[]), said).map_err(|error| error.to_string())
        };
        assert_eq!(found(Some(&said("u", json!([key])))).as_deref(), Ok(key));
        for said in [
            None,
            Some(said("former", json!([key]))),
            Some(said(
                "u",
                json!(["* ssh-rsa AAAA", "@cert-authority * ssh-ed25519 A"]),
            )),
            Some(said("u", json!([]))),
        ] {
            let told = found(said.as_ref()).unwrap_err();
            assert!(
                told.contains("is not known") && told.contains("first use"),
                "{told}"
            );
        }
    }

    #[test]
    fn a_path_is_one_word_to_ssh() {
        let shown = |path: &str| quoted(Path::new(path)).ok();
        assert_eq!(shown("/a b/100%").as_deref(), Some("\"/a b/100%%\""));
        assert_eq!(shown("/a\"b"), None);
    }
}
