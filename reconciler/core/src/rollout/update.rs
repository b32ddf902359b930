//! One node's way to its new system. Where it stands is read off the world each time; what can't be read off it is in
//! its ticket, fixed when that was granted.

mod step;
mod tried;
mod words;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

pub(super) use self::step::step;
use self::tried::Tried;
use super::{Rollout, grant};
use crate::departure;
use crate::drain::{self, Left};
use crate::id::{IntentId, NodeName};
use crate::ledger::{Member, Ticket};
use crate::observed::{Datastore, Node, Role};
use crate::quorum;
use crate::secrets;
use crate::spec::{DrainPolicy, Pool};
use crate::system::{Action, Needs, Update};
use crate::window::{Opening, opening};

/// How long a node that was uncordoned in the middle of its drain is left alone.
const REST_SECS: i64 = 1800;
/// How long after its deadline a node is left alone to go back by itself.
const GRACE_SECS: i64 = 120;

/// What is true of a node that holds a ticket for an update.
#[derive(Debug, PartialEq, Eq)]
pub enum Stage<'a> {
    /// Its machine is gone, and whatever it did with it; or its Node is (another one of the same name is none), and it was
    /// not told to try.
    Lost,
    /// It was not told to try yet, and no longer is to, because of this.
    Withdrawn(&'static str),
    /// The drain took too long, or the window closes before the step could end.
    OutOfTime(String),
    /// It must be drained and still takes new pods, or is cordoned under an earlier ticket.
    Cordon,
    /// It is not empty, or was not looked at yet.
    Drain(Left<'a>, DrainPolicy),
    /// Its drain is out of time, and all pods that are left are such as the user lets go by force.
    Force(Left<'a>, DrainPolicy),
    /// Its etcd member leads, and another one should before it goes down.
    HandOver { to: String },
    /// A newer k3s minor is about to start on the first server, and no snapshot of the data before is there.
    Snapshot { name: String },
    /// Cordoned and empty where it must be: it may be told to try.
    Try,
    /// It was to be told, and may not: by now, or while etcd can't be read. An order that is on its way still may reach it until its time is over.
    Unsent(String),
    /// It was not told in time.
    Unordered,
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
    /// It runs the old system again, only because nobody had spoken in time: it may try once more.
    TryAgain,
    /// Only a person can help. The ticket stays, counts, and stops the rollout.
    Stuck(String),
    /// It was stuck, and a person takes its ticket away.
    Released,
}

/// Where the holder of `ticket` stands.
pub fn stage<'a>(
    rollout: &Rollout<'a>,
    id: &IntentId,
    ticket: &Ticket,
    update: &Update,
) -> Stage<'a> {
    match by_itself(rollout, id, ticket, update) {
        Stage::Stuck(_) if rollout.observed.released.contains(&update.number) => Stage::Released,
        stage => stage,
    }
}

/// Where it stands if nobody helps.
fn by_itself<'a>(
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
    // Of a machine of the user's own, only that word says that it is off.
    let let_go = ticket.server.is_own() && !observed.nodes.contains_key(&ticket.node);
    if let_go || observed.hetzner.gone.contains(&ticket.server) {
        return Stage::Lost;
    }
    let Some(action) = told(rollout, ticket, update) else {
        return match (until(update), node) {
            (Some(deadline), _) => not_seen(rollout, id, ticket, update, node, deadline),
            (None, Some(node)) => before_order(rollout, id, ticket, update, node),
            (None, None) => Stage::Lost,
        };
    };
    let Some(node) = node else {
        let why = "its Node was deleted or made anew while it tried, and its machine runs on";
        return Stage::Stuck(why.to_owned());
    };
    let tried = tried(rollout, ticket, update, node);
    let stage = match action {
        Action::Try => tried.trying(),
        Action::Keep => tried.keeping(),
        Action::GoBack => tried.going_back(),
    };
    match stage {
        Stage::Done | Stage::WentBack(_) | Stage::TryAgain if tried.reset_may_come() => {
            Stage::GoingBack
        }
        stage => stage,
    }
}

fn tried<'r, 'a>(
    rollout: &'r Rollout<'a>,
    ticket: &'r Ticket,
    update: &'r Update,
    node: &'a Node,
) -> Tried<'r, 'a> {
    let system = rollout.observed.systems.get(&ticket.node);
    Tried {
        rollout,
        ticket,
        update,
        node,
        report: system.and_then(|s| s.report.as_ref()),
    }
}

