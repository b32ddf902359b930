//! What keeps a node from being empty, and what is done about it: kubectl's rules (kubernetes.io, "Safely Drain a Node").
//! What kubectl asks for by a flag is the pool's policy here.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use crate::effect::Effect;
use crate::hold::{Hold, HoldReason};
use crate::ledger::Ticket;
use crate::names::SERVERS_POOL;
use crate::observed::{Node, Observed, Pod, PodKind};
use crate::spec::{DrainPolicy, Loss, Pods};
use crate::step::Step;

/// How long after its grace period a pod on a Node that is not Ready is given up.
const STUCK_SECS: i64 = 60;
const UNREAD: &str = "what is on it is being read; where that lasts, the leader's log says why";
/// For how long beyond its deadline a drain goes on whose last pods are deleted by force: they have their grace period.
const FORCE_SECS: i64 = 600;

/// What is left on a node that has to be empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left<'a> {
    /// Pods that have to go, those that are ending among them. None where they were not read yet.
    pub pods: Vec<&'a Pod>,
    /// Volumes to detach: one that is attached to a node that is down can't be used elsewhere for minutes.
    pub volumes: Vec<&'a str>,
}

/// How pods go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Eviction,
    Force,
}

/// A pod that nothing but a person takes away.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept<'a> {
    pod: &'a Pod,
    why: &'static str,
    /// What the pool has to say to give it up.
    setting: &'static str,
}

impl<'a> Left<'a> {
    /// `None` where `node` is known to be empty.
    pub fn on(node: &Node, observed: &'a Observed) -> Option<Self> {
        let Some(pods) = observed.pods.get(&node.name) else {
            return Some(Self::default());
        };
        let obstructs = |p: &&Pod| obstructs(p, node, observed.at);
        let pods: Vec<&Pod> = pods.iter().filter(obstructs).collect();
        // Where no kubelet unmounts, waiting is in vain. Such a machine comes back with its volumes, or its Node is deleted
        // when it is off, which sets them free. One that was heard of a moment ago may be at it still.
        let silent = node.is_silent(observed.at, STUCK_SECS);
        let attached = observed.attached.get(&node.name).filter(|_| !silent);
        let volumes: Vec<&str> = attached.into_iter().flatten().map(String::as_str).collect();
        let empty = pods.is_empty() && volumes.is_empty();
        (!empty).then_some(Self { pods, volumes })
    }

    /// Evicts what still runs, and names what stands in the way. Where a pod is to be kept the node can't become empty,
    /// and nothing is evicted in vain: kubectl refuses as well before it evicts anything.
    pub fn drain(&self, ticket: &Ticket, policy: DrainPolicy) -> Step {
        self.empty(ticket, policy, By::Eviction)
    }

    /// The same, and deletes what an eviction was refused for. Only where the drain `goes_on_by_force`.
    pub fn force(&self, ticket: &Ticket, policy: DrainPolicy) -> Step {
        self.empty(ticket, policy, By::Force)
    }

    fn empty(&self, ticket: &Ticket, policy: DrainPolicy, by: By) -> Step {
        let held = |message| Hold {
            about: format!("node {}", ticket.node),
            reason: HoldReason::DrainBlocked,
            message,
        };
        let mut kept = self.kept(policy).peekable();
        if kept.peek().is_some() {
            return Step::holds(kept.map(|kept| held(kept.with_way_out(ticket))));
        }
        let mut step = Step::default();
        if self.is_unread() {
            step.holds.push(held(UNREAD.to_owned()));
        }
        for pod in &self.pods {
            let running = (!pod.terminating).then_some((by, &pod.blocked));
            step.effects.extend(running.map(|how| match how {
                (By::Force, Some(_)) => force(pod, ticket),
                (By::Eviction, _) | (By::Force, None) => evict(pod, ticket),
            }));
            step.holds.extend(blocked(pod).map(held));
        }
        // While there are pods, they are what holds the volumes.
        if self.pods.is_empty() {
            let volumes = self.volumes.iter();
            step.holds.extend(volumes.map(|v| held(still_attached(v))));
        }
        step
    }

