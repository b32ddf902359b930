//! Which k3s version may follow which: S4 of the safety rules, in one place.
//!
//! Kubernetes' version skew policy: API servers are within one minor of each other, a kubelet is never newer than the
//! API server and at most three minors older. k3s' own rule: servers first, one by one, then agents, no minor skipped.
//! (kubernetes.io/releases/version-skew-policy, docs.k3s.io/upgrades/manual)

use std::collections::BTreeMap;

use crate::hold::{Hold, HoldReason};
use crate::id::{NodeName, PoolName};
use crate::observed::{Observed, Role};
use crate::spec::{K3sRelease, K3sVersion};

/// How many minors a kubelet may be older than its API server.
const KUBELET_LAG_MINORS: u32 = 3;

/// A node and the k3s that it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rung {
    pub node: NodeName,
    /// `Server` or `Agent`.
    pub role: Role,
    pub runs: K3sVersion,
}

/// A commit's step from the k3s in force to the one it wants.
#[derive(Debug, Clone, Copy)]
pub struct Climb<'a> {
    /// What the commit in force wants; `None` before the first.
    pub from: Option<K3sVersion>,
    pub to: K3sVersion,
    /// What the pools' own systems bring, where that was evaluated.
    pub pools: &'a BTreeMap<PoolName, K3sVersion>,
    pub nodes: &'a [Rung],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    /// The commit may stand; nothing climbs before these sentences no longer hold.
    Held(Vec<String>),
    /// Whatever the nodes do, this step is never allowed.
    Refused(Vec<Refusal>),
}

/// `problem` completes "version …".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub problem: String,
    pub remedy: String,
}

/// The oldest minor that a server runs, as far as their Nodes say it.
pub fn oldest_server(observed: &Observed) -> Option<u32> {
    let servers = observed.nodes.values().filter(|n| n.control_plane);
    let minors = servers.filter_map(|n| Some(K3sVersion::of_kubelet(&n.kubelet_version)?.minor));
    minors.min()
}

/// Whether a kubelet of that minor may join API servers of this one.
pub fn kubelet_may_join(minor: u32, servers: u32) -> bool {
    (minor..=minor.saturating_add(KUBELET_LAG_MINORS)).contains(&servers)
}

/// What becomes of the step: first what the commit says by itself, then where the nodes stand.
pub fn judge(climb: &Climb<'_>) -> Verdict {
    let exact = K3sRelease::Exact;
    let step = climb
        .from
        .and_then(|from| refuse_step(exact(from), exact(climb.to)));
    let refusals: Vec<Refusal> = step.into_iter().chain(refuse_pools(climb)).collect();
    if !refusals.is_empty() {
        return Verdict::Refused(refusals);
    }
    let reasons = hold_for_nodes(climb);
    if reasons.is_empty() {
        Verdict::Allowed
    } else {
        Verdict::Held(reasons)
    }
}

/// No minor is skipped, and none is gone back to. A patch may be gone back to.
pub fn refuse_step(from: K3sRelease, to: K3sRelease) -> Option<Refusal> {
    let (old, new) = (from.minor(), to.minor());
    if new < old {
        Some(Refusal {
            problem: format!("goes back from {from} to {to}"),
            remedy: format!(
                "stay on 1.{old} or go on from it: Kubernetes can't go back a minor version"
            ),
        })
    } else if new > old.saturating_add(1) {
        Some(Refusal {
            problem: format!("skips from {from} to {to}"),
            remedy: format!(
                "go {} instead, one push each: Kubernetes takes one minor version at a time",
                rungs(old, new)
            ),
        })
    } else {
        None
    }
}

/// `1.36 → 1.37 → 1.38`.
fn rungs(from: u32, to: u32) -> String {
    let steps: Vec<String> = (from..=to).map(|minor| format!("1.{minor}")).collect();
    steps.join(" → ")
}

fn refuse_pools<'a>(climb: &'a Climb<'_>) -> impl Iterator<Item = Refusal> + 'a {
    let to = climb.to;
    climb.pools.iter().filter_map(move |(pool, version)| {
        if version.minor > to.minor {
            return Some(Refusal {
                problem: format!(
                    "{to} is older than the {version} of pool {pool}'s system: an agent is never newer than its servers"
                ),
                remedy: format!("take a k3s of 1.{} or older for the pool", to.minor),
            });
        }
        (version.minor + KUBELET_LAG_MINORS < to.minor).then(|| Refusal {
            problem: format!(
                "{to} is more than {KUBELET_LAG_MINORS} minor versions newer than the {version} of pool {pool}'s system"
            ),
            remedy: format!("take a k3s from 1.{} on for the pool", to.minor - KUBELET_LAG_MINORS),
        })
    })
}

