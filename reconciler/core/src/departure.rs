//! A member's way out: cordoned, drained, powered off, its Node deleted, its server deleted.
//!
//! Where it stands is read off the world each time. A Node is deleted only after its machine is off: deleting it tells
//! Kubernetes that its processes are gone, and its volumes may then attach elsewhere.

use jiff::{SignedDuration, Timestamp};

use crate::drain::{self, Left};
use crate::effect::{Effect, NodeRef, ServerRef};
use crate::guard;
use crate::hold::Hold;
use crate::id::IntentId;
use crate::ledger::{Change, Ticket};
use crate::machines;
use crate::mark;
use crate::observed::{Node, Observed, Power};
use crate::spec::{Pods, Pool};
use crate::step::Step;

/// How long a node whose drain did not end in time is left alone.
const REST_SECS: i64 = 1800;

/// What comes next for a node that holds a ticket.
#[derive(Debug, PartialEq, Eq)]
pub enum Departure<'a> {
    /// It takes new pods still, or is cordoned under an earlier ticket.
    Cordon,
    /// It is not empty, or was not looked at yet.
    Drain(Left<'a>),
    /// Cordoned and empty, and its machine runs; or its Node is gone and the machine runs on.
    PowerOff,
    /// Its machine is between on and off.
    Stopping,
    /// Its machine is off or gone; its Node is there.
    DeleteNode,
    /// Its Node is gone; its server is there, off.
    DeleteServer,
    /// It is a machine of the user's own, and the rest is theirs to do.
    ByHand,
    /// Neither Node nor server is left.
    Gone,
    /// A Node of its name is there that is not the one that joined.
    Unexplained(Hold),
    /// Hetzner neither lists its server nor says that it is gone.
    Unseen,
}

/// Where the holder of `ticket` stands.
pub fn stage<'a>(id: &IntentId, ticket: &Ticket, observed: &'a Observed) -> Departure<'a> {
    let node = observed.nodes.get(&ticket.node);
    if let Err(hold) = guard::is_the_node_that_joined(&ticket.node, &ticket.uid, observed) {
        return Departure::Unexplained(hold);
    }
    if ticket.server.is_own() {
        return machines::leaving(id, ticket, observed);
    }
    let power = match observed.hetzner.servers.get(&ticket.server) {
        Some(server) => Some(server.power),
        None if observed.hetzner.gone.contains(&ticket.server) => None,
        None => return Departure::Unseen,
    };
    match (node, power) {
        (None, None) => Departure::Gone,
        (Some(_), None | Some(Power::Off)) => Departure::DeleteNode,
        (None, Some(Power::Off)) => Departure::DeleteServer,
        (_, Some(Power::Changing)) => Departure::Stopping,
        (None, Some(Power::Running)) => Departure::PowerOff,
        (Some(node), Some(Power::Running)) if takes_cordon(id, ticket, node) => Departure::Cordon,
        (Some(node), Some(Power::Running)) => {
            Left::on(node, observed).map_or(Departure::PowerOff, Departure::Drain)
        }
    }
}

/// A node on its way out, and what is wanted of it.
pub struct Leaver<'a> {
    pub id: &'a IntentId,
    pub ticket: &'a Ticket,
    pub pool: &'a Pool,
    /// Pods that the user lets go when the drain's deadline is over.
    pub forced: &'a [Pods],
    /// It may stay, as long as its machine still runs.
    pub wanted_again: bool,
    pub observed: &'a Observed,
    pub now: Timestamp,
}

/// The next step of a node on its way out.
pub fn step(leaver: &Leaver<'_>) -> Step {
    let Leaver {
        id,
        ticket,
        pool,
        observed,
        now,
        ..
    } = *leaver;
    let server = || leaver.server();
    let stage = match stage(id, ticket, observed) {
        Departure::Cordon => return leaver.empty(None),
        Departure::Drain(left) => return leaver.empty(Some(&left)),
        stage => stage,
    };
    if let Err(hold) = guard::keeps_local_data(&ticket.node, observed, pool)
        && let Some(step) = keep_local_data(id, ticket, &stage, hold, observed)
    {
        return step;
    }

    let mut step = Step::default();
    match stage {
        Departure::Cordon | Departure::Drain(_) => {}
        Departure::PowerOff => step.effects.push(Effect::PowerOff { server: server() }),
        Departure::Stopping => {
            let about = format!("node {}", ticket.node);
            let stops = guard::stops_in_time(about, ticket.server, ticket.at, now);
            step.holds.extend(stops.err());
        }
        Departure::DeleteNode => step.effects.push(Effect::DeleteNode {
            node: node_ref(ticket),
        }),
        Departure::DeleteServer => step.effects.push(Effect::DeleteServer { server: server() }),
        Departure::ByHand if leaver.wanted_again => return take_back(id, None),
        Departure::ByHand => step.holds.push(machines::switch_off(ticket, observed)),
        Departure::Gone => step.changes.push(Change::Depart { id: id.clone() }),
        Departure::Unexplained(hold) => step.holds.push(hold),
        Departure::Unseen => {
            let about = format!("node {}", ticket.node);
            let seen = guard::server_is_seen(id, &ticket.pool, about, ticket.server, observed);
            step.holds.extend(seen.err());
        }
    }
    step
}

