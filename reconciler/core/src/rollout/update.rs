//! One node's way to its new system. Where it stands is read off the world each time; what can't be read off it is in
//! its ticket, fixed when that was granted.

mod step;

use jiff::SignedDuration;

pub(super) use self::step::step;
use super::{Rollout, gates, member};
use crate::hold::Hold;
use crate::id::{IntentId, NodeName};
use crate::ledger::Ticket;
use crate::observed::{Node, Pod, PodKind, Role};
use crate::quorum;
use crate::system::{Action, Activity, Needs, Order, Phase, Report, Update};
use crate::window::{Opening, opening};

/// How long a node that was uncordoned in the middle of its drain is left alone.
const REST_SECS: i64 = 1800;
/// How long after a reset was written down it is asked for: a leader that dies in between leaves it to a person.
const RESET_SECS: i64 = 3;
/// How long after its deadline a node may take to go back by itself: a reboot of the old system and joining again.
const RETURN_SECS: i64 = 600;

/// What is true of a node that holds a ticket for an update.
#[derive(Debug, PartialEq, Eq)]
pub enum Stage<'a> {
    /// Its Node is gone, or is another one of the same name: there is nothing to update.
    Lost,
    /// Something else is wanted by now, or the system was denied elsewhere, and the node was not told to try yet.
    Withdrawn,
    /// The drain took too long, or the window closes before the step could end.
    OutOfTime(String),
    /// It must be drained and still takes new pods.
    Cordon,
    /// Pods that an eviction would move are on it; none where its pods were not read yet.
    Drain { pods: Vec<&'a Pod> },
    /// Its etcd member leads, and another one should before it goes down.
    HandOver { to: String },
    /// A newer k3s minor is about to start on the first server, and no snapshot of the data before is there.
    Snapshot { name: String },
    /// A rule that held when the ticket was granted no longer does.
    Blocked(Hold),
    /// Cordoned and empty where it must be: it may be told to try.
    Try,
    /// It was told to, and neither runs the new system nor is back on the old one yet.
    Applying,
    /// Silent for longer than it had: its machine hangs, and a reset brings the old system up.
    Reset,
    /// It runs the new system; this gate is still shut.
    Verifying(String),
    /// All gates are open, and have been for as long as they must.
    Keep,
    /// Told to make the new system its default.
    Keeping,
    /// It runs the new system and is not well: it must go back.
    GoBack(String),
    /// Told to go back.
    GoingBack,
    /// It runs the new system, and will after any boot.
    Done,
    /// It runs the old system again.
    WentBack(String),
    /// Only a person can help. The ticket stays, counts, and stops the rollout.
    Stuck(String),
}

/// Where the holder of `ticket` stands.
pub fn stage<'a>(
    rollout: &Rollout<'a>,
    id: &IntentId,
    ticket: &Ticket,
    update: &Update,
) -> Stage<'a> {
    let observed = rollout.observed;
    let node = observed
        .nodes
        .get(&ticket.node)
        .filter(|n| n.uid == ticket.uid);
    let (Some(node), Some(system)) = (node, observed.systems.get(&ticket.node)) else {
        return Stage::Lost;
    };
    let order = system.order.as_ref().filter(|o| o.ticket == update.number);
    let (Some(order), Some(report)) = (order, &system.report) else {
        return before_order(rollout, id, ticket, update, node);
    };
    let tried = Tried {
        rollout,
        ticket,
        update,
        node,
        report,
        order,
    };
    match order.action {
        Action::Try => tried.trying(),
        Action::Keep => tried.keeping(),
        Action::GoBack => tried.going_back(),
    }
}

