//! The few things that we do at Hetzner: one effect, one small function, one write.
//!
//! Nothing is waited for: what an action did is observed later. A write whose reply was lost is an error here, and
//! the next observation finds what it did by its labels.

mod floating_ip;
mod load_balancer;
pub(super) mod server;

use fabrik_core::effect::Effect;
use fabrik_core::id::{ClusterId, PoolName};
use fabrik_core::observed::FirewallRule;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Answer, Call, Client, Purpose};
use super::convert::{self, bare_key, holder, is_ours};
use super::error::{HetznerError, RequestId};
use super::wire::{self, Labels, Resource};

/// What an effect needs besides itself.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub cluster: &'a ClusterId,
    /// For [`Effect::CreateServer`]: what the machine reads when it boots. Holds a join token, so it is never logged.
    pub user_data: &'a str,
}

/// How an effect went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Hetzner has taken it on.
    Done,
    /// There is a new resource of this id.
    Created(u64),
    /// It was there already, ours and as meant: an earlier reply was lost.
    Found(u64),
    /// The server is off or the server is gone: nothing was left to do.
    AlreadyDone,
    AlreadyGone,
}

/// Carries out an effect at Hetzner. `None` for the effects on Kubernetes, which are not this room's.
pub async fn execute(
    client: &Client,
    effect: &Effect,
    context: Context<'_>,
) -> Option<Result<Outcome, HetznerError>> {
    let cluster = context.cluster;
    Some(match effect {
        Effect::CreateNetwork {
            name,
            range,
            nodes,
            zone,
        } => {
            let subnet = json!({"type": "cloud", "ip_range": nodes, "network_zone": zone});
            let body = json!({"ip_range": range, "subnets": [subnet]});
            let labels = convert::cluster_labels(cluster);
            create::<wire::Network>(client, cluster, name, &labels, body).await
        }
        Effect::CreateFirewall { name, rules } => {
            let body = json!({"rules": convert::rules_body(rules)});
            let labels = convert::cluster_labels(cluster);
            create::<wire::Firewall>(client, cluster, name, &labels, body).await
        }
        Effect::SetFirewallRules {
            firewall,
            name,
            rules,
        } => set_firewall_rules(client, cluster, *firewall, name, rules).await,
        Effect::CreateSshKey { name, public_key } => {
            let body = json!({"public_key": bare_key(public_key)});
            let labels = convert::cluster_labels(cluster);
            create::<wire::SshKey>(client, cluster, name, &labels, body).await
        }
        Effect::CreatePlacementGroup { name, pool } => {
            create_placement_group(client, cluster, name, pool).await
        }
        Effect::CreateLoadBalancer(new) => load_balancer::make(client, new, cluster).await,
        Effect::DeleteLoadBalancer {
            load_balancer: id,
            name,
        } => load_balancer::delete(client, *id, name, cluster).await,
        Effect::CreateFloatingIp(new) => floating_ip::make(client, new, cluster).await,
        Effect::AssignFloatingIp {
            floating_ip: id,
            name,
            server,
            ..
        } => floating_ip::assign(client, *id, name, *server, cluster).await,
        Effect::DeleteFloatingIp {
            floating_ip: id,
            name,
        } => floating_ip::delete(client, *id, name, cluster).await,
        Effect::CreateServer(new) => server::create(client, new, context).await,
        Effect::PowerOff { server } => server::power_off(client, server, cluster).await,
        Effect::Reset { server } => server::reset(client, server, cluster).await,
        Effect::DeleteServer { server } => server::delete(client, server, cluster).await,
        Effect::RevokeToken { .. }
        | Effect::LabelNode { .. }
        | Effect::Cordon { .. }
        | Effect::Uncordon { .. }
        | Effect::Evict { .. }
        | Effect::ForcePod { .. }
        | Effect::Aim { .. }
        | Effect::Order { .. }
        | Effect::Withdraw { .. }
        | Effect::MoveEtcdLeader { .. }
        | Effect::SnapshotEtcd { .. }
        | Effect::StopK3s { .. }
        | Effect::RemoveEtcdMember { .. }
        | Effect::DeliverSecrets { .. }
        | Effect::DeleteNode { .. } => return None,
    })
}

async fn create_placement_group(
    client: &Client,
    cluster: &ClusterId,
    name: &str,
    pool: &PoolName,
) -> Result<Outcome, HetznerError> {
    let labels = convert::pool_labels(cluster, pool);
    let body = json!({"type": "spread"});
    create::<wire::PlacementGroup>(client, cluster, name, &labels, body).await
}

