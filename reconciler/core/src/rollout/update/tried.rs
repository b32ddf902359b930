//! Where a node stands that was told what to do: what it says of itself, and what its Node says.

use jiff::SignedDuration;

use super::{GRACE_SECS, Stage, snapshots_before};
use crate::ledger::Ticket;
use crate::observed::{Datastore, Node, Power, Role};
use crate::rollout::{Rollout, gates};
use crate::spec::K3sVersion;
use crate::system::{Activity, Needs, Phase, Report, Update};

/// How long after a reset was written down it is asked for: a leader that dies in between leaves it to a person.
const RESET_SECS: i64 = 3;
/// How long a reset that was asked for may be on its way to Hetzner: by then a request has come, or will not.
const RESET_COMES_SECS: i64 = 60;
/// How long after its deadline a node may take to go back by itself: a reboot of the old system and joining again.
const RETURN_SECS: i64 = 600;
/// How long a Node that is not Ready must not have been heard of before its machine counts as one that hangs.
const SILENT_SECS: i64 = 60;
/// How often a system may be left because nobody spoke, before that counts as its own fault.
const MAX_LAPSES: u32 = 1;
/// How many characters of a node's own words are kept.
const MAX_WORDS: usize = 500;

/// A node that was told what to do.
pub struct Tried<'r, 'a> {
    pub rollout: &'r Rollout<'a>,
    pub ticket: &'r Ticket,
    pub update: &'r Update,
    pub node: &'a Node,
    /// None where it says nothing that can be read.
    pub report: Option<&'a Report>,
}