fn before_order<'a>(
    rollout: &Rollout<'a>,
    id: &IntentId,
    ticket: &Ticket,
    update: &Update,
    node: &'a Node,
) -> Stage<'a> {
    let (observed, settings) = (rollout.observed, &rollout.desired.spec.update);
    let ledger = &observed.ledger;
    let Some(member) = member(ledger, id) else {
        return Stage::Lost;
    };
    let still_wanted = rollout
        .goal(member)
        .is_some_and(|g| g.output == update.system);
    if !still_wanted
        || ledger.denied.contains_key(&update.system)
        || settings.held.contains_key(&ticket.node)
    {
        return Stage::Withdrawn;
    }
    if opening(&settings.windows, settings.try_deadline, rollout.now) != Opening::Open {
        return Stage::OutOfTime("the maintenance window closes before it could end".to_owned());
    }
    if update.needs >= Needs::Drain {
        let deadline = rollout.desired.drain_deadline(&ticket.pool);
        let overdue = rollout.now.duration_since(ticket.at) > signed(deadline);
        let pods = observed.pods.get(&ticket.node);
        let left: Vec<&Pod> = pods
            .into_iter()
            .flatten()
            .filter(|p| p.kind == PodKind::Ordinary)
            .collect();
        let drained = node.unschedulable && pods.is_some() && left.is_empty();
        if !drained && overdue {
            return Stage::OutOfTime("its drain did not end in time".to_owned());
        }
        if !node.unschedulable {
            return Stage::Cordon;
        }
        if !drained {
            return Stage::Drain { pods: left };
        }
    }
    if member.role == Role::Server {
        return prepare_server(rollout, ticket, update).unwrap_or(Stage::Try);
    }
    Stage::Try
}

/// What a server needs right before it goes down. S3 is asked again: a minute ago it was another etcd.
fn prepare_server<'a>(
    rollout: &Rollout<'a>,
    ticket: &Ticket,
    update: &Update,
) -> Option<Stage<'a>> {
    let observed = rollout.observed;
    let etcd = observed.etcd.as_ref()?;
    let unavailable = rollout.unavailable_servers(&ticket.node);
    let allowed = rollout.desired.spec.update.allow_control_plane_downtime;
    if let Err(hold) = quorum::may_go_down(&ticket.node, &etcd.members, &unavailable, allowed) {
        return Some(Stage::Blocked(hold));
    }
    if let Some(next) = quorum::successor(&ticket.node, &etcd.members) {
        return Some(Stage::HandOver {
            to: next.name.clone(),
        });
    }
    let name = snapshot_name(update);
    (update.minor && !etcd.snapshots.contains(&name)).then_some(Stage::Snapshot { name })
}

/// One snapshot for each minor that is left, whoever goes first.
pub fn snapshot_name(update: &Update) -> String {
    format!("fabrik-before-1.{}", update.kubernetes.minor)
}

/// A node that was told what to do.
struct Tried<'r, 'a> {
    rollout: &'r Rollout<'a>,
    ticket: &'r Ticket,
    update: &'r Update,
    node: &'a Node,
    report: &'a Report,
    order: &'a Order,
}

