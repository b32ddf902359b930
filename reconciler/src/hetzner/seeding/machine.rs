//! What a seed does to servers: to the temporary one that an image is written with, and to the first one. Each is looked at
//! right before it is touched, and each action is waited for.

use std::net::Ipv4Addr;
use std::time::Duration;

use fabrik_core::effect::Choice;
use fabrik_core::id::{ClusterId, ServerId};
use fabrik_core::names::{CLUSTER_LABEL, INTENT_LABEL, ROLE_LABEL, WRITTEN_LABEL};
use fabrik_core::observed::Power;
use fabrik_core::seed::{self, Architecture, First, ImageServer, Rescue};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::client::{Client, Purpose};
use super::super::convert::{self, cluster_labels, is_ours};
use super::super::error::{HetznerError, RequestId};
use super::super::execute::server::by_choice;
use super::super::execute::{Outcome, write};
use super::super::wire::{self, Labels, or_default, resource};
use super::action;

/// The role of the temporary server. It is no role of a node, so the leader leaves it alone.
pub const IMAGE_ROLE: &str = "image";
/// What it is made of. Its disk is never booted.
const BASE_IMAGE: &str = "debian-12";

/// This cluster's servers that a seed has to do with.
#[derive(Debug, Default)]
pub struct Machines {
    pub image: Option<(ImageServer, Option<Ipv4Addr>)>,
    pub first: Option<(First, Option<Ipv4Addr>)>,
    /// Whether the cluster has any server but the temporary one.
    pub has_nodes: bool,
}

#[derive(Debug, Deserialize)]
struct Machine {
    id: u64,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    status: String,
    #[serde(default, deserialize_with = "or_default")]
    locked: bool,
    #[serde(default, deserialize_with = "or_default")]
    rescue_enabled: bool,
    #[serde(default, deserialize_with = "or_default")]
    server_type: Type,
    #[serde(default, deserialize_with = "or_default")]
    public_net: PublicNet,
    #[serde(default, deserialize_with = "or_default")]
    labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
struct Type {
    #[serde(default, deserialize_with = "or_default")]
    architecture: String,
}

#[derive(Debug, Default, Deserialize)]
struct PublicNet {
    #[serde(default, deserialize_with = "or_default")]
    ipv4: Option<Ipv4>,
}

#[derive(Debug, Deserialize)]
struct Ipv4 {
    #[serde(default, deserialize_with = "or_default")]
    ip: String,
}

resource!(Machine, "servers", "server");

impl Machine {
    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// One that Hetzner is at work with is neither on nor off.
    fn power(&self) -> Power {
        if self.locked {
            Power::Changing
        } else {
            convert::power(&self.status)
        }
    }

    fn ipv4(&self) -> Option<Ipv4Addr> {
        self.public_net.ipv4.as_ref()?.ip.parse().ok()
    }