impl<'a> Tried<'_, 'a> {
    fn activity(&self) -> Option<&'a Activity> {
        let activity = self.report?.activity.as_ref();
        activity.filter(|a| a.ticket == self.update.number)
    }

    fn phase(&self) -> Option<Phase> {
        self.activity().map(|a| a.phase)
    }

    /// The node's own words, cut: they go into the ledger, which has no room for whatever a node may send.
    fn message(&self) -> String {
        let words = self.activity().map_or("", |a| a.message.as_str());
        words.chars().take(MAX_WORDS).collect()
    }

    /// Whether the wanted system runs, by a boot of its own where it takes one.
    fn runs_new(&self) -> bool {
        self.report.is_some_and(|report| {
            let booted = self.update.needs != Needs::Reboot || report.boot != self.update.boot;
            report.running == self.update.system && booted
        })
    }

    /// It runs what an ordinary boot would start, and that is not the new system: the old one, or what a person gave it since.
    fn is_back(&self) -> bool {
        let new = &self.update.system;
        self.report
            .is_some_and(|r| r.running != *new && r.boots(&r.running))
    }

    fn late_by(&self) -> SignedDuration {
        let deadline = self.update.deadline.unwrap_or(self.ticket.at);
        self.rollout.now.duration_since(deadline)
    }

    pub fn trying(&self) -> Stage<'a> {
        match self.phase() {
            Some(Phase::Failed) => self.failed(),
            Some(Phase::WentBack) => self.went_back_by_itself(),
            Some(Phase::Kept) if self.is_kept() => Stage::Done,
            Some(Phase::Trying) if self.runs_new() => self.verify(),
            _ if self.late_by() <= SignedDuration::ZERO => Stage::Applying,
            // It goes back by itself now, and may be in the middle of it.
            _ if self.late_by() <= SignedDuration::from_secs(GRACE_SECS) => Stage::GoingBack,
            _ if self.report.is_none() => self.overdue("says nothing that can be read"),
            _ => self.overdue("neither runs the new system nor is back on the old one"),
        }
    }

    fn verify(&self) -> Stage<'a> {
        let ledger = self.rollout.ledger();
        let denied = ledger.denied.get(&self.update.system);
        let missing = match denied {
            Some(denied) => Some(format!("node {} went back from this system", denied.node)),
            None => gates::missing(self.rollout, self.ticket, self.update, self.node),
        };
        match missing {
            Some(missing) if denied.is_some() && !self.can_not_go_back() => Stage::GoBack(missing),
            None => Stage::Keep,
            Some(missing) if self.late_by() <= SignedDuration::ZERO => Stage::Verifying(missing),
            Some(missing) if self.can_not_go_back() => Stage::Stuck(format!(
                "{missing}. It has started k3s {} and is not taken back by itself; {}",
                self.update.kubernetes,
                self.way_back()
            )),
            Some(missing) => Stage::GoBack(missing),
        }
    }

    /// S4: once a server has started a newer minor, its data are the newer one's. Its Node may tell before it does.
    fn can_not_go_back(&self) -> bool {
        let runs = K3sVersion::of_kubelet(&self.node.kubelet_version);
        let started = self.activity().is_some_and(|a| a.started_minor)
            || runs.is_none_or(|v| v.minor >= self.update.kubernetes.minor);
        self.is_server() && self.update.minor && started
    }

    /// Whether the newer minor is seen to run on it now, which its ticket does not say yet.
    pub fn is_seen_to_start(&self) -> bool {
        let runs = K3sVersion::of_kubelet(&self.node.kubelet_version);
        let seen = self.phase() == Some(Phase::Trying)
            || runs.is_some_and(|v| v.minor >= self.update.kubernetes.minor);
        self.is_server() && self.update.minor && !self.update.started_minor && seen
    }

    /// A server whose newer minor has run, and which runs the old one again: it lost its power, or a person did that.
    fn is_back_on_newer_data(&self) -> bool {
        let said =
            self.phase() == Some(Phase::Failed) && self.activity().is_some_and(|a| a.started_minor);
        self.is_server() && self.update.minor && (self.update.started_minor || said)
    }

    fn back_on_newer_data(&self) -> Stage<'a> {
        Stage::Stuck(format!(
            "it is back on the old system, and k3s {} has run on it: its data are the newer one's; {}",
            self.update.kubernetes,
            self.way_back()
        ))
    }

    fn is_server(&self) -> bool {
        let mut members = self.rollout.ledger().members.values();
        let member = members.find(|m| m.name == self.ticket.node);
        member.is_none_or(|m| m.role == Role::Server)
    }

    /// Where the data are that were there before this minor: on the disk of the server that led then. Those of the one that
    /// leads now are seen.
    fn way_back(&self) -> String {
        let before = snapshots_before(self.update);
        let etcd = match &self.rollout.observed.datastore {
            Datastore::Etcd(etcd) => Some(etcd),
            Datastore::Unread => None,
            Datastore::Other => return "no snapshot of its datastore was taken".to_owned(),
        };
        let seen = etcd.into_iter().flat_map(|e| &e.snapshots);
        let seen: Vec<&str> = seen
            .map(String::as_str)
            .filter(|n| n.starts_with(&before))
            .collect();
        if seen.is_empty() {
            return format!(
                "the data before are in an etcd snapshot {before}-…, on the server that led then"
            );
        }
        format!(
            "the data before are in etcd snapshot {}, on the leader's disk",
            seen.join(" or ")
        )
    }

    /// Neither came about, as far as the agent got. A person may have put it right since.
    fn failed(&self) -> Stage<'a> {
        if self.is_back() && self.is_back_on_newer_data() {
            self.back_on_newer_data()
        } else if self.is_back() && self.node.ready {
            Stage::WentBack(self.message())
        } else {
            Stage::Stuck(self.message())
        }
    }

    fn is_kept(&self) -> bool {
        let boots_it = |r: &Report| r.boots(&self.update.system);
        self.runs_new() && self.report.is_some_and(boots_it)
    }

    pub fn keeping(&self) -> Stage<'a> {
        if self.phase() == Some(Phase::Kept) && self.is_kept() {
            Stage::Done
        } else if self.phase() == Some(Phase::WentBack) {
            self.went_back_by_itself()
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

    /// S1: one that comes late reaches no node that has given its ticket back.
    pub fn reset_may_come(&self) -> bool {
        let limit = SignedDuration::from_secs(RESET_COMES_SECS);
        let reset = self.update.reset;
        reset.is_some_and(|at| self.rollout.now.duration_since(at) <= limit)
    }

    pub fn going_back(&self) -> Stage<'a> {
        match self.phase() {
            Some(Phase::WentBack) => self.went_back(),
            Some(Phase::Failed) => self.failed(),
            _ if self.late_by() <= SignedDuration::from_secs(RETURN_SECS) => Stage::GoingBack,
            _ => self.overdue("does not go back to the old system"),
        }
    }

    fn went_back_by_itself(&self) -> Stage<'a> {
        match self.went_back() {
            Stage::WentBack(_) if self.was_unheard() => Stage::TryAgain,
            stage => stage,
        }
    }

    /// Its try says nothing of the system, and that did not happen too often (S8).
    fn was_unheard(&self) -> bool {
        let ledger = self.rollout.ledger();
        let system = &self.update.system;
        self.activity().is_some_and(|a| a.unheard)
            && !ledger.denied.contains_key(system)
            && ledger
                .lapses
                .get(system)
                .is_none_or(|l| l.count < MAX_LAPSES || l.include(self.update.ordered))
    }

    fn went_back(&self) -> Stage<'a> {
        let half_way = self.report.is_some_and(Report::is_half_way);
        if self.is_back() && self.is_back_on_newer_data() {
            self.back_on_newer_data()
        } else if self.is_back() && self.node.ready {
            Stage::WentBack(self.message())
        } else if half_way {
            Stage::Stuck(self.message())
        } else if self.late_by() <= SignedDuration::from_secs(2 * RETURN_SECS) {
            Stage::GoingBack
        } else {
            Stage::Stuck("it went back and is not well on the old system either".to_owned())
        }
    }

    /// A reset, once: it boots the old system, which is the default until the new one is kept. Then there is nothing
    /// left but a person.
    fn overdue(&self, what: &str) -> Stage<'a> {
        let may_reset = self.may_reset();
        let Some(at) = self.update.reset else {
            return match may_reset {
                // A server that is silent may have started the newer minor: no word is no word.
                _ if self.is_server() && self.update.minor => Stage::Stuck(format!("it {what}")),
                Ok(()) => Stage::Reset,
                Err(_) if self.late_by() <= SignedDuration::from_secs(RETURN_SECS) => {
                    Stage::GoingBack
                }
                Err(why) => Stage::Stuck(format!("it {what}, and it is not reset: {why}")),
            };
        };
        let passed = self.rollout.now.duration_since(at);
        if passed <= SignedDuration::from_secs(RESET_SECS) && may_reset.is_ok() {
            Stage::Reset
        } else if passed <= SignedDuration::from_secs(RETURN_SECS) {
            Stage::GoingBack
        } else {
            Stage::Stuck(format!("it {what}, and a reset did not help"))
        }
    }
}

