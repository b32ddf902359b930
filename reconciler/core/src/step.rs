//! What may be done now. The leader calls it after every observation; nothing is remembered in between.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;

use crate::departure::{self, Leaver};
use crate::desired::Desired;
use crate::effect::Effect;
use crate::guard;
use crate::hold::{Hold, HoldReason, goes_on};
use crate::id::{IntentId, PoolName};
use crate::infrastructure::Ground;
use crate::ledger::{Change, EventKind, Member, Purpose, Reason, Ticket};
use crate::observed::{Observed, Role};
use crate::pool::{self, Resize};
use crate::spec::Pool;
use crate::{adopt, arrival, infrastructure, machines, rollout, secrets, servers};

/// What to do now, and what waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// To be written to the ledger first. While there are any, `effects` are not to be carried out: write, and ask again.
    pub changes: Vec<Change>,
    pub effects: Vec<Effect>,
    pub holds: Vec<Hold>,
}

/// The next step from what is wanted and what is there.
pub fn step(desired: &Desired, observed: &Observed, now: Timestamp) -> Step {
    if observed.paused.is_some() {
        return rollout::finish(desired, observed, now);
    }
    let nodes_are_believable = guard::nodes_are_believable(&pool::without_node(observed));
    let mut pass = Pass {
        desired,
        observed,
        now,
        ground: Ground::new(desired, observed),
        next_intent: observed.ledger.next_intent,
        given: BTreeSet::new(),
        nodes_are_believable: nodes_are_believable.is_ok(),
        step: infrastructure::step(desired, observed),
    };
    pass.step.holds.extend(nodes_are_believable.err());
    let servers_are_believable = guard::servers_are_believable(&desired.spec, observed);
    pass.step.holds.extend(servers_are_believable.err());
    pass.step.extend(adopt::step(desired, observed));
    pass.step.extend(servers::own::step(desired, observed, now));
    pass.step.extend(arrival::strays(observed));
    pass.step.extend(strangers(observed));
    pass.step.extend(secrets::step(desired, observed));
    if let Some(pool) = servers::pool(&desired.spec, &observed.ledger) {
        pass.servers(&pool);
    }
    for (name, pool) in pool::all(desired, observed) {
        pass.pool(name, &pool);
    }
    let Pass {
        ground, mut step, ..
    } = pass;
    let mut budgets = rollout::budgets(desired, observed, &step.changes);
    let granted = step.changes.iter().filter_map(|change| match change {
        Change::Grant { id, .. } => Some(id.clone()),
        _ => None,
    });
    let granted = granted.collect();
    step.extend(rollout::step(
        desired,
        observed,
        &mut budgets,
        &granted,
        now,
    ));
    step.effects.extend(ground.missing_groups());
    step.effects.extend(useless_tokens(observed));
    step
}

/// One pass over the pools: they share one ground, one numbering of intents and one result.
struct Pass<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    now: Timestamp,
    ground: Ground<'a>,
    next_intent: u64,
    given: BTreeSet<IntentId>,
    nodes_are_believable: bool,
    step: Step,
}