async fn set_firewall_rules(
    client: &Client,
    cluster: &ClusterId,
    id: u64,
    name: &str,
    rules: &[FirewallRule],
) -> Result<Outcome, HetznerError> {
    let what = format!("set the rules of firewall `{name}` (id {id})");
    ours::<wire::Firewall>(client, cluster, id, &what).await?;
    let body = json!({"rules": convert::rules_body(rules)});
    let path = format!("firewalls/{id}/actions/set_rules");
    write(client, Method::POST, path, Some(&body), what).await?;
    Ok(Outcome::Done)
}

/// What is to be changed, as it is now.
async fn ours<T: Resource>(
    client: &Client,
    cluster: &ClusterId,
    id: u64,
    what: &str,
) -> Result<T, HetznerError> {
    let what = what.to_owned();
    match client.get::<T>(id, Purpose::Act).await? {
        None => Err(HetznerError::NotFound {
            what,
            message: "it was there when the plan was made".to_owned(),
            id: RequestId::default(),
        }),
        Some(found) if !is_ours(&found, cluster) => {
            let problem = holder(&found);
            Err(HetznerError::NotOurs { what, problem })
        }
        Some(found) => Ok(found),
    }
}

/// Creates a resource that is told by its name and the cluster's label.
async fn create<T: Resource>(
    client: &Client,
    cluster: &ClusterId,
    name: &str,
    labels: &Labels,
    mut body: Value,
) -> Result<Outcome, HetznerError> {
    body["name"] = json!(name);
    body["labels"] = json!(labels);
    let what = format!("create {} `{name}`", T::KIND.replace('_', " "));
    match write(
        client,
        Method::POST,
        T::PATH.to_owned(),
        Some(&body),
        what.clone(),
    )
    .await
    {
        Ok(answer) => created(&answer, T::KIND),
        Err(error) if error.is_not_unique() => {
            let ours = |found: &T| is_ours(found, cluster);
            settle_collision(client, name, what, error, ours).await
        }
        Err(error) => Err(error),
    }
}

/// The name is there already: through a reply that was lost, or as somebody else's.
async fn settle_collision<T: Resource>(
    client: &Client,
    name: &str,
    what: String,
    error: HetznerError,
    is_meant: impl Fn(&T) -> bool,
) -> Result<Outcome, HetznerError> {
    let filter = ("name", name.to_owned());
    let found = client.list::<T>(Some(filter), Purpose::Act).await?;
    match found.iter().find(|r| r.name() == name) {
        Some(found) if is_meant(found) => Ok(Outcome::Found(found.id())),
        Some(found) => Err(HetznerError::NameTaken {
            what,
            holder: holder(found),
            id: match error {
                HetznerError::Refused { id, .. } => id,
                _ => RequestId::default(),
            },
        }),
        // Something other than the name was not unique, or what had it is gone by now.
        None => Err(error),
    }
}

fn created(answer: &Answer, kind: &str) -> Result<Outcome, HetznerError> {
    let created = answer.field::<Created>(kind)?;
    Ok(Outcome::Created(created.id))
}

/// Deletes a resource, if it is this cluster's and the one that is meant by the time it is looked at.
pub(super) async fn delete<T: Resource>(
    client: &Client,
    cluster: &ClusterId,
    id: u64,
    what: String,
    is_meant: impl Fn(&T) -> bool,
) -> Result<Outcome, HetznerError> {
    match client.get::<T>(id, Purpose::Act).await? {
        None => return Ok(Outcome::AlreadyGone),
        Some(found) if is_ours(&found, cluster) && is_meant(&found) => {}
        Some(found) => {
            let problem = holder(&found);
            return Err(HetznerError::NotOurs { what, problem });
        }
    }
    let path = format!("{}/{id}", T::PATH);
    let deleted = write(client, Method::DELETE, path, None, what).await;
    gone_is_fine(deleted.map(drop))
}

fn gone_is_fine(result: Result<(), HetznerError>) -> Result<Outcome, HetznerError> {
    match result {
        Ok(()) => Ok(Outcome::Done),
        Err(HetznerError::NotFound { .. }) => Ok(Outcome::AlreadyGone),
        Err(error) => Err(error),
    }
}

/// All that is read of a create's answer: the less, the less can make a success look like a failure.
#[derive(serde::Deserialize)]
struct Created {
    id: u64,
}

pub(super) async fn write(
    client: &Client,
    method: Method,
    path: String,
    body: Option<&Value>,
    what: String,
) -> Result<Answer, HetznerError> {
    let call = Call {
        method,
        path,
        query: Vec::new(),
        body,
        purpose: Purpose::Act,
        what,
    };
    client.send(&call).await
}
