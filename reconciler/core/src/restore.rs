//! Whether one server may become the whole of etcd, after a quorum of the servers was lost for good.
//!
//! The worst end is two clusters: what was reset here, and the old one, whose quorum comes back elsewhere. So each other
//! member has to be proved dead, by Hetzner or by a person's word, and one that answers can't be talked away.
//! (k3s: "Backup and Restore", `--cluster-reset`; etcd: "Disaster recovery".)

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a server that survived can see, and what the person before it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub own: OwnData,
    /// All other servers that were, or may have been, members.
    pub peers: Vec<Peer>,
    /// Something says who the others were: etcd's own list, Hetzner's, or the configuration. Else `peers` may lack some.
    pub peers_are_listed: bool,
    pub snapshots: Vec<Snapshot>,
    pub said: Said,
}

/// This server's own data of etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnData {
    Absent,
    Present {
        /// When they were last written, at the latest.
        written: Timestamp,
        /// Its etcd runs and knows a leader: there is a quorum.
        has_leader: bool,
        /// It was no full member yet, so it may lack what the others had.
        learner: bool,
        /// etcd could not be started from them when that was tried.
        failed: bool,
    },
}

/// Another former member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its Node's name; its address where nothing says a name.
    pub name: String,
    /// Something listens on its etcd's port.
    pub answers: bool,
    pub machine: Machine,
}

/// What Hetzner says of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// It has power, or may have.
    Running,
    Off,
    /// GET by its id answers 404, by a token that sees this server.
    Gone,
    /// Hetzner could not be asked, or knows nothing of it.
    Unknown,
}

/// A whole snapshot of etcd on this server's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub file: String,
    pub taken: Timestamp,
}

/// What the person says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    /// Servers that are lost for good.
    pub lost: BTreeSet<String>,
    /// There was no other server.
    pub no_others: bool,
    /// The snapshot to restore, in the place of what would be chosen.
    pub snapshot: Option<Snapshot>,
}

/// What is to be done: this server is made etcd's only member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    pub from: Source,
    pub warnings: Vec<Warning>,
}

/// Where the data come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    OwnData { written: Timestamp },
    Snapshot(Snapshot),
}

/// What the person should know before they agree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    #[error(
        "this server was still an etcd learner: it may lack what the others had written before it caught up"
    )]
    Learner,
    #[error(
        "{file} was taken at {taken}, after this server's own data were last written. Restore it instead by \
         --snapshot {file}, if this server had been away from the others for long"
    )]
    NewerSnapshot { file: String, taken: Timestamp },
    #[error(
        "{0} is off and not gone: delete it at Hetzner before anything powers it on. It still has the old cluster's data"
    )]
    MayReturn(String),
}

/// Why nothing is reset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("etcd has a leader, so a quorum of its members lives: nothing has to be restored")]
    HasQuorum,
    #[error(
        "etcd answers on {name}: {}. Restore on one server alone, the one with the newest data, when {name} is off \
         at Hetzner or deleted", of(*alive, *members)
    )]
    Answers {
        name: String,
        alive: usize,
        members: usize,
    },
    #[error(
        "Hetzner says that {0} runs, and it may only be cut off from here. Power it off there, or delete it, and repeat \
         this: --lost is for what nobody can look at"
    )]
    Runs(String),
    #[error(
        "nothing proves that {0} is dead: it does not answer, and Hetzner could not be asked or does not know it. If it \
         is lost for good, say so: --lost {0}"
    )]
    Unproved(String),
    #[error(
        "{} are off at Hetzner and not gone. Powered on again they would be {} of {members} members, a quorum: a second \
         cluster. Delete them, or say that they never come back: {}", .names.join(" and "), .names.len(), lost(.names)
    )]
    WouldReturn { names: Vec<String>, members: usize },
    #[error("--lost {name}: no other server is called so. {}", others(.peers))]
    NotAPeer { name: String, peers: Vec<String> },
    #[error(
        "nothing says who the other servers were: etcd does not answer here, and Hetzner could not be asked. Name each \
         of them by --lost NAME, or say --no-others if this was the only one"
    )]
    PeersUnknown,
    #[error(
        "--snapshot {file}: this server's own data were written later (at {written}), and were not tried yet. They hold \
         more: leave --snapshot out"
    )]
    OwnDataFirst { file: String, written: Timestamp },
    #[error(
        "this server has no data of etcd, and no snapshot is there to restore. Copy one here, from another place that \
         you keep them at, and name it by --snapshot FILE"
    )]
    NothingToRestore,
}