impl Leaver<'_> {
    pub(crate) fn server(&self) -> ServerRef {
        ServerRef {
            id: self.ticket.server,
            name: self.ticket.node.clone(),
            intent: self.id.clone(),
        }
    }

    /// The next step where it is to be cordoned, or something is `left` on it: or it is taken back.
    pub(crate) fn empty(&self, left: Option<&Left<'_>>) -> Step {
        let (ticket, policy) = (self.ticket, self.pool.drain_policy);
        let deadline = SignedDuration::try_from(self.pool.drain_deadline);
        let late = self.now.duration_since(ticket.at) - deadline.unwrap_or(SignedDuration::MAX);
        let forced = left.is_some() && drain::goes_on_by_force(left, self.forced, policy, late);
        let overdue = late.is_positive() && !forced;
        if self.wanted_again || overdue {
            let rest = self.now + SignedDuration::from_secs(REST_SECS);
            return take_back(self.id, (!self.wanted_again).then_some(rest));
        }
        if guard::keeps_local_data(&ticket.node, self.observed, self.pool).is_err() {
            return take_back(self.id, None);
        }
        match left {
            None => Step::effect(cordon(self.id, ticket, self.observed)),
            Some(left) if late.is_positive() => left.force(ticket, policy),
            Some(left) => left.drain(ticket, policy),
        }
    }
}

/// Verbs that are still to come for the holder of `ticket`, in order: what a plan shows.
pub fn remaining(id: &IntentId, ticket: &Ticket, observed: &Observed) -> Vec<&'static str> {
    let node_is_there = observed.nodes.contains_key(&ticket.node);
    let server_is_there = observed.hetzner.servers.contains_key(&ticket.server);
    if ticket.server.is_own() {
        let cordon = matches!(stage(id, ticket, observed), Departure::Cordon);
        return cordon.then_some("cordon").into_iter().collect();
    }
    let mut verbs = match stage(id, ticket, observed) {
        Departure::Cordon => vec!["cordon", "power-off"],
        Departure::Drain(_) | Departure::PowerOff => vec!["power-off"],
        Departure::Stopping | Departure::DeleteNode | Departure::DeleteServer => Vec::new(),
        Departure::ByHand | Departure::Gone | Departure::Unexplained(_) | Departure::Unseen => {
            return Vec::new();
        }
    };
    verbs.extend(node_is_there.then_some("delete-node"));
    verbs.extend(server_is_there.then_some("delete-server"));
    verbs
}

/// The mark of this member that its Node bears: of this ticket, or of an earlier one.
pub fn our_mark<'a>(id: &IntentId, node: &'a Node) -> Option<&'a str> {
    let mark = node.cordoned_under.as_deref();
    mark.filter(|mark| mark::is_of(mark, id))
}

/// Whether a cordon is to come. One of ours that is of an earlier ticket may be taken back any time, by a request that
/// is late.
pub(crate) fn takes_cordon(id: &IntentId, ticket: &Ticket, node: &Node) -> bool {
    let of_another = |borne: &str| borne != mark::of(id, ticket);
    !node.unschedulable || our_mark(id, node).is_some_and(of_another)
}

/// In the place of the mark that was seen.
pub(crate) fn cordon(id: &IntentId, ticket: &Ticket, observed: &Observed) -> Effect {
    let node = observed.nodes.get(&ticket.node);
    Effect::Cordon {
        node: node_ref(ticket),
        mark: mark::of(id, ticket),
        over: node.and_then(|n| n.cordoned_under.clone()),
    }
}

/// `None` where the cordon is not ours. The mark is the one that is there: it may be of an earlier ticket, or of an
/// earlier version of fabrik.
pub(crate) fn uncordon(id: &IntentId, ticket: &Ticket, observed: &Observed) -> Option<Effect> {
    let mark = our_mark(id, observed.nodes.get(&ticket.node)?)?;
    Some(Effect::Uncordon {
        node: node_ref(ticket),
        mark: mark.to_owned(),
    })
}

pub(crate) fn node_ref(ticket: &Ticket) -> NodeRef {
    NodeRef {
        name: ticket.node.clone(),
        uid: ticket.uid.clone(),
    }
}

/// S5: a volume may have come since the ticket was granted, or its pool's wish changed. `None` where no data is at
/// stake.
fn keep_local_data(
    id: &IntentId,
    ticket: &Ticket,
    stage: &Departure,
    hold: Hold,
    observed: &Observed,
) -> Option<Step> {
    let node_is_there = observed.nodes.contains_key(&ticket.node);
    let server_is_there = observed.hetzner.servers.contains_key(&ticket.server);
    match stage {
        Departure::PowerOff if node_is_there => Some(take_back(id, None)),
        Departure::PowerOff | Departure::DeleteNode | Departure::DeleteServer
            if server_is_there =>
        {
            Some(Step::hold(hold))
        }
        _ => None,
    }
}

/// Gives the ticket back with its cordon, which is taken back when the ticket is no more. In the other order the node could
/// be wanted to go again while a request to uncordon is on its way, and would lose its pods uncordoned (S7).
pub(crate) fn take_back(id: &IntentId, rest_until: Option<Timestamp>) -> Step {
    Step::change(Change::Release {
        id: id.clone(),
        rest_until,
    })
}