    fn is_image_server(&self) -> bool {
        self.label(ROLE_LABEL) == Some(IMAGE_ROLE)
    }
}

/// Looks for both.
pub async fn machines(client: &Client, cluster: &ClusterId) -> Result<Machines, HetznerError> {
    let selector = ("label_selector", format!("{CLUSTER_LABEL}=={cluster}"));
    let all = client
        .list::<Machine>(Some(selector), Purpose::Observe)
        .await?;
    let first_intent = seed::first_intent(cluster);
    let mut machines = Machines::default();
    for machine in all.iter().filter(|m| is_ours(*m, cluster)) {
        let (id, power) = (ServerId(machine.id), machine.power());
        if machine.is_image_server() {
            let rescue = if machine.rescue_enabled {
                Rescue::Armed
            } else {
                Rescue::None
            };
            let server = ImageServer {
                id,
                architecture: Architecture::of_word(&machine.server_type.architecture),
                power,
                rescue,
                written: machine.label(WRITTEN_LABEL).map(str::to_owned),
            };
            machines.image = Some((server, machine.ipv4()));
            continue;
        }
        machines.has_nodes = true;
        if machine.label(INTENT_LABEL) == Some(first_intent.as_str()) {
            machines.first = Some((First { id, power }, machine.ipv4()));
        }
    }
    Ok(machines)
}

/// Makes the temporary server and does not start it. It gets no SSH key, so that only its rescue system lets one in, which
/// is known by the `word` in its user data.
pub async fn create_image_server(
    client: &Client,
    cluster: &ClusterId,
    name: &str,
    word: &str,
    choices: &[Choice],
) -> Result<Outcome, HetznerError> {
    let mut labels = cluster_labels(cluster);
    labels.insert(ROLE_LABEL.to_owned(), IMAGE_ROLE.to_owned());
    let body = |choice: &Choice| {
        json!({
            "name": name,
            "server_type": choice.server_type,
            "location": choice.location,
            "image": BASE_IMAGE,
            "start_after_create": false,
            "user_data": word,
            "labels": labels,
        })
    };
    let meant = |found: &wire::Server| {
        let role = found.labels.get(ROLE_LABEL).map(String::as_str);
        is_ours(found, cluster) && role == Some(IMAGE_ROLE)
    };
    by_choice(client, name, choices, body, meant).await
}

/// Has the next boot be that of the rescue system, which lets in who has `key`.
pub async fn enable_rescue(
    client: &Client,
    cluster: &ClusterId,
    server: ServerId,
    key: u64,
) -> Result<(), HetznerError> {
    let body = json!({"type": "linux64", "ssh_keys": [key]});
    let rescue = Wish {
        action: "enable_rescue",
        body: Some(body),
        words: "arm the rescue system of",
        limit: action::DEADLINE,
    };
    rescue.of_image_server(client, cluster, server).await
}

pub async fn power_off(
    client: &Client,
    cluster: &ClusterId,
    server: ServerId,
) -> Result<(), HetznerError> {
    let off = Wish {
        action: "poweroff",
        body: None,
        words: "power off",
        limit: action::DEADLINE,
    };
    off.of_image_server(client, cluster, server).await
}

/// Of the temporary server, or of the first one.
pub async fn power_on(
    client: &Client,
    cluster: &ClusterId,
    server: ServerId,
) -> Result<(), HetznerError> {
    let on = Wish {
        action: "poweron",
        body: None,
        words: "power on",
        limit: action::DEADLINE,
    };
    let is_meant = |machine: &Machine| {
        machine.is_image_server() || machine.label(ROLE_LABEL) == Some("server")
    };
    on.of(client, cluster, server, is_meant).await
}

/// Labels the temporary server with the digest of what its disk was seen to hold, or with none.
pub async fn mark_written(
    client: &Client,
    cluster: &ClusterId,
    server: ServerId,
    digest: Option<&str>,
) -> Result<(), HetznerError> {
    let what = format!("label server {server}");
    let machine = meant(client, cluster, server, &what, Machine::is_image_server).await?;
    let mut labels = machine.labels;
    labels.remove(WRITTEN_LABEL);
    labels.extend(digest.map(|digest| (WRITTEN_LABEL.to_owned(), digest.to_owned())));
    let body = json!({"labels": labels});
    let path = format!("servers/{server}");
    write(client, Method::PUT, path, Some(&body), what)
        .await
        .map(drop)
}

/// Begins a snapshot of the temporary server's disk, and waits until it is whole.
pub async fn take_snapshot(
    client: &Client,
    cluster: &ClusterId,
    server: ServerId,
    (labels, description): (Labels, String),
) -> Result<(), HetznerError> {
    let snapshot = Wish {
        action: "create_image",
        body: Some(json!({"type": "snapshot", "labels": labels, "description": description})),
        words: "take a snapshot of",
        limit: action::SNAPSHOT_DEADLINE,
    };
    snapshot.of_image_server(client, cluster, server).await
}

/// Deletes the temporary server, whether it runs or not.
pub async fn delete_image_server(
    client: &Client,
    cluster: &ClusterId,
    server: ServerId,
) -> Result<(), HetznerError> {
    let what = format!("delete server {server}");
    meant(client, cluster, server, &what, Machine::is_image_server).await?;
    let path = format!("servers/{server}");
    let answer = write(client, Method::DELETE, path, None, what.clone()).await?;
    action::ended(client, &answer, &what, action::DEADLINE).await
}

/// An action of a server, as Hetzner takes it, and what people call it.
struct Wish {
    action: &'static str,
    body: Option<Value>,
    words: &'static str,
    limit: Duration,
}

impl Wish {
    async fn of_image_server(
        self,
        client: &Client,
        cluster: &ClusterId,
        server: ServerId,
    ) -> Result<(), HetznerError> {
        self.of(client, cluster, server, Machine::is_image_server)
            .await
    }

    async fn of(
        self,
        client: &Client,
        cluster: &ClusterId,
        server: ServerId,
        is_meant: impl Fn(&Machine) -> bool,
    ) -> Result<(), HetznerError> {
        let what = format!("{} server {server}", self.words);
        meant(client, cluster, server, &what, is_meant).await?;
        let path = format!("servers/{server}/actions/{}", self.action);
        let answer = write(client, Method::POST, path, self.body.as_ref(), what.clone()).await?;
        action::ended(client, &answer, &what, self.limit).await
    }
}

/// The server as it is now, if it is this cluster's and the one that is meant.
async fn meant(
    client: &Client,
    cluster: &ClusterId,
    server: ServerId,
    what: &str,
    is_meant: impl Fn(&Machine) -> bool,
) -> Result<Machine, HetznerError> {
    let found = client.get::<Machine>(server.0, Purpose::Act).await?;
    match found {
        Some(machine) if is_ours(&machine, cluster) && is_meant(&machine) => Ok(machine),
        Some(machine) => Err(HetznerError::NotOurs {
            what: what.to_owned(),
            problem: convert::holder(&machine),
        }),
        None => Err(HetznerError::NotFound {
            what: what.to_owned(),
            message: "it was there a moment ago".to_owned(),
            id: RequestId::default(),
        }),
    }
}
