//! What the cluster and the ledger say of a node.

use std::hash::{Hash, Hasher};

use fabrik_core::effect::Effect;
use fabrik_core::observed::{Node, NodeSystem, Pod};
use fabrik_core::system::{Activity, Order, Phase, Publication, Report, Update};

use super::super::state::{ago, ahead, short};
use super::{PHASE_SECS, Place};
use crate::check::uncordoned_under;
use crate::leader::Flight;
use crate::world::Truth;

/// A step more than the longest that somebody asks about: a kubelet that is silent, a person's uncordoning, a drain, a try
/// that is late, a reset.
const SILENT_SECS: i64 = 80;
const UNCORDONED_SECS: i64 = 100;
const DRAIN_SECS: i64 = 3640;
const LATE_SECS: i64 = 1240;
const RESET_SECS: i64 = 640;

impl Place<'_> {
    pub(super) fn cluster(&self, into: &mut impl Hasher) {
        let world = self.world;
        let server = world.observed.hetzner.servers.get(&self.member.server);
        server.map(|s| s.power as u8).hash(into);
        let resting = world.observed.ledger.resting.get(self.id);
        resting.map(|until| ahead(*until, world.now)).hash(into);
        let lapses = &world.observed.ledger.lapses;
        let lapsed = lapses.iter().filter(|(_, l)| l.node == self.member.name);
        for (path, _) in lapsed.filter(|(path, _)| !self.keeps(short(path))) {
            short(path).hash(into);
        }
        let truth = world.truths.get(&self.member.name);
        (truth.is_some(), self.node.is_some(), self.system.is_some()).hash(into);
        if let Some(truth) = truth {
            self.truth(truth, into);
        }
        if let Some(node) = self.node {
            self.node(node, into);
        }
        if let Some(system) = self.system {
            self.system(system, into);
        }
    }

    /// Nothing makes a node try again what it keeps (the checker has that as a rule), so how often it tried makes no
    /// difference.
    fn keeps(&self, path: &str) -> bool {
        let systems = &self.world.systems;
        let is = |sys: usize| short(systems.path(sys)) == path;
        let machine = self.machine;
        machine.is_some_and(|m| is(m.running) && is(m.default)) && self.ticket.is_none()
    }

    pub(super) fn tries(&self, into: &mut impl Hasher) {
        let tries = &self.world.book.tries;
        let of_this = tries
            .iter()
            .filter(|((_, name, _), _)| *name == self.member.name);
        for ((_, _, path), count) in of_this {
            if !self.keeps(short(path)) {
                (short(path), count).hash(into);
            }
        }
    }

    fn truth(&self, truth: &Truth, into: &mut impl Hasher) {
        let Truth {
            heard_at,
            pods,
            pdb_until: _,
            cordoned_by_person,
            uncordoned_at,
            // Told by what is under way.
            spec_version: _,
            publication,
        } = truth;
        let now = self.world.now;
        (ago(*heard_at, now, SILENT_SECS), pods.len()).hash(into);
        for Pod {
            namespace: _,
            name: _,
            uid: _,
            node: _,
            labels: _,
            ready: _,
            managed: _,
            empty_dir: _,
            kind,
            terminating,
            ends,
            blocked,
        } in pods
        {
            let ends = ends.map(|at| ago(at, now, SILENT_SECS));
            (*kind as u8, terminating, ends, blocked.is_some()).hash(into);
        }
        (
            cordoned_by_person,
            ago(*uncordoned_at, now, UNCORDONED_SECS),
        )
            .hash(into);
        let ticket = self.ticket;
        ticket.map(|t| uncordoned_under(truth, t)).hash(into);
        self.publication(publication.as_ref(), into);
    }

    pub(super) fn publication(&self, publication: Option<&Publication>, into: &mut impl Hasher) {
        let journal = self.machine.map(|m| m.journal.sequence);
        let seen = publication.map(|p| Some(p.sequence).cmp(&journal));
        let newest = publication.map(|p| p.sequence == self.world.sequence);
        (seen, newest).hash(into);
        for system in publication.into_iter().flat_map(|p| &p.systems) {
            short(&system.output).hash(into);
        }
    }

    fn node(&self, node: &Node, into: &mut impl Hasher) {
        let Node {
            name: _,
            uid,
            provider_id: _,
            control_plane: _,
            ready,
            unschedulable,
            cordoned_under,
            deleting,
            heard,
            // Leases can be read here whenever anything can.
            lease_unread: _,
            kubelet_version,
            labels: _,
            our_labels: _,
        } = node;
        let mark = cordoned_under.as_deref().map(|m| self.mark(m));
        (
            *uid == self.member.uid,
            ready,
            unschedulable,
            mark,
            deleting,
        )
            .hash(into);
        let heard = heard.map(|at| ago(at, self.world.now, SILENT_SECS));
        (heard, kubelet_version).hash(into);
    }

    fn system(&self, system: &NodeSystem, into: &mut impl Hasher) {
        let NodeSystem {
            aim,
            order,
            // No server leaves.
            retirement: _,
            report,
            // Words for people, and none are unready here.
            says: _,
            unready_daemons: _,
            // No secrets are handed out here.
            accepts: _,
            well,
        } = system;
        aim.as_ref().map(short).hash(into);
        self.order(order.as_ref(), into);
        (report.is_some(), well.is_some()).hash(into);
        if let Some(report) = report {
            self.report(report, into);
        }
        if let Some(well) = well {
            let heard = self.node.map(|n| n.heard == well.heard);
            let since = ago(well.since, self.world.now, PHASE_SECS);
            (short(&well.running), self.boot(&well.boot), heard, since).hash(into);
        }
    }

    pub(super) fn order(&self, order: Option<&Order>, into: &mut impl Hasher) {
        let Some(order) = order else {
            return false.hash(into);
        };
        let Order {
            ticket,
            system,
            needs,
            minor,
            action,
            seconds,
            not_after,
        } = order;
        (self.number(*ticket), short(system), *action as u8).hash(into);
        // The rest is read once.
        if self.machine.is_some_and(|m| m.journal.ticket < *ticket) {
            let not_after = not_after.map(|at| ago(at, self.world.now, 10));
            (*needs as u8, minor, seconds, not_after).hash(into);
        }
    }

    fn report(&self, report: &Report, into: &mut impl Hasher) {
        let Report {
            schema: _,
            boot,
            running,
            default,
            staged,
            activity,
            // No secrets are handed out here.
            recipient: _,
            secrets: _,
            retired: _,
        } = report;
        (self.boot(boot), short(running), default.as_ref().map(short)).hash(into);
        let staged = staged.as_ref().map(|s| (short(&s.system), s.needs as u8));
        staged.hash(into);
        // Of another ticket than the one that is held, nobody reads it.
        let number = self.update().map(|u| u.number);
        if let Some(activity) = activity.as_ref().filter(|a| Some(a.ticket) == number) {
            let Activity {
                ticket: _,
                phase,
                since,
                started_minor,
                unheard,
                message: _,
            } = activity;
            let since = ago(*since, self.world.now, PHASE_SECS);
            let since = (*phase == Phase::Trying).then_some(since);
            (*phase as u8, since, started_minor, unheard).hash(into);
        }
    }

    pub(super) fn ticket(&self, into: &mut impl Hasher) {
        let Some(ticket) = self.ticket else {
            return false.hash(into);
        };
        let now = self.world.now;
        let Some(update) = ticket.update() else {
            return ago(ticket.at, now, DRAIN_SECS).hash(into);
        };
        let Update {
            number,
            system,
            kubernetes: _,
            from,
            boot,
            needs,
            minor,
            started_minor,
            reset,
            ordered,
            deadline,
        } = update;
        (
            self.number(*number),
            short(system),
            short(from),
            self.boot(boot),
        )
            .hash(into);
        (*needs as u8, minor, started_minor).hash(into);
        // Once it is told, its deadline is what counts.
        let drains = ordered.is_none().then(|| ago(ticket.at, now, DRAIN_SECS));
        let deadline = deadline.map(|at| ago(at, now, LATE_SECS));
        (drains, deadline, reset.map(|at| ago(at, now, RESET_SECS))).hash(into);
        let lapses = self.world.observed.ledger.lapses.get(system);
        lapses.map(|l| l.include(*ordered)).hash(into);
        let of_this = |name: &String| name.contains(&format!("-{number}-"));
        self.world.snapshots.iter().any(of_this).hash(into);
    }

    /// A request that is on its way.
    pub(super) fn flight(&self, flight: &Flight, into: &mut impl Hasher) {
        let Flight {
            lands,
            effect,
            spec_version,
        } = flight;
        (effect.verb(), ahead(*lands, self.world.now)).hash(into);
        let truth = self.world.truths.get(&self.member.name);
        truth.map(|t| t.spec_version == *spec_version).hash(into);
        match effect {
            Effect::Cordon { mark, over, .. } => {
                let borne = self.node.map(|n| n.cordoned_under == *over);
                (self.mark(mark), borne).hash(into);
            }
            Effect::Uncordon { mark, .. } => {
                let borne = self.node.and_then(|n| n.cordoned_under.as_ref());
                (borne == Some(mark)).hash(into);
            }
            Effect::Order { order, .. } => self.order(Some(order), into),
            Effect::Aim { system, .. } => short(system).hash(into),
            Effect::Evict { uid, .. } | Effect::ForcePod { uid, .. } => {
                truth
                    .map(|t| t.pods.iter().any(|p| p.uid == *uid))
                    .hash(into);
            }
            Effect::MoveEtcdLeader { to, .. } => to.hash(into),
            _ => {}
        }
    }
}
