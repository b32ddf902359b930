//! The load balancer before the API servers. Nodes don't need it: each knows all servers by itself.

use crate::desired::Desired;
use crate::effect::{Effect, NewLoadBalancer};
use crate::hold::{Hold, HoldReason};
use crate::id::ClusterName;
use crate::observed::{LoadBalancer, Observed};
use crate::spec;
use crate::step::Step;

/// What it is called at Hetzner.
pub fn name(cluster: &ClusterName) -> String {
    format!("{cluster}-api")
}

/// Creates it, or removes it where it is no longer wanted. What of it can't be as wanted without people losing their way
/// to the cluster is told.
pub fn step(desired: &Desired, observed: &Observed) -> Step {
    let there = &observed.hetzner;
    let name = name(&desired.spec.name);
    match (&desired.spec.api.load_balancer, &there.load_balancer) {
        (None, None) => Step::default(),
        (None, Some(lb)) => Step::effect(Effect::DeleteLoadBalancer {
            load_balancer: lb.id,
            name: lb.name.clone(),
        }),
        (Some(wanted), None) => match &there.network {
            Some(network) if !there.taken.contains_key(&name) => {
                Step::effect(Effect::CreateLoadBalancer(NewLoadBalancer {
                    name,
                    kind: wanted.kind.clone(),
                    location: wanted.location.clone(),
                    network: network.id,
                    public: wanted.public,
                }))
            }
            _ => Step::default(),
        },
        (Some(wanted), Some(lb)) => Step::holds(differences(wanted, lb).map(|message| Hold {
            about: format!("load balancer {}", lb.name),
            reason: HoldReason::Unexplained,
            message,
        })),
    }
}

fn differences(wanted: &spec::LoadBalancer, lb: &LoadBalancer) -> impl Iterator<Item = String> {
    let (id, kind) = (lb.id, &wanted.kind);
    let public = if wanted.public { "enable" } else { "disable" };
    let other_kind = (lb.kind != *kind).then(|| {
        format!(
            "is of type {}, and cluster.toml says {kind}: `hcloud load-balancer change-type {id} {kind}`",
            lb.kind
        )
    });
    let other_location = (lb.location != wanted.location).then(|| {
        format!(
            "is in {}, and cluster.toml says {}. It can't move, and another one has another address: delete it at Hetzner \
             when those who use it know, and it is made anew",
            lb.location, wanted.location
        )
    });
    let other_reach = (lb.public != wanted.public).then(|| {
        let is = if lb.public { "" } else { "not " };
        format!(
            "can {is}be reached from the internet, and cluster.toml wants it otherwise: `hcloud load-balancer \
             {public}-public-interface {id}`"
        )
    });
    let other_way = (!lb.leads_to_servers).then(|| {
        "does not send port 6443 to the servers by the network. Delete it at Hetzner, and it is made anew with another \
         address, or set it right: `hcloud load-balancer describe` shows it"
            .to_owned()
    });
    [other_kind, other_location, other_reach, other_way]
        .into_iter()
        .flatten()
}