impl Tried<'_, '_> {
    /// A reset cuts the power: it is for a machine that hangs, not for one whose agent alone is silent; and not for a
    /// server that etcd can't spare (S3).
    fn may_reset(&self) -> Result<(), String> {
        let node = self.node;
        if self.ticket.server.is_own() {
            let why = "it is a machine of yours, so nobody but you can reset it. It boots its old system then";
            return Err(why.to_owned());
        }
        let servers = &self.rollout.observed.hetzner.servers;
        match servers.get(&self.ticket.server).map(|s| s.power) {
            Some(Power::Running) => {}
            Some(Power::Off) => return Err("its machine is off at Hetzner. Power it on".to_owned()),
            Some(Power::Changing) => return Err("Hetzner is changing its power".to_owned()),
            None => return Err("Hetzner does not show its machine now".to_owned()),
        }
        if node.ready {
            return Err("its Node is Ready. Look at its `fabrik agent`".to_owned());
        }
        if node.lease_unread {
            return Err("its kubelet's Lease can't be read".to_owned());
        }
        if !node.is_silent(self.rollout.observed.at, SILENT_SECS) {
            return Err("its kubelet still renews its Lease. Look at what it lacks".to_owned());
        }
        if self.is_server() {
            let allowed = self.rollout.etcd_allows(&self.ticket.node);
            return allowed.map_err(|hold| hold.message);
        }
        Ok(())
    }
}
