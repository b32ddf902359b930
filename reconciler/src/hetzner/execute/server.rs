//! Servers: the only resources that cost money and hold data, so each is looked at right before it is touched.

use fabrik_core::effect::{Choice, NewServer, ServerRef};
use fabrik_core::id::ClusterId;
use fabrik_core::observed::Power;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Context, Outcome, created, gone_is_fine, settle_collision, write};
use crate::hetzner::client::{Client, Purpose};
use crate::hetzner::convert;
use crate::hetzner::error::{FieldError, HetznerError, RequestId};
use crate::hetzner::wire;

/// See [`by_choice`]; a server of that name that is there already has to be the one that was meant.
pub async fn create(
    client: &Client,
    new: &NewServer,
    context: Context<'_>,
) -> Result<Outcome, HetznerError> {
    let body = |choice: &Choice| body(new, choice, context);
    let meant = |found: &wire::Server| {
        convert::mismatch(found, context.cluster, &new.name, &new.intent).is_none()
    };
    by_choice(client, new.name.as_str(), &new.choices, body, meant).await
}

/// Tries each choice while Hetzner says that there is none to be had. Any other answer ends it, a lost one above all:
/// the server may be there. Where no choice is one that Hetzner knows, waiting does not help, and the error says so.
pub async fn by_choice(
    client: &Client,
    name: &str,
    choices: &[Choice],
    body: impl Fn(&Choice) -> Value,
    is_meant: impl Fn(&wire::Server) -> bool,
) -> Result<Outcome, HetznerError> {
    let what = format!("create server `{name}`");
    let mut tried = Vec::new();
    let mut refusal = HetznerError::OutOfStock {
        what: what.clone(),
        tried: String::new(),
        message: "no choice was given".to_owned(),
        id: RequestId::default(),
    };
    for choice in choices {
        let body = body(choice);
        match write(
            client,
            Method::POST,
            "servers".to_owned(),
            Some(&body),
            what.clone(),
        )
        .await
        {
            Ok(answer) => return created(&answer, "server"),
            Err(error) if error.is_not_unique() => {
                return settle_collision(client, name, what, error, is_meant).await;
            }
            Err(error) => {
                if !is_not_to_be_had(&error) {
                    return Err(error);
                }
                let Choice {
                    server_type,
                    location,
                } = choice;
                tracing::info!(server = %name, %server_type, %location, %error, "not to be had");
                let may_come = matches!(error, HetznerError::OutOfStock { .. });
                if tried.is_empty() || may_come {
                    refusal = error;
                }
                tried.push(format!("{server_type} in {location}"));
            }
        }
    }
    if let HetznerError::OutOfStock { tried: all, .. } = &mut refusal {
        *all = tried.join(", ");
    }
    Err(refusal)
}

pub async fn power_off(
    client: &Client,
    server: &ServerRef,
    cluster: &ClusterId,
) -> Result<Outcome, HetznerError> {
    let what = format!("power off server `{}` (id {})", server.name, server.id);
    let Some(found) = meant(client, server, cluster, &what).await? else {
        return Ok(Outcome::AlreadyGone);
    };
    if convert::power(&found.status) == Power::Off {
        return Ok(Outcome::AlreadyDone);
    }
    let path = format!("servers/{}/actions/poweroff", server.id);
    gone_is_fine(
        write(client, Method::POST, path, None, what)
            .await
            .map(drop),
    )
}

/// Hetzner's reset is the button on the machine: what hangs boots again.
pub async fn reset(
    client: &Client,
    server: &ServerRef,
    cluster: &ClusterId,
) -> Result<Outcome, HetznerError> {
    let what = format!("reset server `{}` (id {})", server.name, server.id);
    if meant(client, server, cluster, &what).await?.is_none() {
        return Ok(Outcome::AlreadyGone);
    }
    let path = format!("servers/{}/actions/reset", server.id);
    gone_is_fine(
        write(client, Method::POST, path, None, what)
            .await
            .map(drop),
    )
}

pub async fn delete(
    client: &Client,
    server: &ServerRef,
    cluster: &ClusterId,
) -> Result<Outcome, HetznerError> {
    let what = format!("delete server `{}` (id {})", server.name, server.id);
    if meant(client, server, cluster, &what).await?.is_none() {
        return Ok(Outcome::AlreadyGone);
    }
    let path = format!("servers/{}", server.id);
    gone_is_fine(
        write(client, Method::DELETE, path, None, what)
            .await
            .map(drop),
    )
}

/// The server as it is now, if its id, labels and name are those that were meant; `None` when it is gone.
async fn meant(
    client: &Client,
    server: &ServerRef,
    cluster: &ClusterId,
    what: &str,
) -> Result<Option<wire::Server>, HetznerError> {
    let found = client
        .get::<wire::Server>(server.id.0, Purpose::Act)
        .await?;
    let Some(found) = found else { return Ok(None) };
    let right_id = (found.id != server.id.0).then(|| format!("Hetzner answered with {}", found.id));
    match right_id.or_else(|| mismatch(&found, server, cluster)) {
        None => Ok(Some(found)),
        Some(problem) => Err(HetznerError::NotOurs {
            what: what.to_owned(),
            problem,
        }),
    }
}

fn mismatch(found: &wire::Server, server: &ServerRef, cluster: &ClusterId) -> Option<String> {
    convert::mismatch_of_server(found, cluster, &server.intent)?;
    convert::mismatch(found, cluster, &server.name, &server.intent)
}

/// Whether an error speaks of this type or location only, so that the next choice may do.
fn is_not_to_be_had(error: &HetznerError) -> bool {
    match error {
        HetznerError::OutOfStock { .. } => true,
        // A retired type, or one that this location does not offer.
        HetznerError::Refused { code, fields, .. } => {
            let of_choice = |f: &FieldError| f.name == "server_type" || f.name == "location";
            code == "invalid_input" && !fields.is_empty() && fields.iter().all(of_choice)
        }
        _ => false,
    }
}

fn body(new: &NewServer, choice: &Choice, context: Context<'_>) -> Value {
    let mut body = json!({
        "name": new.name,
        "server_type": choice.server_type,
        "location": choice.location,
        "image": new.image,
        "start_after_create": true,
        "networks": [new.network],
        "firewalls": [{"firewall": new.firewall}],
        "ssh_keys": new.ssh_keys,
        "labels": convert::server_labels(context.cluster, &new.pool, &new.intent),
        "user_data": context.user_data,
    });
    if let Some(group) = new.placement_group {
        body["placement_group"] = json!(group);
    }
    body
}
