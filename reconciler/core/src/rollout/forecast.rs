//! What a rollout has still to do, in which order, and when it will have ended: for people, nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Rollout, grant};
use crate::desired::Desired;
use crate::id::{NodeName, PoolName};
use crate::ledger::Member;
use crate::observed::{Observed, Role};
use crate::system::Needs;
use crate::window::{self, Opening, opening};

/// How long a switch takes until the node is seen to run it, and a reboot until it is Ready again, where no step of the
/// pool was measured yet. The soak comes on top.
const SWITCH_SECS: u64 = 30;
const REBOOT_SECS: u64 = 150;

/// Servers first, then the pools beside one another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forecast {
    pub waves: Vec<Wave>,
    /// When it will have ended, if nothing stands in its way.
    pub ends: Timestamp,
    /// As seen from the moment of the forecast.
    pub left_secs: u64,
    /// When it may begin, where the maintenance windows are closed until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<Timestamp>,
}

/// The nodes of one pool that do not run what they should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wave {
    pub pool: PoolName,
    pub role: Role,
    /// In the order in which they would go.
    pub nodes: Vec<NodeName>,
    pub at_once: u32,
    /// How many of them reboot, where they all have said what it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboots: Option<usize>,
    pub takes_secs: u64,
}

/// What is left to do; `None` where each node runs what it should.
pub fn forecast(desired: &Desired, observed: &Observed, now: Timestamp) -> Option<Forecast> {
    let rollout = Rollout {
        desired,
        observed,
        now,
    };
    let mut pools = BTreeMap::<(bool, &PoolName), Vec<&Member>>::new();
    for member in observed.ledger.members.values() {
        let held = desired.spec.update.held.contains_key(&member.name);
        if rollout.goal(member).is_some() && !rollout.is_done(member) && !held {
            let agent = member.role != Role::Server;
            pools.entry((agent, &member.pool)).or_default().push(member);
        }
    }
    let waves = pools.into_iter();
    let waves: Vec<Wave> = waves
        .map(|((_, pool), members)| rollout.wave(pool, members))
        .collect();
    let of = |role: Role| waves.iter().filter(move |w| w.role == role);
    let servers: u64 = of(Role::Server).map(|w| w.takes_secs).sum();
    let agents = of(Role::Agent).map(|w| w.takes_secs).max().unwrap_or(0);
    let settings = &desired.spec.update;
    let begins = match opening(&settings.windows, settings.try_deadline, now) {
        Opening::Closed { opens } => opens,
        Opening::TooShort { .. } => window::opens(&settings.windows, now),
        Opening::Open => None,
    };
    let takes = i64::try_from(servers.saturating_add(agents)).unwrap_or(i64::MAX);
    let ends = begins
        .unwrap_or(now)
        .saturating_add(SignedDuration::from_secs(takes))
        .ok()?;
    let left = ends.duration_since(now).as_secs();
    (!waves.is_empty()).then_some(Forecast {
        waves,
        ends,
        left_secs: u64::try_from(left).unwrap_or(0),
        begins,
    })
}

/// Nodes that will be drained for a rollout, as far as they have said what it takes; who has not may be.
pub fn to_drain(desired: &Desired, observed: &Observed, now: Timestamp) -> BTreeSet<NodeName> {
    let rollout = Rollout {
        desired,
        observed,
        now,
    };
    let stays = |member: &Member| {
        let runs = grant::rung(&rollout, member).map(|r| r.runs.minor);
        let same_minor = runs == rollout.goal(member).map(|g| g.kubernetes.minor);
        let needs = rollout.needs(member);
        same_minor && needs.is_some_and(|needs| needs < Needs::Drain)
    };
    let waves = forecast(desired, observed, now).map_or_else(Vec::new, |f| f.waves);
    let names: BTreeSet<NodeName> = waves.into_iter().flat_map(|w| w.nodes).collect();
    let members = observed.ledger.members.values();
    let drained = members.filter(|m| names.contains(&m.name) && !stays(m));
    drained.map(|m| m.name.clone()).collect()
}

