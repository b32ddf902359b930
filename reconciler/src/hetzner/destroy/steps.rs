//! One step, one request; each resource is looked at right before it is touched.

use fabrik_core::destroy::{Key, Kind, Resource, Step};
use fabrik_core::id::ClusterId;
use fabrik_core::observed::Power;
use reqwest::Method;
use serde_json::{Value, json};

use super::super::client::{Call, Client, Purpose};
use super::super::error::HetznerError;
use super::things::{path, read};

/// Carries out a step on a resource that still has its id, its name and the cluster's label. Nothing is waited for.
///
/// # Errors
/// It is another resource by now, or Hetzner does not do it. What is gone already is no error.
pub async fn carry_out(
    client: &Client,
    step: Step,
    meant: &Resource,
    cluster: &ClusterId,
) -> Result<(), HetznerError> {
    let what = what(step, meant);
    let Some(found) = read(client, meant.key).await? else {
        return Ok(());
    };
    if let Some(problem) = mismatch(&found, meant, cluster) {
        return Err(HetznerError::NotOurs { what, problem });
    }
    let Key { kind, id } = meant.key;
    let path = format!("{}/{id}", path(kind));
    let (method, path, body) = match step {
        Step::PowerOff(_) if found.power == Some(Power::Off) => return Ok(()),
        Step::PowerOff(_) => (Method::POST, format!("{path}/actions/poweroff"), None),
        Step::Unprotect(_) if !found.protected => return Ok(()),
        Step::Unprotect(_) => (
            Method::POST,
            format!("{path}/actions/change_protection"),
            Some(unprotected(kind)),
        ),
        Step::Delete(_) => (Method::DELETE, path, None),
    };
    let call = Call {
        method,
        path,
        query: Vec::new(),
        body: body.as_ref(),
        purpose: Purpose::Act,
        what,
    };
    match client.send(&call).await {
        Ok(_) | Err(HetznerError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A server's two protections must have the same value (docs.hetzner.cloud, "Change Server Protection").
fn unprotected(kind: Kind) -> Value {
    match kind {
        Kind::Server => json!({"delete": false, "rebuild": false}),
        _ => json!({"delete": false}),
    }
}

fn mismatch(found: &Resource, meant: &Resource, cluster: &ClusterId) -> Option<String> {
    if found.key != meant.key {
        return Some(format!("Hetzner answered with {}", found.key.id));
    }
    if found.cluster.as_deref() != Some(cluster.as_str()) {
        return Some("it does not bear the cluster's label any more".to_owned());
    }
    let renamed = || format!("it is called `{}` by now", found.name);
    (found.name != meant.name).then(renamed)
}

fn what(step: Step, resource: &Resource) -> String {
    let Resource { key, name, .. } = resource;
    let action = match step {
        Step::Unprotect(_) => "take the protection off",
        Step::PowerOff(_) => "power off",
        Step::Delete(_) => "delete",
    };
    format!("{action} {} `{name}` (id {})", key.kind, key.id)
}
