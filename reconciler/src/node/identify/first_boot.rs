//! The first boot: what a machine was created with, and what it is then given, becomes what it keeps.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use fabrik_core::id::ServerId;
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::kept::{ControlPlane, Identity, STATE_DIR, keep, keep_token};
use super::metadata::{self, Metadata};
use super::{ByHand, IdentifyError, RETRY_PAUSE};
use crate::cluster::user_data::{self, ServerData, UserData};
use crate::handover::{self, Bundle, FirstServer, HandoverError, first_server};
use crate::join::{self, Door};
use crate::node::secrets::key;
use crate::node::{NodeError, config};

/// The network may come up late, and a server's private network later still.
const METADATA_LIMIT: Duration = Duration::from_secs(300);

/// The secrets first: where there is an identity, all of it is there. `None`: the user data are none of fabrik's.
pub async fn first_boot(
    url: &str,
    root: &Path,
    by_hand: ByHand,
) -> Result<Option<Identity>, IdentifyError> {
    let text = patiently(url, async || metadata::user_data(url).await).await?;
    let Some(given) = parse(&text, by_hand)? else {
        return Ok(None);
    };
    let metadata = patiently(url, async || metadata::read(url).await).await?;
    let identity = match given {
        Given::Agent(user_data) => {
            keep_token(root, &user_data.token)?;
            of_agent(user_data, metadata)
        }
        Given::Server(user_data) => server(root, user_data, metadata).await?,
        Given::FirstServer(user_data) => {
            let met =
                handover::host_key::meet(root, &user_data.host_key, &user_data.authorized_key);
            met.await.map_err(Box::new)?;
            of_first_server(user_data, metadata)
        }
    };
    keep(root, &identity)?;
    Ok(Some(identity))
}

/// One that joins the control plane, with all that it was given.
pub(super) async fn server(
    root: &Path,
    user_data: ServerData,
    metadata: Metadata,
) -> Result<Identity, IdentifyError> {
    let bundle = ask(root, &user_data).await?;
    handover::place(root, &bundle).map_err(Box::new)?;
    Ok(of_server(user_data, bundle.k3s_server_urls, metadata))
}

/// What this server of the control plane is given by those that are there. It shows an identity that is made once: a
/// machine that asks again, because it was cut off, is the same one.
async fn ask(root: &Path, user_data: &ServerData) -> Result<Bundle, IdentifyError> {
    let key = key::ensure(&root.join(STATE_DIR))?;
    let recipient = key::recipient(&key).map_err(|error| NodeError::Malformed {
        path: root.join(STATE_DIR),
        problem: error.to_string(),
    })?;
    let request = join::Request {
        nonce: user_data.nonce.clone(),
        node_name: user_data.node_name.clone(),
        age_recipient: recipient,
    };
    let door = Door {
        urls: &user_data.join_urls,
        ca_hash: &user_data.ca_hash,
        public_key: user_data.public_key.as_deref(),
    };
    let bundle = join::ask(door, &request, &key).await;
    let (ours, theirs) = (&user_data.cluster_id, &bundle.cluster.id);
    if ours != theirs {
        return Err(Box::new(HandoverError::OtherCluster {
            ours: ours.to_string(),
            theirs: theirs.to_string(),
        })
        .into());
    }
    Ok(bundle)
}

pub(super) fn of_agent(user_data: UserData, metadata: Metadata) -> Identity {
    let agent = user_data.public_key.map(|public_key| config::Cluster {
        name: user_data.cluster_name,
        id: user_data.cluster_id,
        public_key,
    });
    Identity {
        server: metadata.instance_id,
        addresses: metadata.addresses,
        agent,
        cache_urls: user_data.cache_urls,
        node: user_data.node_name,
        servers: user_data.servers,
        labels: labels_of(user_data.labels),
        taints: user_data.taints,
        control_plane: None,
    }
}

fn of_server(user_data: ServerData, servers: Vec<String>, metadata: Metadata) -> Identity {
    let mut identity = Identity {
        server: metadata.instance_id,
        addresses: metadata.addresses,
        agent: None,
        cache_urls: user_data.cache_urls,
        node: user_data.node_name,
        servers,
        labels: labels_of(user_data.labels),
        taints: user_data.taints,
        control_plane: Some(ControlPlane {
            name: user_data.cluster_name,
            id: user_data.cluster_id,
            is_first: false,
        }),
    };
    if let Some(public_key) = &user_data.public_key {
        identity.trust(public_key);
    }
    identity
}