/// Whether a server's newer minor is seen to run, which its ticket does not say yet: it may look otherwise soon.
fn starts_minor(rollout: &Rollout<'_>, ticket: &Ticket, update: &Update) -> bool {
    let node = rollout.observed.nodes.get(&ticket.node);
    let node = node.filter(|n| n.uid == ticket.uid && is_told(rollout, ticket, update));
    node.is_some_and(|node| tried(rollout, ticket, update, node).is_seen_to_start())
}

/// Whether the node was told something under this ticket, as far as can be seen.
pub(super) fn is_told(rollout: &Rollout<'_>, ticket: &Ticket, update: &Update) -> bool {
    told(rollout, ticket, update).is_some()
}

/// What it was told. Who speaks of the ticket has heard of it, wherever the order is by now.
fn told(rollout: &Rollout<'_>, ticket: &Ticket, update: &Update) -> Option<Action> {
    let system = rollout.observed.systems.get(&ticket.node)?;
    let order = system.order.as_ref().filter(|o| o.ticket == update.number);
    let activity = system.report.as_ref().and_then(|r| r.activity.as_ref());
    let heard = activity.filter(|a| a.ticket == update.number);
    order
        .map(|o| o.action)
        .or_else(|| heard.map(|_| Action::Try))
}

/// The order was written down and is not there: it is on its way, or was never sent. All is asked again, for what was
/// true when it was written down may be long ago. What may not be sent now is waited for, until nothing that is on its
/// way can be obeyed any more.
fn not_seen<'a>(
    rollout: &Rollout<'a>,
    id: &IntentId,
    ticket: &Ticket,
    update: &Update,
    node: Option<&'a Node>,
    deadline: Timestamp,
) -> Stage<'a> {
    // By the time of the look: an older one does not show what has reached the node since.
    let over = rollout.observed.at.duration_since(deadline);
    if over > SignedDuration::from_secs(GRACE_SECS) {
        return Stage::Unordered;
    }
    let whole = signed(rollout.desired.spec.update.try_deadline);
    let left = deadline.duration_since(rollout.now);
    if left < whole / 2 {
        return Stage::Unsent("too little of its time is left to begin".to_owned());
    }
    let Some(node) = node else {
        return Stage::Unsent("its Node is gone".to_owned());
    };
    match before_order(rollout, id, ticket, update, node) {
        Stage::OutOfTime(why) => Stage::Unsent(why),
        Stage::Withdrawn(why) => Stage::Unsent(why.to_owned()),
        stage => stage,
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
    let Some(member) = observed.ledger.members.get(id) else {
        return Stage::Lost;
    };
    if let Some(why) = withdrawn(rollout, ticket, update, member) {
        return Stage::Withdrawn(why);
    }
    if opening(&settings.windows, time_left(rollout, update), rollout.now) != Opening::Open {
        return Stage::OutOfTime("the maintenance window closes before it could end".to_owned());
    }
    let deadline = rollout.desired.drain_deadline(&ticket.pool);
    let policy = rollout.desired.drain_policy(&ticket.pool);
    let left = Left::on(node, observed).filter(|_| update.needs >= Needs::Drain);
    let drains = update.ordered.is_none();
    let late = rollout.now.duration_since(ticket.at) - signed(deadline);
    let late = Some(late).filter(|late| drains && late.is_positive());
    let cordons = update.needs >= Needs::Drain && departure::takes_cordon(id, ticket, node);
    let goes_on =
        |late| !cordons && drain::goes_on_by_force(left.as_ref(), &settings.force, policy, late);
    if late.is_some_and(|late| !goes_on(late)) {
        let left = left.map_or("what comes before it takes too long".to_owned(), |left| {
            left.words(policy)
        });
        return Stage::OutOfTime(format!("its drain did not end in time: {left}"));
    }
    if cordons {
        return Stage::Cordon;
    }
    match (left, late) {
        (Some(left), None) => return Stage::Drain(left, policy),
        (Some(left), Some(_)) => return Stage::Force(left, policy),
        (None, _) => {}
    }
    if let Err(hold) = grant::may_still_climb(rollout, member, update) {
        return Stage::OutOfTime(hold.message);
    }
    if rollout.goal(member).is_none() {
        return Stage::Unsent("what the newest commit has it run is not known yet".to_owned());
    }
    // A commit that came meanwhile may have given it others.
    if secrets::lacks(rollout.desired, observed, id, member) {
        return Stage::Unsent("it waits for its secrets".to_owned());
    }
    if member.role == Role::Server {
        return prepare_server(rollout, ticket, update);
    }
    Stage::Try
}

