//! What goes wrong and what people do, each at a bad moment.

mod acts;
mod repair;

use std::collections::BTreeSet;

use crate::rng::Rng;
use crate::systems::Fate;

/// Nodes and leaders by number, counted round.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    Push {
        kernel: bool,
        minor: bool,
        servers: Fate,
        workers: Fate,
    },
    /// A fix.
    Revert,
    /// What was wanted in the beginning is wanted again.
    BackToTheFirst,
    Cordon(usize),
    Uncordon(usize),
    Drain(usize),
    DeleteNode(usize),
    DeleteServer(usize),
    Scale(u32),
    Hold(usize),
    Unhold,
    Pause,
    Resume,
    NameCanary(usize),
    SetWindow,
    LeaderPauses(usize, u32, i64),
    LeaderDies(usize, u32),
    LeaderSees(usize, i64),
    LeaderClock(usize, i64),
    NotEvaluated(usize, i64),
    ApiDown(i64),
    CutOff(usize, i64),
    Conflicts(i64),
    Losses(i64),
    EtcdUnread(i64),
    EtcdSplit(i64),
    HetznerDown(i64),
    AgentDies(usize, u32),
    PowerCut(usize, u32),
    /// At once.
    PowerFails(usize),
    AgentAway(usize, i64),
    KubeletDies(usize, i64),
    BootHangs(usize),
    BootsOld(usize),
    BootsLate(usize, i64),
    PdbBlocks(usize, i64),
    DiskFull(usize, i64),
    ClockJumps(usize, i64),
    /// Nobody asks for a number of servers any more where there is none.
    ScaleServers(Option<u32>),
    /// A server of the control plane is deleted at Hetzner, where the others can do without it.
    LoseServer(usize),
    JoinerHangs,
    JoinerNeverStarts,
    EtcdHeadless(i64),
}

pub const FAULTS: [&str; 47] = [
    "push",
    "push-bad",
    "push-minor",
    "revert",
    "cordon",
    "uncordon",
    "drain",
    "delete-node",
    "delete-server",
    "scale",
    "hold",
    "unhold",
    "pause",
    "resume",
    "canary",
    "window",
    "leader-pauses",
    "leader-dies",
    "stale-view",
    "leader-clock",
    "not-evaluated",
    "api-down",
    "cut-off",
    "conflicts",
    "losses",
    "etcd-unread",
    "etcd-split",
    "hetzner-down",
    "agent-dies",
    "power-cut",
    "agent-away",
    "kubelet-dies",
    "boot-hangs",
    "boots-old",
    "boots-late",
    "pdb-blocks",
    "disk-full",
    "clock-jumps",
    "scale-servers",
    "lose-server",
    "joiner-hangs",
    "joiner-never-starts",
    "etcd-headless",
    "paused-in-a-pass",
    "died-in-a-pass",
    "request-late",
    "new-leader",
];

pub fn all_faults() -> BTreeSet<&'static str> {
    FAULTS.into_iter().collect()
}

/// Something that may happen.
pub fn any(rng: &mut Rng) -> Act {
    let node = rng.below(7);
    let leader = rng.below(3);
    let secs = rng.range(20, 600);
    let few = u32::try_from(rng.below(6)).expect("few");
    match rng.below(36) {
        0 => Act::Cordon(node),
        1 => Act::Uncordon(node),
        2 => Act::Drain(node),
        3 => Act::DeleteNode(node),
        4 => Act::DeleteServer(node),
        5 => Act::Scale(2 + few.min(4)),
        6 => Act::Hold(node),
        7 => Act::Unhold,
        8 => Act::Pause,
        9 => Act::Resume,
        10 => Act::NameCanary(node),
        11 => Act::SetWindow,
        12 | 13 => Act::LeaderPauses(leader, 0, secs),
        14 => Act::LeaderDies(leader, few),
        15 | 16 => Act::LeaderSees(leader, secs.min(200)),
        17 => Act::LeaderClock(leader, secs / 5 - 60),
        18 => Act::NotEvaluated(leader, secs),
        19 => Act::ApiDown(secs),
        20 => Act::CutOff(node, secs),
        21 => Act::Conflicts(secs),
        22 | 23 => Act::Losses(secs),
        24 => Act::EtcdUnread(secs),
        25 => Act::EtcdSplit(secs),
        26 => Act::HetznerDown(secs),
        27 => Act::AgentDies(node, few),
        28 => Act::PowerCut(node, few),
        29 => Act::AgentAway(node, secs * 2),
        30 => Act::KubeletDies(node, secs),
        31 => Act::BootHangs(node),
        32 => Act::BootsOld(node),
        33 => Act::BootsLate(node, secs),
        34 => Act::PdbBlocks(node, secs * 3),
        _ => {
            if rng.one_in(2) {
                Act::DiskFull(node, secs)
            } else {
                Act::ClockJumps(node, secs - 300)
            }
        }
    }
}