impl Pass<'_> {
    fn pool(&mut self, name: &PoolName, pool: &Pool) {
        let (spec, observed) = (&self.desired.spec, self.observed);
        let resize = pool::resize(spec, name, pool, observed, self.now);
        let believable = self.nodes_are_believable;
        self.step
            .extend(machines::step(spec, name, pool, observed, believable));
        self.go_on(name, pool, &resize, departure::step);
        self.label(name, pool);
        self.intend(name, resize.create);
        self.cancel(&resize);
        self.grant(name, pool, &resize);
        self.step.holds.extend(resize.holds);
    }

    /// One server at a time, in or out (S3).
    fn servers(&mut self, pool: &Pool) {
        let name = PoolName::servers();
        let resize = servers::resize(self.desired, pool, self.observed, self.now);
        self.go_on(&name, pool, &resize, servers::step);
        // Before anything is begun: nobody knows how many servers there are.
        if let Some(left) = arrival::left::of_forgotten(self.desired, self.observed) {
            self.step.changes.push(left);
            return;
        }
        if resize.create > 0 && resize.remove.is_empty() {
            match servers::may_join(pool, self.observed) {
                Ok(()) => self.intend(&name, 1),
                Err(hold) => self.step.holds.push(hold),
            }
        }
        self.cancel(&resize);
        self.grant(&name, pool, &resize);
        self.step.holds.extend(resize.holds);
    }

    /// What was begun with servers of a pool.
    fn go_on(
        &mut self,
        name: &PoolName,
        pool: &Pool,
        resize: &Resize,
        leave: fn(&Leaver<'_>) -> Step,
    ) {
        let (observed, now) = (self.observed, self.now);
        let ledger = &observed.ledger;
        let coming = ledger.intents.iter();
        for (id, intent) in coming.filter(|(_, i)| i.pool == *name && !i.is_own()) {
            let next = match guard::has_project(&self.desired.spec, &intent.name) {
                Ok(()) => arrival::step(id, intent, pool, &mut self.ground, observed, now),
                Err(hold) => Step::hold(hold),
            };
            self.step.extend(next);
        }
        let leaving = |t: &Ticket| t.pool == *name && t.leave().is_some();
        for (id, ticket) in ledger.tickets.iter().filter(|(_, t)| leaving(t)) {
            let next = leave(&Leaver {
                id,
                ticket,
                pool,
                forced: &self.desired.spec.update.force,
                wanted_again: resize.take_back.contains(id),
                observed,
                now,
            });
            self.step.extend(next);
        }
    }

    fn label(&mut self, name: &PoolName, pool: &Pool) {
        let ledger = &self.observed.ledger;
        let labels = arrival::node_labels(name, pool);
        let staying = |id: &IntentId| !ledger.tickets.contains_key(id);
        let members = ledger
            .members
            .iter()
            .filter(|(id, m)| m.pool == *name && staying(id));
        let nodes = members
            .filter_map(|(_, m)| self.observed.nodes.get(&m.name).filter(|n| n.uid == m.uid));
        self.step
            .effects
            .extend(nodes.filter_map(|node| arrival::relabel(node, &labels)));
    }

    /// Writes down which servers are wanted, as far as the hourly cap allows.
    fn intend(&mut self, name: &PoolName, create: u32) {
        let (observed, spec) = (self.observed, &self.desired.spec);
        let cap = spec.limits.creations_per_hour as usize;
        let done = self.done_this_hour(EventKind::Creation);
        let room = u32::try_from(cap.saturating_sub(done)).unwrap_or(u32::MAX);
        let count = create.min(room);
        if count < create {
            let waiting = create - count;
            self.step.holds.push(Hold {
                about: format!("pool {name}"),
                reason: HoldReason::Throttled,
                message: format!(
                    "{waiting} more servers wait: [limits] creations-per-hour is {cap} and is used up{}",
                    goes_on(observed.ledger.room_at(EventKind::Creation, cap, self.now))
                ),
            });
        }
        let first = self.next_intent;
        let new = pool::next_servers(first, count, name, spec, observed, &mut self.given);
        for server in new {
            self.next_intent = server.sequence + 1;
            self.step.changes.push(Change::Intend {
                sequence: server.sequence,
                id: server.id,
                pool: name.clone(),
                name: server.name,
            });
        }
    }

    /// Intents that are no longer wanted. One that has a server costs a deletion.
    fn cancel(&mut self, resize: &Resize) {
        for id in &resize.cancel {
            let Some(intent) = self.observed.ledger.intents.get(id) else {
                continue;
            };
            match self.may_delete(&format!("server {}", intent.name)) {
                Err(hold) if intent.server.is_some() => self.step.holds.push(hold),
                _ => self.step.changes.push(Change::Cancel { id: id.clone() }),
            }
        }
    }

    /// Lets members go one after the other while each guard agrees; a ticket granted here counts for the next one.
    fn grant(&mut self, name: &PoolName, pool: &Pool, resize: &Resize) {
        if resize.remove.is_empty() {
            return;
        }
        let observed = self.observed;
        let of_pool = observed
            .ledger
            .members
            .iter()
            .filter(|(_, m)| m.pool == *name);
        let mut unavailable = of_pool
            .filter(|(id, m)| !guard::is_available(id, m, observed))
            .filter(|(id, _)| !pool.may_be_off || observed.ledger.tickets.contains_key(*id))
            .count();
        let mut ticketed = observed
            .ledger
            .tickets
            .values()
            .filter(|t| t.pool == *name)
            .count();

        for (number, (id, reason)) in resize.remove.iter().enumerate() {
            let Some(member) = observed.ledger.members.get(id) else {
                continue;
            };
            if *reason == Reason::NodeDeleted && !self.nodes_are_believable {
                continue;
            }
            let available = guard::is_available(id, member, observed);
            let about = format!("node {}", member.name);
            let allowed = guard::within_budget(member, unavailable, available, ticketed, pool)
                .and_then(|()| match member.role {
                    Role::Server => servers::may_leave(member, *reason, observed),
                    _ => Ok(()),
                })
                .and_then(|()| self.may_delete(&about));
            if let Err(mut hold) = allowed {
                // The sick come first: who is behind waits for the same reason.
                let behind = resize.remove.len() - number - 1;
                if behind > 0 {
                    let _infallible = write!(hold.message, "; {behind} more wait behind it");
                }
                self.step.holds.push(hold);
                break;
            }
            let ticket = self.ticket(member, *reason);
            self.step.changes.push(Change::Grant {
                id: id.clone(),
                ticket,
            });
            unavailable += usize::from(available);
            ticketed += 1;
        }
    }

    fn ticket(&self, member: &Member, reason: Reason) -> Ticket {
        Ticket {
            pool: member.pool.clone(),
            node: member.name.clone(),
            uid: member.uid.clone(),
            server: member.server,
            purpose: Purpose::Leave {
                reason,
                retiring: None,
            },
            at: self.now,
        }
    }

    fn may_delete(&self, about: &str) -> Result<(), Hold> {
        let done = self.done_this_hour(EventKind::Deletion);
        let cap = self.desired.spec.limits.deletions_per_hour;
        let ledger = &self.observed.ledger;
        let again = ledger.room_at(EventKind::Deletion, cap as usize, self.now);
        guard::within_hourly_cap(about, done, cap, again)
    }

    /// What the last hour saw, and what this pass adds to it.
    fn done_this_hour(&self, kind: EventKind) -> usize {
        let ledger = &self.observed.ledger;
        let of_kind = |change: &&Change| change.kind(ledger) == Some(kind);
        let added = self.step.changes.iter().filter(of_kind).count();
        ledger.count_last_hour(kind, self.now).saturating_add(added)
    }
}

