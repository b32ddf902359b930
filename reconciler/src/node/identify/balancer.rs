//! The servers that a worker's k3s knew last: its load balancer keeps them on the disk, as the API server names them while it
//! runs (k3s-io/k3s, pkg/agent/loadbalancer/config.go). A machine's first boot knows those of that day alone.

use std::fs;
use std::path::Path;

use reqwest::Url;
use serde::Deserialize;

const PATH: &str = "var/lib/rancher/k3s/agent/etc/k3s-agent-load-balancer.json";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Balancer {
    /// Where it was told to join. Told the same once more, k3s goes on with all that it knows, and else with that one alone.
    #[serde(rename = "ServerURL")]
    server_url: String,
    /// With a port, each.
    server_addresses: Option<Vec<String>>,
}

/// Empty where k3s has not run yet, or has left half of it: then it begins anew as well.
pub fn read(root: &Path) -> Balancer {
    let text = fs::read(root.join(PATH)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

impl Balancer {
    /// Where to ask, the newest first; `told` is from the first boot.
    pub fn servers(&self, told: &[String]) -> Vec<String> {
        let addresses = self.server_addresses.iter().flatten();
        let known = addresses.map(|address| format!("https://{address}"));
        let known = known.chain([self.server_url.clone()]);
        let mut servers: Vec<String> = Vec::new();
        for server in known.filter(is_url).chain(told.iter().cloned()) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers
    }

    /// Where k3s finds its own way, if there is one.
    pub fn joined_at(&self) -> Option<&String> {
        Some(&self.server_url).filter(|url| is_url(url))
    }
}

#[allow(clippy::ptr_arg, reason = "a filter's")]
fn is_url(text: &String) -> bool {
    text.parse::<Url>().is_ok_and(|url| url.scheme() == "https")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_k3s_knew_last_comes_before_what_it_was_told_first() {
        let root = tempfile::tempdir().unwrap();
        let told = ["https://10.0.1.1:6443".to_owned()];
        let file = root.path().join(PATH);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        for (text, expected, joined_at) in [
            ("", &["1"][..], None),
            ("{\"ServerURL\": \"https://10.0.1", &["1"], None),
            (
                r#"{"ServerURL": "https://10.0.1.1:6443", "ServerAddresses": null}"#,
                &["1"],
                Some("1"),
            ),
            (
                r#"{"ServerURL": "https://10.0.1.2:6443", "ServerAddresses": ["10.0.1.3:6443", "10.0.1.1:6443"]}"#,
                &["3", "1", "2"],
                Some("2"),
            ),
        ] {
            fs::write(&file, text).unwrap();
            let balancer = read(root.path());
            let url = |last: &&str| format!("https://10.0.1.{last}:6443");
            let expected: Vec<String> = expected.iter().map(url).collect();
            assert_eq!(balancer.servers(&told), expected, "{text}");
            assert_eq!(balancer.joined_at().cloned(), joined_at.as_ref().map(url));
        }
    }
}