/// More servers, or fewer.
pub fn scale_servers(rng: &mut Rng) -> Act {
    Act::ScaleServers(Some([1, 3, 5, 5][rng.below(4)]))
}

/// Something that may happen to the control plane.
pub fn of_servers(rng: &mut Rng) -> Act {
    match rng.below(9) {
        0..=2 => scale_servers(rng),
        3 => Act::ScaleServers(None),
        4 | 5 => Act::LoseServer(rng.below(5)),
        6 => Act::JoinerHangs,
        7 => Act::JoinerNeverStarts,
        _ => Act::EtcdHeadless(rng.range(20, 600)),
    }
}

/// A commit; every other one changes something that breaks.
pub fn push(rng: &mut Rng) -> Act {
    let mut fate = |chances| match rng.below(chances) {
        0 => Fate::Panics,
        1 => Fate::Hangs,
        2 => Fate::Sick,
        _ => Fate::Well,
    };
    let (servers, workers) = (fate(10), fate(8));
    Act::Push {
        kernel: rng.one_in(2),
        minor: rng.one_in(3),
        servers,
        workers,
    }
}

fn name_of(act: Act) -> &'static str {
    match act {
        Act::Push {
            servers,
            workers,
            minor,
            ..
        } => {
            if servers != Fate::Well || workers != Fate::Well {
                "push-bad"
            } else if minor {
                "push-minor"
            } else {
                "push"
            }
        }
        Act::Revert | Act::BackToTheFirst => "revert",
        Act::Cordon(_) => "cordon",
        Act::Uncordon(_) => "uncordon",
        Act::Drain(_) => "drain",
        Act::DeleteNode(_) => "delete-node",
        Act::DeleteServer(_) => "delete-server",
        Act::Scale(_) => "scale",
        Act::Hold(_) => "hold",
        Act::Unhold => "unhold",
        Act::Pause => "pause",
        Act::Resume => "resume",
        Act::NameCanary(_) => "canary",
        Act::SetWindow => "window",
        Act::LeaderPauses(..) => "leader-pauses",
        Act::LeaderDies(..) => "leader-dies",
        Act::LeaderSees(..) => "stale-view",
        Act::LeaderClock(..) => "leader-clock",
        Act::NotEvaluated(..) => "not-evaluated",
        Act::ApiDown(_) => "api-down",
        Act::CutOff(..) => "cut-off",
        Act::Conflicts(_) => "conflicts",
        Act::Losses(_) => "losses",
        Act::EtcdUnread(_) => "etcd-unread",
        Act::EtcdSplit(_) => "etcd-split",
        Act::HetznerDown(_) => "hetzner-down",
        Act::AgentDies(..) => "agent-dies",
        Act::PowerCut(..) | Act::PowerFails(_) => "power-cut",
        Act::AgentAway(..) => "agent-away",
        Act::KubeletDies(..) => "kubelet-dies",
        Act::BootHangs(_) => "boot-hangs",
        Act::BootsOld(_) => "boots-old",
        Act::BootsLate(..) => "boots-late",
        Act::PdbBlocks(..) => "pdb-blocks",
        Act::DiskFull(..) => "disk-full",
        Act::ClockJumps(..) => "clock-jumps",
        Act::ScaleServers(_) => "scale-servers",
        Act::LoseServer(_) => "lose-server",
        Act::JoinerHangs => "joiner-hangs",
        Act::JoinerNeverStarts => "joiner-never-starts",
        Act::EtcdHeadless(_) => "etcd-headless",
    }
}
