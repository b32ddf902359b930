//! The load balancer before the API servers.

use super::{floating_ip, other_address, remove};
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
        (None, Some(lb)) => {
            let removal = Effect::DeleteLoadBalancer {
                load_balancer: lb.id,
                name: lb.name.clone(),
            };
            let replacement =
                floating_ip::is_awaited(desired, observed).then_some("the floating IP");
            remove(about(lb), removal, replacement)
        }
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
            about: about(lb),
            reason: HoldReason::Unexplained,
            message,
        })),
    }
}

/// Where it leads to the servers.
pub fn address(observed: &Observed) -> Option<String> {
    let lb = observed.hetzner.load_balancer.as_ref()?;
    lb.address.clone().filter(|_| lb.leads_to_servers)
}

/// Whether it is wanted, and does not lead to the servers yet.
pub fn is_awaited(desired: &Desired, observed: &Observed) -> bool {
    desired.spec.api.load_balancer.is_some() && address(observed).is_none()
}

fn about(lb: &LoadBalancer) -> String {
    format!("load balancer {}", lb.name)
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
    let address = other_address(wanted.address, lb.address.as_ref(), "api.load-balancer");
    [other_kind, other_location, other_reach, other_way, address]
        .into_iter()
        .flatten()
}