/// As k3s takes them.
fn labels_of(labels: BTreeMap<String, String>) -> Vec<String> {
    let labels = labels.into_iter();
    labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

fn of_first_server(user_data: FirstServer, metadata: Metadata) -> Identity {
    Identity::of_first_server(
        ServerId(metadata.instance_id),
        metadata.addresses,
        user_data.node_name,
        (user_data.cluster_name, user_data.cluster_id),
    )
}

async fn patiently<T>(
    url: &str,
    mut read: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, IdentifyError> {
    let began = Instant::now();
    let mut said = String::new();
    loop {
        let problem = match read().await {
            Ok(found) => return Ok(found),
            Err(problem) => problem,
        };
        if began.elapsed() >= METADATA_LIMIT {
            let url = url.to_owned();
            return Err(IdentifyError::Metadata { url, problem });
        }
        if problem != said {
            warn!(problem, "the server's metadata is not there yet");
            said = problem;
        }
        sleep(RETRY_PAUSE).await;
    }
}

/// What a machine was created with, by its role.
#[derive(Debug)]
enum Given {
    Agent(UserData),
    Server(ServerData),
    FirstServer(FirstServer),
}

/// All that fabrik's user data have in common.
#[derive(Deserialize)]
struct Head {
    fabrik: u32,
    role: String,
}

/// `None`: they are not fabrik's, and that is allowed.
fn parse(text: &str, by_hand: ByHand) -> Result<Option<Given>, IdentifyError> {
    let not_ours = |error: serde_json::Error| IdentifyError::NotOurs {
        line: error.line(),
        column: error.column(),
    };
    let head: Head = match serde_json::from_str(text) {
        Err(_) if by_hand == ByHand::Allowed => return Ok(None),
        head => head.map_err(not_ours)?,
    };
    let given = match (head.fabrik, head.role.as_str()) {
        (user_data::VERSION, user_data::AGENT) => serde_json::from_str(text).map(Given::Agent),
        (user_data::VERSION, user_data::SERVER) => serde_json::from_str(text).map(Given::Server),
        (handover::VERSION, first_server::ROLE) => {
            serde_json::from_str(text).map(Given::FirstServer)
        }
        _ => {
            return Err(IdentifyError::Unknown {
                role: head.role,
                version: head.fabrik,
            });
        }
    };
    given.map(Some).map_err(not_ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_that_is_not_ours_is_not_quoted() {
        let token = "K10abc::id.hunter2";
        for text in [
            format!("#!/bin/sh\necho {token}"),
            format!(r#"{{"fabrik": 1, "role": "agent", "token": 7, "x": "{token}"}}"#),
            format!(r#"{{"fabrik": "{token}"}}"#),
        ] {
            let error = parse(&text, ByHand::Refused).unwrap_err().to_string();
            assert!(error.contains("(line 1, column"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_machine_that_a_person_made_is_left_alone_and_a_broken_one_of_ours_is_not() {
        for text in ["", "#cloud-config\n", r#"{"fabrik": "mine"}"#] {
            assert!(parse(text, ByHand::Allowed).unwrap().is_none(), "{text}");
            parse(text, ByHand::Refused).unwrap_err();
        }
        for role in ["agent", "server", "first-server"] {
            let broken = format!(r#"{{"fabrik": 1, "role": "{role}"}}"#);
            let error = parse(&broken, ByHand::Allowed).unwrap_err();
            assert!(matches!(error, IdentifyError::NotOurs { .. }), "{error}");
        }
    }

    #[test]
    fn the_user_data_of_another_layout_or_role_names_both() {
        let text = |version: u32, role: &str| {
            format!(
                r#"{{"fabrik": {version}, "role": "{role}", "pool": "workers", "node-name": "w-1",
                "cluster-name": "demo", "cluster-id": "abcdefgh01234567", "public-key": null,
                "servers": [], "token": "t", "from-a-newer-leader": true}}"#
            )
        };
        let given = parse(&text(1, "agent"), ByHand::Refused).unwrap();
        assert!(matches!(given, Some(Given::Agent(_))), "{given:?}");
        for (version, role) in [(2, "agent"), (2, "first-server"), (1, "desktop")] {
            let error = parse(&text(version, role), ByHand::Allowed);
            let error = error.unwrap_err().to_string();
            let said = format!("is for `{role}` in layout {version}");
            assert!(error.contains(&said), "{error}");
        }
    }
}
