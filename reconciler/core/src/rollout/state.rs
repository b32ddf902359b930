//! A line for each node that has a system to run: where it stands, and what it waits for. For people; nothing is decided
//! by it.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Rollout, Stage, stage};
use crate::desired::Desired;
use crate::hold::{Hold, HoldReason};
use crate::id::{IntentId, NodeName, PoolName, StorePath};
use crate::ledger::Member;
use crate::observed::{Observed, Role};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    pub node: NodeName,
    pub pool: PoolName,
    pub state: State,
    /// What it waits for, or what is wrong with it; empty where there is nothing to say.
    pub message: String,
    /// What it says it runs.
    pub running: Option<StorePath>,
    /// What it is to run, where that is something else.
    pub wants: Option<StorePath>,
}

/// How much of an agent's own words is told.
const MAX_SAYS: usize = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It runs what it should, and will after any boot.
    UpToDate,
    /// It is fetching what it should run.
    Fetching,
    /// It has it, and may not go yet.
    Waiting,
    /// A person keeps it out, or it is off and may be.
    HeldOut,
    /// Its agent has said nothing, or nothing that can be read.
    Silent,
    /// It has a ticket and was not told to try yet: cordoned, drained, its etcd member prepared.
    Preparing,
    Trying,
    /// It runs the new system and is not known to be well yet.
    Verifying,
    /// It makes the new system its default.
    Keeping,
    GoingBack,
    Stuck,
    /// It is to leave the cluster.
    Leaving,
}

/// One for each member that has a goal, servers first. `holds` are those of the step that was just made.
pub fn states(
    desired: &Desired,
    observed: &Observed,
    holds: &[Hold],
    now: Timestamp,
) -> Vec<NodeState> {
    let rollout = Rollout {
        desired,
        observed,
        now,
    };
    let members = observed.ledger.members.iter();
    let with_goal = members.filter_map(|(id, m)| Some((id, m, rollout.goal(m)?)));
    let mut states: Vec<_> = with_goal
        .map(|(id, member, goal)| {
            let (state, message) = rollout.state(id, member, holds);
            let running = rollout.running(member);
            let node = NodeState {
                node: member.name.clone(),
                pool: member.pool.clone(),
                state,
                // An agent goes on saying how its last try ended.
                message: if state == State::UpToDate {
                    message
                } else {
                    rollout.with_words_of_its_agent(member, message)
                },
                running: running.cloned(),
                wants: Some(&goal.output).filter(|g| running != Some(g)).cloned(),
            };
            (member.role == Role::Agent, node)
        })
        .collect();
    states.sort_by(|(agent, a), (other, b)| {
        (agent, &a.pool, &a.node).cmp(&(other, &b.pool, &b.node))
    });
    states.into_iter().map(|(_, node)| node).collect()
}

impl Rollout<'_> {
    fn state(&self, id: &IntentId, member: &Member, holds: &[Hold]) -> (State, String) {
        if let Some(ticket) = self.ledger().tickets.get(id) {
            return match (ticket.update(), ticket.leave()) {
                (Some(update), _) => {
                    let stage = stage(self, id, ticket, update);
                    (State::of(&stage), stage.words())
                }
                (None, reason) => (State::Leaving, reason.map_or("", |r| r.words()).to_owned()),
            };
        }
        if self.is_there(member) {
            let node = self.observed.nodes.get(&member.name);
            let ready = node.is_some_and(|n| n.ready);
            let message = if ready { "" } else { "its Node is not Ready" };
            return (State::UpToDate, message.to_owned());
        }
        let about = format!("node {}", member.name);
        let own = holds.iter().find(|h| h.about == about);
        let general = |about: &str| holds.iter().find(|h| h.about == about);
        let agents = general("agents").filter(|_| member.role == Role::Agent);
        let paused = || general("everything");
        match own
            .or_else(|| general("rollout"))
            .or(agents)
            .or_else(paused)
        {
            Some(hold) => (State::held(hold.reason), alone(&hold.message).to_owned()),
            None => (State::Waiting, self.waits_behind(member, holds)),
        }
    }

    /// Only the first of a queue is told why it waits: the others wait for the same thing. Nothing is said of them that
    /// changes with each step of another node.
    fn waits_behind(&self, member: &Member, holds: &[Hold]) -> String {
        let members = self.ledger().members.values();
        let mut same_pool = members.filter(|m| m.pool == member.pool && m.name != member.name);
        let first = same_pool.find_map(|m| {
            let about = format!("node {}", m.name);
            holds
                .iter()
                .find(|h| h.about == about && h.reason.is_of_a_queue())
        });
        let Some(hold) = first else {
            return "waits for its turn".to_owned();
        };
        let why = alone(&hold.message);
        match why.strip_prefix("waits: ") {
            Some(why) => format!("waits for its turn: {why}"),
            None => why.to_owned(),
        }
    }

    fn with_words_of_its_agent(&self, member: &Member, message: String) -> String {
        let system = self.observed.systems.get(&member.name);
        let says = system.and_then(|s| s.says.as_deref()).unwrap_or_default();
        let says: String = says.chars().take(MAX_SAYS).collect();
        match (message.as_str(), says.as_str()) {
            (_, "") => message,
            (told, says) if told.contains(says) => message,
            ("", says) => format!("its agent says: {says}"),
            (told, says) => format!("{told}; its agent says: {says}"),
        }
    }
}

/// What a hold says of the first of a queue, without how many wait behind it.
fn alone(message: &str) -> &str {
    let others = |(_, others): &(&str, &str)| others.ends_with(" more wait behind it");
    let parts = message.rsplit_once("; ").filter(others);
    parts.map_or(message, |(alone, _)| alone)
}

impl State {
    fn of(stage: &Stage<'_>) -> Self {
        match stage {
            Stage::Lost
            | Stage::Withdrawn(_)
            | Stage::OutOfTime(_)
            | Stage::Cordon
            | Stage::Drain(..)
            | Stage::Force(..)
            | Stage::HandOver { .. }
            | Stage::Snapshot { .. }
            | Stage::Unsent(_)
            | Stage::Unordered
            | Stage::TryAgain => Self::Preparing,
            Stage::Try | Stage::Applying | Stage::Reset => Self::Trying,
            Stage::Verifying(_) | Stage::Keep => Self::Verifying,
            Stage::Keeping | Stage::Done => Self::Keeping,
            Stage::GoBack(_) | Stage::GoingBack | Stage::WentBack(_) => Self::GoingBack,
            Stage::Stuck(_) | Stage::Released => Self::Stuck,
        }
    }

    fn held(reason: HoldReason) -> Self {
        match reason {
            HoldReason::HeldOut => Self::HeldOut,
            HoldReason::Fetching => Self::Fetching,
            HoldReason::NotReporting => Self::Silent,
            _ => Self::Waiting,
        }
    }
}

/// As a person reads it.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpToDate => "up to date",
            Self::Fetching => "fetching",
            Self::Waiting => "waiting",
            Self::HeldOut => "held out",
            Self::Silent => "silent",
            Self::Preparing => "preparing",
            Self::Trying => "trying",
            Self::Verifying => "verifying",
            Self::Keeping => "keeping",
            Self::GoingBack => "going back",
            Self::Stuck => "STUCK",
            Self::Leaving => "leaving",
        })
    }
}