impl Rollout<'_> {
    /// Running what its pool wants in the end, which a server of a commit with two steps has not after the first.
    fn is_done(&self, member: &Member) -> bool {
        let target = self.desired.targets.get(&member.pool);
        let last = target.map(|t| &t.system.output);
        last.is_some() && self.running(member) == last && self.is_there(member)
    }

    fn wave(&self, pool: &PoolName, mut members: Vec<&Member>) -> Wave {
        let settings = &self.desired.spec.update;
        let etcd = self.observed.datastore.etcd();
        let etcd_members = etcd.into_iter().flat_map(|e| e.members.iter().flatten());
        let etcd_leader = etcd_members.into_iter().find(|m| m.leader);
        let etcd_leader = etcd_leader.and_then(|m| m.node.as_ref());
        members.sort_by_key(|m| {
            (
                Some(&m.name) != settings.canary.as_ref(),
                Some(&m.name) == self.observed.leader.as_ref(),
                Some(&m.name) == etcd_leader,
                m.name.clone(),
            )
        });
        let role = members.first().map_or(Role::Agent, |m| m.role);
        let at_once = match self.desired.spec.pools.get(pool) {
            Some(pool) if role == Role::Agent => pool.max_unavailable.max(1),
            _ => 1,
        };
        let needs: Option<Vec<Needs>> = members.iter().map(|m| self.needs(m)).collect();
        let reboots = needs
            .as_ref()
            .map(|n| n.iter().filter(|n| **n == Needs::Reboot).count());
        let steps: u64 = members.iter().map(|m| self.steps_left(m)).sum();
        let pace = self.ledger().pace.get(pool).filter(|p| p.steps > 0);
        let soak = settings.soak.as_secs();
        let each = match (pace, reboots) {
            (Some(pace), _) => pace.mean_secs,
            (None, Some(0)) => SWITCH_SECS.saturating_add(soak),
            (None, _) => REBOOT_SECS.saturating_add(soak),
        };
        let rounds = steps.div_ceil(at_once.into());
        Wave {
            pool: pool.clone(),
            role,
            nodes: members.iter().map(|m| m.name.clone()).collect(),
            at_once,
            reboots,
            takes_secs: rounds.saturating_mul(each),
        }
    }

    /// Two where a server has the operating system and the minor before it.
    fn steps_left(&self, member: &Member) -> u64 {
        let target = self.desired.targets.get(&member.pool);
        let first = target.and_then(|t| t.first.as_ref());
        let before_first = first.is_some_and(|f| {
            self.goal(member) == Some(f) && self.running(member) != Some(&f.output)
        });
        if member.role == Role::Server && before_first {
            2
        } else {
            1
        }
    }

    /// What it takes, where the node has its goal on disk and can tell.
    fn needs(&self, member: &Member) -> Option<Needs> {
        let report = self.observed.systems.get(&member.name)?.report.as_ref()?;
        let staged = report.staged.as_ref()?;
        (staged.system == self.goal(member)?.output).then_some(staged.needs)
    }
}

/// `3 reboots, servers a, b, c, then 12 agents of pool workers two at a time, about 40 minutes`.
impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reboots: Option<usize> = self.waves.iter().map(|w| w.reboots).sum();
        match reboots {
            Some(0) => f.write_str("no reboot, ")?,
            Some(1) => f.write_str("1 reboot, ")?,
            Some(count) => write!(f, "{count} reboots, ")?,
            None => {}
        }
        let (servers, agents): (Vec<_>, Vec<_>) =
            self.waves.iter().partition(|w| w.role == Role::Server);
        for wave in &servers {
            let names: Vec<&str> = wave.nodes.iter().map(NodeName::as_str).collect();
            let word = if names.len() == 1 {
                "server"
            } else {
                "servers"
            };
            write!(f, "{word} {}, ", names.join(", "))?;
        }
        if !servers.is_empty() && !agents.is_empty() {
            f.write_str("then ")?;
        }
        for wave in agents {
            let word = if wave.nodes.len() == 1 {
                "agent"
            } else {
                "agents"
            };
            write!(f, "{} {word} of pool {}", wave.nodes.len(), wave.pool)?;
            if wave.nodes.len() > 1 {
                write!(f, " {} at a time", spelt(wave.at_once))?;
            }
            f.write_str(", ")?;
        }
        let takes = match self.begins {
            Some(begins) => u64::try_from(self.ends.duration_since(begins).as_secs()).unwrap_or(0),
            None => self.left_secs,
        };
        match takes.div_ceil(60) {
            0 | 1 => f.write_str("about a minute")?,
            minutes if minutes > 120 => write!(f, "about {} hours", minutes.div_ceil(60))?,
            minutes => write!(f, "about {minutes} minutes")?,
        }
        match self.begins {
            Some(at) => write!(f, " once the window opens at {at:.0}"),
            None => Ok(()),
        }
    }
}

fn spelt(number: u32) -> String {
    let words = ["no", "one", "two", "three", "four", "five"];
    let word = usize::try_from(number).ok().and_then(|n| words.get(n));
    word.map_or_else(|| number.to_string(), |w| (*w).to_owned())
}
