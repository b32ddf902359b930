//! What k3s is told by the files of its configuration folder.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

const DROP_INS: &str = "etc/rancher/k3s/config.yaml.d";
const PROVIDER_ID: &str = "provider-id=";

/// The keys that mean something here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Config {
    pub node_name: String,
    pub node_ip: Option<Ipv4Addr>,
    pub node_external_ip: Option<Ipv4Addr>,
    /// Where to join.
    pub server: Option<String>,
    pub token_file: Option<PathBuf>,
    pub cluster_init: bool,
    pub node_label: Vec<String>,
    pub node_taint: Vec<String>,
    pub kubelet_arg: Vec<String>,
}

impl Config {
    /// Reads the folder below a machine's root.
    pub fn load(root: &Path) -> Result<Self> {
        let dir = root.join(DROP_INS);
        let mut files = Vec::new();
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
                files.push(path);
            }
        }
        files.sort();
        let mut texts = Vec::new();
        for path in files {
            let text = fs::read_to_string(&path);
            texts.push(text.with_context(|| format!("reading {}", path.display()))?);
        }
        Self::parse(&texts)
    }

    /// Later files have the say, save where a key ends in a plus (docs.k3s.io, "Configuration File").
    fn parse(texts: &[String]) -> Result<Self> {
        let mut whole = Map::new();
        for text in texts {
            let file: Option<Map<String, Value>> = serde_saphyr::from_str(text)?;
            for (key, value) in file.into_iter().flatten() {
                match (key.strip_suffix('+'), value) {
                    (Some(key), Value::Array(more)) => {
                        let known = whole.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                        if let Value::Array(known) = known {
                            known.extend(more);
                        }
                    }
                    (_, value) => {
                        whole.insert(key, value);
                    }
                }
            }
        }
        serde_json::from_value(Value::Object(whole)).context("k3s' configuration")
    }

    pub fn provider_id(&self) -> Option<&str> {
        let mut arguments = self.kubelet_arg.iter();
        arguments.find_map(|argument| argument.strip_prefix(PROVIDER_ID))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_have_the_say_and_a_plus_adds() {
        let config = Config::parse(&[
            "server: https://10.0.1.1:6443\nkubelet-arg:\n- a=b\n".to_owned(),
            String::new(),
            "server: https://10.0.1.2:6443\nnode-name: s-2\nkubelet-arg+:\n- provider-id=hcloud://7\n"
                .to_owned(),
            "flannel-iface: eth1\n".to_owned(),
        ])
        .unwrap();
        assert_eq!(config.server.as_deref(), Some("https://10.0.1.2:6443"));
        assert_eq!(config.kubelet_arg, ["a=b", "provider-id=hcloud://7"]);
        assert_eq!(config.provider_id(), Some("hcloud://7"));
        assert!(!config.cluster_init);
    }
}
