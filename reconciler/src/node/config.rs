//! The configuration file of `fabrik agent`. It holds no secret.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fabrik_core::id::{ClusterId, ClusterName, NodeName};
use serde::{Deserialize, Serialize};

use super::boot::{Layout, Machine, Tools};
use super::programs::Programs;
use crate::config::{self, ConfigError};
use crate::signing::PublicKey;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AgentConfig {
    /// The Node that this machine is, and the FabrikNode that it reads and reports in.
    pub node: NodeName,
    /// Holds the journal and what keeps systems from Nix' garbage collection.
    pub state_dir: PathBuf,
    /// Where the machine's files are: another folder than `/` where it only looks like a machine.
    #[serde(default = "root")]
    pub root: PathBuf,
    pub kubeconfig: PathBuf,
    /// Where Nix finds the leader's cache on this machine.
    pub front: SocketAddr,
    pub cluster: Cluster,
    pub cache: Cache,
    pub nix: Nix,
    #[serde(default)]
    pub boot: Boot,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cluster {
    pub name: ClusterName,
    pub id: ClusterId,
    /// Half of the key that publications and the leader's cache are signed with.
    pub public_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cache {
    /// The caches of the servers; any of them may have built.
    pub urls: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Nix {
    /// Looked in before PATH, for Nix and all other programs.
    pub program_dir: PathBuf,
    /// `--store`, where it is not the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<PathBuf>,
}

/// Where the boot loader's files are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Boot {
    pub folder: PathBuf,
    /// boot.loader.efi.efiSysMountPoint
    pub esp: PathBuf,
}

impl Default for Boot {
    fn default() -> Self {
        let Layout { boot, esp } = Layout::default();
        Self { folder: boot, esp }
    }
}

impl AgentConfig {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = config::read(path, "the NixOS module")?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Reads and checks `text`; `file` is what errors call it.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        config::parse(file, text, Self::faults)
    }

    pub fn programs(&self) -> Programs {
        Programs::new(&self.nix.program_dir)
    }

    /// The machine as its boot loader is seen.
    pub fn machine(&self) -> Machine {
        let programs = self.programs();
        let tools = Tools {
            nix_env: programs.find("nix-env"),
            nixos_rebuild: programs.find("nixos-rebuild"),
            grub_reboot: programs.find("grub-reboot"),
            grub_editenv: programs.find("grub-editenv"),
            bootctl: programs.find("bootctl"),
            df: programs.find("df"),
            mount: programs.find("mount"),
            sync: programs.find("sync"),
        };
        let layout = Layout {
            boot: self.boot.folder.clone(),
            esp: self.boot.esp.clone(),
        };
        Machine::new(self.root.clone(), layout, tools)
    }

    /// `path`, absolute on the machine, as it is found below the root.
    pub fn on_machine(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Err(problem) = self.cluster.public_key.parse::<PublicKey>() {
            let key = &self.cluster.public_key;
            faults.push(format!("cluster.public-key: `{key}` {problem}"));
        }
        if !self.front.ip().is_loopback() {
            let front = self.front;
            faults.push(format!(
                "front: {front} is no loopback address, and who reaches it reads the cache as this node"
            ));
        }
        for url in &self.cache.urls {
            if !url.starts_with("https://") || url.parse::<http::Uri>().is_err() {
                faults.push(format!("cache.urls: `{url}` is no https:// URL"));
            }
        }
        faults
    }
}

fn root() -> PathBuf {
    PathBuf::from("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
node = "demo-workers-k3x9qd"
state-dir = "/var/lib/fabrik-agent"
kubeconfig = "/var/lib/rancher/k3s/agent/kubelet.kubeconfig"
front = "127.0.0.1:9644"
[cluster]
name = "demo"
id = "abcdefgh01234567"
public-key = "fabrik-demo-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
[cache]
urls = ["https://10.0.0.2:9642"]
[nix]
program-dir = "/run/current-system/sw/bin"
"#;

    #[test]
    fn what_is_not_said_is_as_on_a_nixos() {
        let config = AgentConfig::parse("f", GOOD).unwrap();
        assert_eq!(config.root, Path::new("/"));
        assert_eq!(config.boot.esp, Path::new("/boot"));
        assert_eq!(config.nix.store, None);
    }

    #[test]
    fn all_faults_are_said_at_once_and_an_unknown_key_with_its_line() {
        let text = GOOD
            .replace("127.0.0.1", "0.0.0.0")
            .replace("https://", "http://")
            .replace("AAA=", "");
        let error = AgentConfig::parse("f", &text).unwrap_err().to_string();
        for part in [
            "public-key: `fabrik-demo-1:",
            "0.0.0.0:9644 is no loopback address",
            "`http://10.0.0.2:9642` is no https:// URL",
        ] {
            assert!(error.contains(part), "{error}");
        }
        let text = GOOD.replace("front =", "fornt =");
        let error = AgentConfig::parse("agent.toml", &text).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("agent.toml:5:1: unknown field `fornt`"),
            "{error}"
        );
    }
}
