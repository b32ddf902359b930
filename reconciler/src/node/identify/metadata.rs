//! Hetzner's metadata service, as a server sees it (docs.hetzner.cloud, "Server Metadata"): plain text, YAML and the
//! user data.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

const REQUEST_LIMIT: Duration = Duration::from_secs(3);

/// What is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    pub instance_id: u64,
    pub addresses: Addresses,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Addresses {
    pub private: Ipv4Addr,
    pub public: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6>,
}

/// Hetzner routes a /64 to a server and announces nothing: the address has to be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Ipv6 {
    pub mac: String,
    /// With its prefix length.
    pub address: String,
    pub gateway: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    instance_id: u64,
    /// Empty where there is none.
    public_ipv4: Option<String>,
    #[serde(default)]
    network_config: NetworkConfig,
}

/// As cloud-init has it, version 1.
#[derive(Default, Deserialize)]
struct NetworkConfig {
    #[serde(default)]
    config: Vec<Interface>,
}

#[derive(Deserialize)]
struct Interface {
    mac_address: Option<String>,
    #[serde(default)]
    subnets: Vec<Subnet>,
}

#[derive(Deserialize)]
struct Subnet {
    address: Option<String>,
    gateway: Option<String>,
    #[serde(default)]
    ipv6: bool,
}

#[derive(Deserialize)]
struct PrivateNetwork {
    ip: Ipv4Addr,
}

/// All of it but the user data, or why it is not there yet.
pub async fn read(url: &str) -> Result<Metadata, String> {
    let document = get(url, "metadata").await?;
    let networks = get(url, "metadata/private-networks").await?;
    parse(&document, &networks)
}

/// Empty where the server was created without any.
pub async fn user_data(url: &str) -> Result<String, String> {
    let answer = ask(url, "userdata").await?;
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(String::new());
    }
    text(answer, "userdata").await
}

pub async fn instance_id(url: &str) -> Result<u64, String> {
    let text = get(url, "metadata/instance-id").await?;
    let id = text.trim().parse();
    id.map_err(|_| format!("instance-id: `{text}` is no number"))
}

fn parse(document: &str, networks: &str) -> Result<Metadata, String> {
    let document: Document = yaml("metadata", document)?;
    // Nothing at all where there is none.
    let networks: Option<Vec<PrivateNetwork>> = yaml("private-networks", networks)?;
    let private = networks.into_iter().flatten().next();
    let private = private.ok_or("the server is in no private network")?;
    let public = document.public_ipv4.filter(|text| !text.is_empty());
    let public = public.map(|text| text.parse()).transpose();
    let public = public.map_err(|error| format!("metadata: public-ipv4: {error}"))?;
    Ok(Metadata {
        instance_id: document.instance_id,
        addresses: Addresses {
            private: private.ip,
            public,
            ipv6: ipv6(document.network_config),
        },
    })
}

/// The document holds vendor data, and so perhaps a password: an error says where, and quotes nothing.
fn yaml<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| format!("{name}: {}", error.without_snippet()))
}

/// The interface without a MAC is a second name of the one before it.
fn ipv6(network: NetworkConfig) -> Option<Ipv6> {
    let mut mac = None;
    for interface in network.config {
        mac = interface.mac_address.or(mac);
        let subnet = interface.subnets.into_iter().find(|subnet| subnet.ipv6);
        if let Some(Subnet {
            address: Some(address),
            gateway: Some(gateway),
            ..
        }) = subnet
        {
            let mac = mac?;
            return Some(Ipv6 {
                mac,
                address,
                gateway,
            });
        }
    }
    None
}

async fn get(url: &str, path: &str) -> Result<String, String> {
    text(ask(url, path).await?, path).await
}

async fn ask(url: &str, path: &str) -> Result<reqwest::Response, String> {
    // Plain HTTP, on a machine that may know no authority.
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(REQUEST_LIMIT)
        .build();
    let client = client.map_err(|error| error.to_string())?;
    let url = format!("{}/{path}", url.trim_end_matches('/'));
    let answer = client.get(url).send().await;
    answer.map_err(|error| format!("{path}: {error}"))
}

async fn text(answer: reqwest::Response, path: &str) -> Result<String, String> {
    // The URL is no secret, and what it answers is not in the error.
    let answer = answer.error_for_status();
    let answer = answer.map_err(|error| format!("{path}: {error}"))?;
    let text = answer.text().await;
    text.map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORKS: &str = "- ip: 10.0.1.3\n  alias_ips: []\n  interface_num: 1\n  mac_address: 86:00:00:00:00:02\n  \
         network_id: 7\n  network_name: demo\n  network: 10.0.0.0/16\n  subnet: 10.0.1.0/24\n  gateway: 10.0.0.1\n";

    #[test]
    fn metadata_is_read_as_hetzner_writes_it() {
        let document = "availability-zone: fsn1-dc14\nhostname: demo-workers-k3x9qd\ninstance-id: 42\nlocal-ipv4: ''\n\
            network-config:\n  config:\n  - mac_address: 96:00:00:00:00:01\n    name: eth0\n    subnets:\n    \
            - dns_nameservers:\n      - 185.12.64.1\n      ipv4: true\n      type: dhcp\n    type: physical\n  \
            - name: eth0:0\n    subnets:\n    - address: 2001:db8:1::1/64\n      gateway: fe80::1\n      ipv6: true\n      \
            type: static\n    type: physical\n  version: 1\npublic-ipv4: 203.0.113.7\nregion: eu-central\n";
        let expected = Metadata {
            instance_id: 42,
            addresses: Addresses {
                private: Ipv4Addr::new(10, 0, 1, 3),
                public: Some(Ipv4Addr::new(203, 0, 113, 7)),
                ipv6: Some(Ipv6 {
                    mac: "96:00:00:00:00:01".to_owned(),
                    address: "2001:db8:1::1/64".to_owned(),
                    gateway: "fe80::1".to_owned(),
                }),
            },
        };
        assert_eq!(parse(document, NETWORKS).unwrap(), expected);
    }

    #[test]
    fn a_server_without_a_private_network_is_not_ready_yet() {
        for networks in ["", "[]", "# none\n"] {
            let problem = parse("instance-id: 42\n", networks).unwrap_err();
            assert!(problem.contains("private network"), "{problem}");
        }
        let metadata = parse("instance-id: 42\n", NETWORKS).unwrap();
        assert_eq!(metadata.addresses.ipv6, None);
    }

    #[test]
    fn a_server_without_a_public_address_has_an_empty_text_for_it() {
        for none in ["''", "", "~"] {
            let document = format!("instance-id: 42\npublic-ipv4: {none}\n");
            let metadata = parse(&document, NETWORKS).unwrap();
            assert_eq!(metadata.addresses.public, None);
        }
        let problem = parse("instance-id: 42\npublic-ipv4: x\n", NETWORKS).unwrap_err();
        assert!(problem.contains("public-ipv4"), "{problem}");
    }

    #[test]
    fn what_can_not_be_read_is_not_quoted() {
        let vendor_data = "vendor_data: 'password: hunter2'\n";
        let document = format!("{vendor_data}instance-id: none\n{vendor_data}");
        let problem = parse(&document, NETWORKS).unwrap_err();
        assert!(problem.starts_with("metadata: "), "{problem}");
        assert!(!problem.contains("hunter2"), "{problem}");
    }
}
