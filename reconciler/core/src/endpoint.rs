//! What leads people to the API servers: the user's DNS name, a load balancer, an address that one of the servers has. Nodes don't
//! need it: each knows all servers by itself.

mod floating_ip;
mod load_balancer;

use core::fmt::Display;
use core::net::IpAddr;

pub use self::floating_ip::name as floating_ip_name;
pub use self::load_balancer::name as load_balancer_name;
use crate::desired::Desired;
use crate::effect::Effect;
use crate::hold::{Hold, HoldReason};
use crate::observed::Observed;
use crate::step::Step;

/// Makes what is wanted, has the floating IP be where it is of use, and removes what is no longer wanted when what takes its place
/// leads to the servers.
pub fn step(desired: &Desired, observed: &Observed) -> Step {
    let mut step = load_balancer::step(desired, observed);
    step.extend(floating_ip::step(desired, observed));
    step
}

/// What people reach the API servers by, where there is something.
pub fn host(desired: &Desired, observed: &Observed) -> Option<String> {
    let name = desired.spec.api.name.clone();
    let balancer = || load_balancer::address(observed);
    let floating = || floating_ip::address(desired, observed).map(|ip| ip.to_string());
    name.or_else(balancer).or_else(floating)
}

/// What is not wanted any more goes last.
fn remove(about: String, removal: Effect, replacement: Option<&str>) -> Step {
    match replacement {
        None => Step::effect(removal),
        Some(other) => Step::hold(Hold {
            about,
            reason: HoldReason::Verifying,
            message: format!("is not wanted any more, and goes when {other} leads to the servers"),
        }),
    }
}

/// Servers bear the address that the spec says in their certificates, so it has to be the real one.
fn other_address(
    wanted: Option<IpAddr>,
    there: Option<&impl Display>,
    table: &str,
) -> Option<String> {
    let there = there.map(ToString::to_string)?;
    let wanted = wanted.map(|ip| ip.to_string()).filter(|ip| *ip != there)?;
    Some(format!(
        "has the address {there}, and cluster.toml says {wanted}: write `address = \"{there}\"` into [{table}]"
    ))
}