impl<'a> Tried<'_, 'a> {
    fn activity(&self) -> Option<&'a Activity> {
        self.report
            .activity
            .as_ref()
            .filter(|a| a.ticket == self.update.number)
    }

    fn phase(&self) -> Option<Phase> {
        self.activity().map(|a| a.phase)
    }

    fn message(&self) -> String {
        self.activity()
            .map(|a| a.message.clone())
            .unwrap_or_default()
    }

    /// Whether the wanted system runs, by a boot of its own where it takes one.
    fn runs_new(&self) -> bool {
        let booted = self.update.needs != Needs::Reboot || self.report.boot != self.update.boot;
        self.report.running == self.update.system && booted
    }

    fn runs_old(&self) -> bool {
        self.report.running == self.update.from && self.report.default == self.update.from
    }

    fn late_by(&self) -> SignedDuration {
        self.rollout.now.duration_since(self.order.deadline)
    }

    fn trying(&self) -> Stage<'a> {
        match self.phase() {
            Some(Phase::Failed) => Stage::Stuck(self.message()),
            Some(Phase::WentBack) => self.went_back(),
            Some(Phase::Trying) if self.runs_new() => self.verify(),
            _ if self.late_by() <= SignedDuration::ZERO => Stage::Applying,
            _ => self.overdue("neither runs the new system nor is back on the old one"),
        }
    }

    fn verify(&self) -> Stage<'a> {
        let missing = gates::missing(self.rollout, self.ticket, self.update, self.node);
        match missing {
            None => Stage::Keep,
            Some(missing) if self.late_by() <= SignedDuration::ZERO => Stage::Verifying(missing),
            Some(missing) if self.can_not_go_back() => Stage::Stuck(format!(
                "{missing}. It has started k3s {} and is not taken back by itself; the data before are in etcd \
                 snapshot {}",
                self.update.kubernetes,
                snapshot_name(self.update)
            )),
            Some(missing) => Stage::GoBack(missing),
        }
    }

    /// S4: once a server has started a newer minor, its data are the newer one's.
    fn can_not_go_back(&self) -> bool {
        let member = self
            .rollout
            .ledger()
            .members
            .values()
            .find(|m| m.name == self.ticket.node);
        let server = member.is_none_or(|m| m.role == Role::Server);
        server && self.update.minor && self.activity().is_some_and(|a| a.started_minor)
    }

    fn keeping(&self) -> Stage<'a> {
        let kept = self.phase() == Some(Phase::Kept)
            && self.runs_new()
            && self.report.default == self.update.system;
        if kept {
            Stage::Done
        } else if self.phase() == Some(Phase::WentBack) {
            self.went_back()
        } else if self.phase() == Some(Phase::Failed)
            || self.late_by() > SignedDuration::from_secs(RETURN_SECS)
        {
            Stage::Stuck(format!(
                "it can't make the new system its default: {}",
                self.message()
            ))
        } else {
            Stage::Keeping
        }
    }

    fn going_back(&self) -> Stage<'a> {
        match self.phase() {
            Some(Phase::WentBack) => self.went_back(),
            Some(Phase::Failed) => Stage::Stuck(self.message()),
            _ if self.late_by() <= SignedDuration::from_secs(RETURN_SECS) => Stage::GoingBack,
            _ => self.overdue("does not go back to the old system"),
        }
    }

    fn went_back(&self) -> Stage<'a> {
        if self.runs_old() && self.node.ready {
            Stage::WentBack(self.message())
        } else if self.late_by() <= SignedDuration::from_secs(2 * RETURN_SECS) {
            Stage::GoingBack
        } else {
            Stage::Stuck("it went back and is not well on the old system either".to_owned())
        }
    }

    /// A reset, once: it boots the old system, which is the default until the new one is kept. Then there is nothing
    /// left but a person.
    fn overdue(&self, what: &str) -> Stage<'a> {
        let Some(at) = self.update.reset else {
            let bootable = self.update.needs == Needs::Reboot && !self.can_not_go_back();
            return if bootable {
                Stage::Reset
            } else {
                Stage::Stuck(format!("it {what}"))
            };
        };
        let passed = self.rollout.now.duration_since(at);
        if passed <= SignedDuration::from_secs(RESET_SECS) {
            Stage::Reset
        } else if passed <= SignedDuration::from_secs(RETURN_SECS) {
            Stage::GoingBack
        } else {
            Stage::Stuck(format!("it {what}, and a reset did not help"))
        }
    }
}

fn signed(duration: std::time::Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

impl Rollout<'_> {
    /// Servers other than `node` that are down or about to be, whoever did it.
    pub(super) fn unavailable_servers(
        &self,
        node: &NodeName,
    ) -> std::collections::BTreeSet<NodeName> {
        let ledger = self.ledger();
        let ticketed = ledger.tickets.values().map(|t| &t.node);
        let cordoned = self.observed.nodes.values().filter(|n| n.control_plane);
        let cordoned = cordoned
            .filter(|n| n.unschedulable || !n.ready)
            .map(|n| &n.name);
        ticketed
            .chain(cordoned)
            .filter(|n| *n != node)
            .cloned()
            .collect()
    }
}