/// Tokens that no intent stands for.
fn useless_tokens(observed: &Observed) -> impl Iterator<Item = Effect> {
    let useless = |id: &&IntentId| !observed.ledger.intents.contains_key(*id);
    observed
        .tokens
        .iter()
        .filter(useless)
        .map(|id| Effect::RevokeToken { intent: id.clone() })
}

/// Nodes that no intent stands for: reported, given nothing and not counted.
fn strangers(observed: &Observed) -> Step {
    let ledger = &observed.ledger;
    let intended = ledger.intents.values().map(|i| &i.name);
    let known: std::collections::BTreeSet<_> = intended
        .chain(ledger.members.values().map(|m| &m.name))
        .collect();
    let holds = observed
        .nodes
        .values()
        .filter(|n| !n.control_plane && !known.contains(&n.name))
        .map(|node| Hold {
            about: format!("node {}", node.name),
            reason: HoldReason::Unexplained,
            message:
                "no intent stands for it; it is given nothing and not counted. If it is not yours, \
                      somebody has a join token: delete the Node and look at its machine"
                    .to_owned(),
        });
    Step::holds(holds)
}

impl Step {
    /// Whether a server comes or goes by it, or a node is begun with: then what is at Hetzner must be known to the moment.
    /// What was begun with nodes goes on without.
    pub fn begins_or_ends(&self) -> bool {
        let goes_on = |change: &Change| {
            matches!(
                change,
                Change::Ordered { .. }
                    | Change::Unordered { .. }
                    | Change::TryAgain { .. }
                    | Change::StartedMinor { .. }
                    | Change::Deny { .. }
                    | Change::EndUpdate { .. }
                    | Change::ForgetDenials { .. }
                    | Change::RecordRecipient { .. }
                    | Change::ReplaceRecipient { .. }
            )
        };
        !self.effects.iter().all(Effect::leaves_servers_alone) || !self.changes.iter().all(goes_on)
    }

    pub fn change(change: Change) -> Self {
        Self {
            changes: vec![change],
            ..Self::default()
        }
    }

    pub fn effect(effect: Effect) -> Self {
        Self {
            effects: vec![effect],
            ..Self::default()
        }
    }

    pub fn hold(hold: Hold) -> Self {
        Self {
            holds: vec![hold],
            ..Self::default()
        }
    }

    pub fn holds(holds: impl IntoIterator<Item = Hold>) -> Self {
        Self {
            holds: holds.into_iter().collect(),
            ..Self::default()
        }
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.effects.extend(other.effects);
        self.holds.extend(other.holds);
    }
}
