//! An address of Hetzner's that one of the servers has, and another one before that one goes or when it is lost.
//!
//! All servers take packets for it (nixos/server.nix), and Hetzner sends them to the one that it is assigned to.

use core::net::IpAddr;

use super::{load_balancer, other_address, remove};
use crate::desired::Desired;
use crate::effect::{Effect, NewFloatingIp};
use crate::guard;
use crate::hold::{Hold, HoldReason};
use crate::id::{ClusterName, PoolName};
use crate::ledger::Member;
use crate::observed::{FloatingIp, Observed, Power, Role};
use crate::spec;
use crate::step::Step;

/// What it is called at Hetzner.
pub fn name(cluster: &ClusterName) -> String {
    format!("{cluster}-api-ip")
}

/// Creates it, has it be at a server that is well, or removes it where it is no longer wanted.
pub fn step(desired: &Desired, observed: &Observed) -> Step {
    let there = &observed.hetzner;
    let name = name(&desired.spec.name);
    match (&desired.spec.api.floating_ip, &there.floating_ip) {
        (None, None) => Step::default(),
        (None, Some(ip)) => {
            let removal = Effect::DeleteFloatingIp {
                floating_ip: ip.id,
                name: ip.name.clone(),
            };
            let awaited = load_balancer::is_awaited(desired, observed);
            remove(about(ip), removal, awaited.then_some("the load balancer"))
        }
        (Some(_), None) if there.taken.contains_key(&name) => Step::default(),
        (Some(wanted), None) => Step::effect(Effect::CreateFloatingIp(NewFloatingIp {
            name,
            family: wanted.family,
            location: wanted.location.clone(),
        })),
        (Some(wanted), Some(ip)) => {
            let mut step = Step::holds(differences(wanted, ip).map(|message| Hold {
                about: about(ip),
                reason: HoldReason::Unexplained,
                message,
            }));
            let next = next_holder(observed, ip);
            step.effects
                .extend(next.map(|member| Effect::AssignFloatingIp {
                    floating_ip: ip.id,
                    name: ip.name.clone(),
                    server: member.server,
                    to: member.name.clone(),
                }));
            step
        }
    }
}

/// Where a server has it, and the servers were told that it is theirs.
pub fn address(desired: &Desired, observed: &Observed) -> Option<IpAddr> {
    let ip = observed.hetzner.floating_ip.as_ref()?;
    let wanted = desired.spec.api.floating_ip.as_ref()?.address?;
    let works = ip.server.is_some() && ip.address == Some(wanted);
    works.then_some(wanted)
}

/// Whether it is wanted, and the server that has it does not take it for its own yet, as far as that is known.
pub fn is_awaited(desired: &Desired, observed: &Observed) -> bool {
    desired.spec.api.floating_ip.is_some()
        && (address(desired, observed).is_none() || !its_server_runs_this(desired, observed))
}

/// What a server takes for its own is said by its system.
fn its_server_runs_this(desired: &Desired, observed: &Observed) -> bool {
    let ip = observed.hetzner.floating_ip.as_ref();
    let server = ip.and_then(|ip| ip.server);
    let mut members = observed.ledger.members.values();
    let Some(holder) = members.find(|member| Some(member.server) == server) else {
        return false;
    };
    let system = observed.systems.get(&holder.name);
    let report = system.and_then(|system| system.report.as_ref());
    let running = report.map(|report| &report.running);
    match desired.targets.get(&PoolName::servers()) {
        Some(target) => running == Some(&target.system.output),
        // What the commit wants is not known yet, unless nobody brings systems to these servers.
        None => running.is_none(),
    }
}

/// Who has it next, the leader's own server first. `None` where it is well where it is, or where nobody would be better.
fn next_holder<'a>(observed: &'a Observed, ip: &FloatingIp) -> Option<&'a Member> {
    let is_fit = |(id, member): &(&_, &Member)| {
        let server = observed.hetzner.servers.get(&member.server);
        member.role == Role::Server
            && server.is_some_and(|server| server.power == Power::Running)
            // A ticket comes before all that is done to a node: the address is away before the node is.
            && guard::is_available(id, member, observed)
    };
    let members = observed.ledger.members.iter().filter(is_fit);
    let fit: Vec<&Member> = members.map(|(_, member)| member).collect();
    if fit.iter().any(|member| Some(member.server) == ip.server) {
        return None;
    }
    let leads = |member: &&&Member| observed.leader.as_ref() == Some(&member.name);
    fit.iter().find(leads).or(fit.first()).copied()
}

fn about(ip: &FloatingIp) -> String {
    format!("floating IP {}", ip.name)
}

fn differences(wanted: &spec::FloatingIp, ip: &FloatingIp) -> impl Iterator<Item = String> {
    let family = wanted.family.word();
    let is_other = ip.family != family || ip.location != wanted.location;
    let other = is_other.then(|| {
        format!(
            "is an {} address of {}, and cluster.toml says {family} and {}. It can't change, and another one has another address: \
             take [api.floating-ip] out, and put it in again when this one is gone",
            ip.family, ip.location, wanted.location
        )
    });
    let unsaid = ip.address.filter(|_| wanted.address.is_none()).map(|address| {
        format!(
            "has the address {address}, which the servers don't take for theirs yet: write `address = \"{address}\"` into \
             [api.floating-ip]"
        )
    });
    let address = other_address(wanted.address, ip.address.as_ref(), "api.floating-ip");
    [other, unsaid, address].into_iter().flatten()
}