/// Why a node that was not told yet gives its ticket back: what is true by now would not have let it have one.
fn withdrawn(
    rollout: &Rollout<'_>,
    ticket: &Ticket,
    update: &Update,
    member: &Member,
) -> Option<&'static str> {
    let spec = &rollout.desired.spec;
    // A goal that is not known (nothing was evaluated yet) is no other goal.
    let goal = rollout.goal(member);
    let pool = spec.pools.get(&ticket.pool);
    if goal.is_some_and(|g| g.output != update.system) {
        Some("something else is wanted by now")
    } else if rollout.ledger().denied.contains_key(&update.system) {
        Some("another node went back from the system")
    } else if spec.update.held.contains_key(&ticket.node) {
        Some("it is held out")
    } else if spec.update.paused.is_some() {
        Some("updates are paused in cluster.toml")
    } else if member.role == Role::Agent && pool.is_none_or(Pool::is_empty) {
        Some("its pool is to have no nodes")
    } else if is_any_stuck(rollout) {
        Some("another node needs a person first")
    } else if grant::tries_before(rollout, member, &update.system).is_some() {
        Some("another node tries the system once more first")
    } else {
        None
    }
}

/// S8: whether a node that was told can't be helped. Who was not told can't be stuck.
fn is_any_stuck(rollout: &Rollout<'_>) -> bool {
    let mut tickets = rollout.ledger().tickets.iter();
    tickets.any(|(id, ticket)| {
        let update = ticket.update().filter(|u| is_told(rollout, ticket, u));
        update.is_some_and(|u| matches!(stage(rollout, id, ticket, u), Stage::Stuck(_)))
    })
}

/// Until when it may try, where that is written down.
fn until(update: &Update) -> Option<Timestamp> {
    update.deadline.filter(|_| update.ordered.is_some())
}

/// How long it may try, from now on.
fn time_left(rollout: &Rollout<'_>, update: &Update) -> Duration {
    let whole = rollout.desired.spec.update.try_deadline;
    let left = until(update).map(|d| d.duration_since(rollout.now));
    left.map_or(whole, |left| {
        Duration::try_from(left).unwrap_or_default().min(whole)
    })
}

/// What a server needs right before it goes down. S3 is asked again: a minute ago it was another etcd.
fn prepare_server<'a>(rollout: &Rollout<'a>, ticket: &Ticket, update: &Update) -> Stage<'a> {
    if let Err(hold) = rollout.etcd_allows(&ticket.node) {
        if rollout.observed.datastore == Datastore::Unread {
            return Stage::Unsent(hold.message);
        }
        // It gives its ticket back: another server may need it to mend what is in the way.
        return Stage::OutOfTime(hold.message);
    }
    // Without etcd there is no leadership to hand over and no snapshot to take.
    let Some(etcd) = rollout.observed.datastore.etcd() else {
        return Stage::Try;
    };
    if let Some(next) = quorum::successor(&ticket.node, &etcd.members) {
        return Stage::HandOver {
            to: next.name.clone(),
        };
    }
    let name = snapshot_name(update);
    // Once a server runs the newer minor, a snapshot holds its data and is no way back.
    let first = update.minor && !rollout.any_server_runs(update.kubernetes.minor);
    if first && !etcd.snapshots.iter().any(|s| is_snapshot(s, &name)) {
        return Stage::Snapshot { name };
    }
    Stage::Try
}

/// k3s adds the node's name and the time to the name that it is given.
fn is_snapshot(file: &str, name: &str) -> bool {
    let rest = file.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Named after the ticket too: one that is left from an earlier try holds older data.
fn snapshot_name(update: &Update) -> String {
    format!("{}-{}", snapshots_before(update), update.number)
}

fn snapshots_before(update: &Update) -> String {
    format!("fabrik-before-1.{}", update.kubernetes.minor)
}

fn signed(duration: Duration) -> SignedDuration {
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