/// What is to be restored here, and from what.
///
/// # Errors
/// All that forbids it.
pub fn decide(observed: &Observed) -> Result<Reset, Vec<Refusal>> {
    let mut refusals = Vec::new();
    if let OwnData::Present {
        has_leader: true, ..
    } = observed.own
    {
        return Err(vec![Refusal::HasQuorum]);
    }
    refusals.extend(
        observed
            .peers
            .iter()
            .filter_map(|peer| is_dead(peer, observed).err()),
    );
    refusals.extend(none_would_return(observed).err());
    refusals.extend(peers_are_known(observed));
    let source = source(observed);
    match source {
        Ok(from) if refusals.is_empty() => Ok(Reset {
            warnings: warnings(observed, &from),
            from,
        }),
        Ok(_) => Err(refusals),
        Err(refusal) => {
            refusals.push(refusal);
            Err(refusals)
        }
    }
}

/// A member is dead when Hetzner says that its machine is off or gone, or where Hetzner knows nothing, a person does.
fn is_dead(peer: &Peer, observed: &Observed) -> Result<(), Refusal> {
    if peer.answers {
        let answering = observed.peers.iter().filter(|p| p.answers).count();
        return Err(Refusal::Answers {
            name: peer.name.clone(),
            alive: answering + 1,
            members: observed.peers.len() + 1,
        });
    }
    match peer.machine {
        Machine::Gone | Machine::Off => Ok(()),
        Machine::Running => Err(Refusal::Runs(peer.name.clone())),
        Machine::Unknown if observed.said.lost.contains(&peer.name) => Ok(()),
        Machine::Unknown => Err(Refusal::Unproved(peer.name.clone())),
    }
}

/// Members that are only off are no quorum of the old cluster when somebody powers them on.
fn none_would_return(observed: &Observed) -> Result<(), Refusal> {
    let members = observed.peers.len() + 1;
    let names: Vec<String> = may_return(observed).cloned().collect();
    if names.len() < members / 2 + 1 {
        return Ok(());
    }
    Err(Refusal::WouldReturn { names, members })
}

fn may_return(observed: &Observed) -> impl Iterator<Item = &String> {
    let off = observed.peers.iter().filter(|p| p.machine == Machine::Off);
    off.map(|p| &p.name)
        .filter(|name| !observed.said.lost.contains(*name))
}

fn peers_are_known(observed: &Observed) -> Vec<Refusal> {
    let Said {
        lost, no_others, ..
    } = &observed.said;
    if !observed.peers_are_listed {
        let is_said = *no_others || !lost.is_empty();
        return Vec::from_iter((!is_said).then_some(Refusal::PeersUnknown));
    }
    let is_peer = |name: &String| observed.peers.iter().any(|p| p.name == *name);
    let strangers = lost.iter().filter(|name| !is_peer(name));
    strangers
        .map(|name| Refusal::NotAPeer {
            name: name.clone(),
            peers: observed.peers.iter().map(|p| p.name.clone()).collect(),
        })
        .collect()
}

/// Own data beat any snapshot, unless one is asked for that is newer, or etcd could not be started from them.
fn source(observed: &Observed) -> Result<Source, Refusal> {
    let asked = observed.said.snapshot.clone();
    let newest = || observed.snapshots.iter().max_by_key(|s| s.taken).cloned();
    match (observed.own, asked) {
        (OwnData::Absent, asked) => asked
            .or_else(newest)
            .map(Source::Snapshot)
            .ok_or(Refusal::NothingToRestore),
        (OwnData::Present { written, .. }, None) => Ok(Source::OwnData { written }),
        (
            OwnData::Present {
                written,
                failed: false,
                ..
            },
            Some(asked),
        ) if asked.taken <= written => Err(Refusal::OwnDataFirst {
            file: asked.file,
            written,
        }),
        (OwnData::Present { .. }, Some(asked)) => Ok(Source::Snapshot(asked)),
    }
}

fn warnings(observed: &Observed, from: &Source) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let Source::OwnData { written } = from {
        if let OwnData::Present { learner: true, .. } = observed.own {
            warnings.push(Warning::Learner);
        }
        let newest = observed.snapshots.iter().max_by_key(|s| s.taken);
        let newer = newest.filter(|s| s.taken > *written);
        warnings.extend(newer.map(|s| Warning::NewerSnapshot {
            file: s.file.clone(),
            taken: s.taken,
        }));
    }
    let off = observed.peers.iter().filter(|p| p.machine == Machine::Off);
    warnings.extend(off.map(|p| Warning::MayReturn(p.name.clone())));
    warnings
}

fn of(alive: usize, members: usize) -> String {
    if alive > members / 2 {
        format!("with this server {alive} of {members} members live, which is a quorum")
    } else {
        format!("{alive} of {members} members live, which is no quorum, and it may have newer data")
    }
}

fn lost(names: &[String]) -> String {
    let flags: Vec<String> = names.iter().map(|name| format!("--lost {name}")).collect();
    flags.join(" ")
}

fn others(peers: &[String]) -> String {
    if peers.is_empty() {
        "There is none".to_owned()
    } else {
        format!("The others are {}", peers.join(", "))
    }
}

#[cfg(test)]
mod tests;