fn hold_for_nodes(climb: &Climb<'_>) -> Vec<String> {
    let to = climb.to.minor;
    let of = |role: Role| climb.nodes.iter().filter(move |n| n.role == role);
    let behind = of(Role::Server).filter(|n| n.runs.minor + 1 < to).map(|n| {
        format!(
            "server {} runs {} and has not reached 1.{} yet",
            n.node,
            n.runs,
            to.saturating_sub(1)
        )
    });
    let ahead = of(Role::Server).filter(|n| n.runs.minor > to).map(|n| {
        format!(
            "server {} runs {} already, and a server never goes back a minor version: go to 1.{}",
            n.node, n.runs, n.runs.minor
        )
    });
    let old = of(Role::Agent)
        .filter(|n| n.runs.minor + KUBELET_LAG_MINORS < to)
        .map(|n| {
            format!(
                "agent {} runs {}, and API servers of 1.{to} take kubelets from 1.{} on",
                n.node,
                n.runs,
                to - KUBELET_LAG_MINORS
            )
        });
    // Only where there is a step: a lagging agent is the usual state of a rollout that is under way.
    let climbs = climb.from.is_some_and(|from| from.minor < to);
    let not_there = of(Role::Agent)
        .filter(move |n| climbs && n.runs.minor + 1 < to && n.runs.minor + KUBELET_LAG_MINORS >= to)
        .map(|n| {
            format!(
                "agent {} runs {} and has not reached 1.{} yet",
                n.node,
                n.runs,
                to.saturating_sub(1)
            )
        });
    let new = of(Role::Agent).filter(|n| n.runs.minor > to).map(|n| {
        format!(
            "agent {} runs {}, newer than the 1.{to} of its servers: replace it, or go to 1.{}",
            n.node, n.runs, n.runs.minor
        )
    });
    behind
        .chain(ahead)
        .chain(old)
        .chain(not_there)
        .chain(new)
        .collect()
}

/// Whether one node may start a k3s of `minor` now, beside what the servers run.
///
/// # Errors
/// The hold, with the names of the servers that stand in the way.
pub fn may_start(node: &Rung, minor: u32, servers: &[Rung]) -> Result<(), Hold> {
    let about = format!("node {}", node.node);
    let held = |message: String| {
        Err(Hold {
            about: about.clone(),
            reason: HoldReason::VersionSkew,
            message,
        })
    };
    if node.runs.minor > minor {
        return held(format!(
            "runs {} and is never taken back to 1.{minor}: a minor version is no generation to roll back to",
            node.runs
        ));
    }
    match node.role {
        Role::Server => {
            let far = |s: &&Rung| s.node != node.node && s.runs.minor.abs_diff(minor) > 1;
            if node.runs.minor + 1 < minor {
                return held(format!(
                    "runs {}; 1.{minor} would skip a minor version",
                    node.runs
                ));
            }
            if let Some(other) = servers.iter().find(far) {
                return held(format!(
                    "1.{minor} would be more than one minor version away from server {}, which runs {}",
                    other.node, other.runs
                ));
            }
        }
        Role::Agent | Role::Unknown => {
            if let Some(older) = servers.iter().find(|s| s.runs.minor < minor) {
                return held(format!(
                    "1.{minor} waits for server {}, which runs {}: an agent is never newer than its servers",
                    older.node, older.runs
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(node: &str, role: Role, runs: &str) -> Rung {
        Rung {
            node: node.parse().unwrap(),
            role,
            runs: runs.parse().unwrap(),
        }
    }

    fn told(node: &Rung, minor: u32, servers: &[Rung]) -> String {
        may_start(node, minor, servers).map_or_else(|hold| hold.to_string(), |()| "may".to_owned())
    }

    #[test]
    fn servers_stay_within_one_minor_of_each_other() {
        let servers = [
            rung("s-1", Role::Server, "1.36.3+k3s1"),
            rung("s-2", Role::Server, "1.35.9+k3s1"),
        ];
        let [first, second] = &servers;
        assert_eq!(told(second, 36, &servers), "may");
        assert_eq!(
            told(first, 37, &servers),
            "node s-1: 1.37 would be more than one minor version away from server s-2, which runs 1.35.9+k3s1"
        );
        assert_eq!(
            told(second, 37, &servers),
            "node s-2: runs 1.35.9+k3s1; 1.37 would skip a minor version"
        );
        assert_eq!(
            told(first, 35, &servers),
            "node s-1: runs 1.36.3+k3s1 and is never taken back to 1.35: a minor version is no generation to roll back to"
        );
    }

    #[test]
    fn an_agent_waits_for_the_last_server() {
        let agent = rung("w-1", Role::Agent, "1.35.9+k3s1");
        let mut servers = vec![
            rung("s-1", Role::Server, "1.36.3+k3s1"),
            rung("s-2", Role::Server, "1.35.9+k3s1"),
        ];
        assert_eq!(
            told(&agent, 36, &servers),
            "node w-1: 1.36 waits for server s-2, which runs 1.35.9+k3s1: an agent is never newer than its servers"
        );
        servers[1].runs = servers[0].runs;
        assert_eq!(told(&agent, 36, &servers), "may");
    }
}