    /// What is in the way, for a person. Completes "its drain did not end in time: …".
    pub fn words(&self, policy: DrainPolicy) -> String {
        let kept = self.kept(policy).next().map(|kept| kept.to_string());
        let obstacle = kept.or_else(|| self.pods.iter().find_map(|p| blocked(p)));
        obstacle.unwrap_or_else(|| match self.pods.len() {
            0 => match self.volumes.first() {
                Some(volume) => still_attached(volume),
                None => UNREAD.to_owned(),
            },
            1 => "1 pod is left".to_owned(),
            left => format!("{left} pods are left"),
        })
    }

    /// What is on the node was not read, or not yet.
    fn is_unread(&self) -> bool {
        self.pods.is_empty() && self.volumes.is_empty()
    }

    fn kept(&self, policy: DrainPolicy) -> impl Iterator<Item = Kept<'a>> {
        self.pods.iter().filter_map(move |pod| kept(pod, policy))
    }
}

/// Whether a drain goes on that is late by so much: while no other pods are left than such as the user lets go by force. By
/// then evictions were asked for as long as the pool allows.
pub fn goes_on_by_force(
    left: Option<&Left<'_>>,
    listed: &[Pods],
    policy: DrainPolicy,
    late: SignedDuration,
) -> bool {
    let is_listed = |pod: &&Pod| listed.iter().any(|pods| pods.names(pod));
    let forced = |left: &Left<'_>| {
        !left.is_unread() && left.pods.iter().all(is_listed) && left.kept(policy).next().is_none()
    };
    !listed.is_empty() && late <= SignedDuration::from_secs(FORCE_SECS) && left.is_none_or(forced)
}

/// Whether it is no drain's business: it ends with the node.
pub fn stays(pod: &Pod) -> bool {
    matches!(pod.kind, PodKind::DaemonSet | PodKind::Mirror)
}

/// Whether a node is empty in spite of it: it stays, or it is finished and deleted, and only its finalizers keep its object.
fn is_no_obstacle(pod: &Pod) -> bool {
    stays(pod) || pod.kind == PodKind::Finished && pod.terminating
}

/// Whether `node` is not empty while this pod is on it.
pub fn obstructs(pod: &Pod, node: &Node, at: Timestamp) -> bool {
    !is_no_obstacle(pod) && !never_ends(pod, node, at)
}

/// On a machine that hangs no kubelet ends its pods, and only power-off does.
fn never_ends(pod: &Pod, node: &Node, at: Timestamp) -> bool {
    let stuck = |ends: Timestamp| at.duration_since(ends) > SignedDuration::from_secs(STUCK_SECS);
    !node.ready && pod.terminating && pod.ends.is_some_and(stuck)
}

fn kept(pod: &Pod, policy: DrainPolicy) -> Option<Kept<'_>> {
    // Of a finished pod nothing is lost, and one that is ending is lost already.
    if pod.kind != PodKind::Ordinary || pod.terminating {
        return None;
    }
    let (why, setting) = if !pod.managed && policy.unmanaged_pods == Loss::Keep {
        ("no controller would bring it back", "unmanaged-pods")
    } else if pod.empty_dir && policy.empty_dir_data == Loss::Keep {
        ("what it has in an emptyDir would be lost", "empty-dir-data")
    } else {
        return None;
    };
    Some(Kept { pod, why, setting })
}

fn evict(pod: &Pod, ticket: &Ticket) -> Effect {
    Effect::Evict {
        node: ticket.node.clone(),
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
    }
}

fn force(pod: &Pod, ticket: &Ticket) -> Effect {
    Effect::ForcePod {
        node: ticket.node.clone(),
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
    }
}

fn blocked(pod: &Pod) -> Option<String> {
    let blocker = pod.blocked.as_ref()?;
    Some(format!(
        "pod {}/{} can't be evicted: {blocker}",
        pod.namespace, pod.name
    ))
}

fn still_attached(volume: &str) -> String {
    format!("volume {volume} is still attached to it")
}

impl Kept<'_> {
    fn with_way_out(&self, ticket: &Ticket) -> String {
        let setting = if ticket.pool.as_str() == SERVERS_POOL {
            String::new()
        } else {
            format!(
                ", or set {} = \"discard\" in [pools.{}]",
                self.setting, ticket.pool
            )
        };
        format!("{self}. Delete it{setting}; nothing on the node is evicted before")
    }
}

impl fmt::Display for Kept<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pod {
            namespace, name, ..
        } = self.pod;
        write!(f, "pod {namespace}/{name} is not evicted: {}", self.why)
    }
}

#[cfg(test)]
mod tests;
