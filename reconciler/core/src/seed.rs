//! What `fabrik seed` does next: from what a repository wants and what is at Hetzner, on the first server and on the laptop, to
//! one step.
//!
//! It is asked again after each step, and nothing is remembered in between but what the laptop has written down. So a seed
//! that was cut off anywhere goes on with the same question.

pub mod cost;
mod disk;
mod ground;
mod image;
pub mod own;

pub use self::disk::{Architecture, Image, ImageDigest};
pub use self::ground::{FIRST_SEQUENCE, Ground, first_intent, ground};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::effect::Effect;
use crate::id::{ClusterName, NodeName, PoolName, ServerId};
use crate::infrastructure::Placement;
use crate::observed::Power;

/// Snapshots of an image that are kept: the one in use, and the one before it.
const SNAPSHOTS_KEPT: usize = 2;

/// What a seed is to come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub cluster: ClusterName,
    /// One for a pool at most.
    pub images: Vec<Image>,
    pub extent: Extent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// The snapshots are at Hetzner, and nothing else of the seed's.
    Images,
    /// The first server runs fabrik, which has carried out the commit.
    Cluster,
}

/// What there is of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The seed's temporary SSH key at Hetzner.
    pub key: Option<u64>,
    /// Of images of this cluster, in any order.
    pub snapshots: Vec<Snapshot>,
    /// The temporary server that a snapshot is made with.
    pub image_server: Option<ImageServer>,
    /// Not looked at where no server is to be made, or the spec wants none.
    pub ground: Option<Ground>,
    pub first: Option<First>,
    pub laptop: Laptop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    pub id: u64,
    pub pool: PoolName,
    /// What its label says, whatever that is.
    pub digest: String,
    pub created: Timestamp,
    pub state: SnapshotState,
    /// Against deletion, by a person.
    pub protected: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotState {
    Creating,
    Available,
    /// It was begun and did not come to its end.
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageServer {
    pub id: ServerId,
    pub architecture: Option<Architecture>,
    /// `Changing` as well while an action of Hetzner's is under way.
    pub power: Power,
    pub rescue: Rescue,
    /// What is known to be on its disk.
    pub written: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rescue {
    /// It boots its disk, if it boots.
    None,
    /// The next boot is that of the rescue system.
    Armed,
    /// Its rescue system was to answer, and did not.
    Silent,
}

/// The first server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    pub id: ServerId,
    pub power: Power,
}

/// What the laptop has written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laptop {
    /// The first server that `stage` is about.
    pub server: Option<ServerId>,
    pub stage: Stage,
    /// Whether keys are in its folder.
    pub has_secrets: bool,
}

impl Laptop {
    /// Whether none is to be made, where Hetzner has this one as the first: it is the one, or no other may become it.
    pub fn has_first(&self, there: Option<ServerId>) -> bool {
        let is_known = there.is_some() && there == self.server;
        self.stage >= Stage::HandingOver || (self.stage > Stage::Unmet && is_known)
    }
}

/// How far the laptop has come with the first server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Nothing was said to it.
    Unmet,
    /// The laptop knows the host key that the machine made itself.
    Met,
    /// The machine answers by that key, and the one of its user data is worth nothing.
    Trusted,
    /// It may have got all that makes it the cluster: from here on it can't be made anew.
    HandingOver,
    /// fabrik runs on it.
    Founded,
    /// The commit is carried out.
    CarriedOut,
    /// The laptop has a kubeconfig.
    KubeconfigWritten,
    /// It lets the laptop in no more.
    Parted,
}

/// One thing to do. Each may be done again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Gives Hetzner the temporary SSH key.
    RegisterKey,
    /// Makes a server that does not start, to write the image with.
    CreateImageServer {
        image: Image,
    },
    /// Has the server's next boot be that of the rescue system, which lets the temporary key in.
    EnableRescue {
        server: ServerId,
    },
    PowerOn {
        server: ServerId,
    },
    /// Takes the label of what its disk holds off the server: the disk is about to hold something else.
    ForgetWritten {
        server: ServerId,
    },
    /// Writes the image to the server's disk, reads it back, and labels the server with its digest.
    WriteImage {
        server: ServerId,
        image: Image,
    },
    PowerOff {
        server: ServerId,
    },
    TakeSnapshot {
        server: ServerId,
        image: Image,
    },
    AwaitSnapshot {
        snapshot: u64,
    },
    DeleteSnapshot {
        snapshot: u64,
    },
    DeleteImageServer {
        server: ServerId,
    },
    /// Something that servers stand on.
    Make(Effect),
    CreateFirstServer {
        snapshot: u64,
        placement: Placement,
    },
    /// Until what Hetzner does with it has ended.
    AwaitServer {
        server: ServerId,
    },
    /// Has the first server make a host key of its own, and writes down which.
    Meet {
        server: ServerId,
    },
    /// Has it answer by that key.
    UseHostKey {
        server: ServerId,
    },
    /// Gives it all that makes it the cluster.
    HandOver {
        server: ServerId,
    },
    AwaitCommit {
        server: ServerId,
    },
    WriteKubeconfig {
        server: ServerId,
    },
    /// Has it let the laptop in no more.
    Part {
        server: ServerId,
    },
    DeleteKey {
        key: u64,
    },
    /// Removes the keys from the laptop.
    ForgetSecrets,
}

/// What comes now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Do(Step),
    Done,
    Stop(Stop),
}

/// Why a seed can't go on by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    #[error(
        "{name} is needed and belongs to {holder}. If that is this repository's, it was seeded from another machine: go on there. \
         Else give this cluster another name or project, or rename that"
    )]
    NameTaken { name: String, holder: String },
    #[error(
        "the first server is gone from Hetzner, and it was given the cluster's keys before: what it founded is lost with it. If \
         the cluster has other servers, it needs no seed: see docs/restore.md, \"One server of three, two of five\". Otherwise \
         `fabrik seed --undo` removes what is left of it, there and on this laptop; then seed anew"
    )]
    FirstServerGone,
    #[error(
        "{0} was seeded, and has no server in this project at Hetzner. Where it is no more, `fabrik seed --undo` removes what is \
         left of it, there and on this laptop, or says what to remove here; then seed anew. Else the token is another project's"
    )]
    NoServerLeft(ClusterName),
    #[error(
        "cluster.toml of this commit has no [servers], so there is no control plane to make. Add the table (docs/spec.md), commit, and \
         push"
    )]
    NoServers,
    #[error(
        "cluster.toml has no [hetzner], so no image is made there: machines of your own are installed from the repository itself"
    )]
    NoProject,
    #[error(
        "another machine than {0} was given this cluster's keys from this laptop, so {0} can't become its first server. Name that \
         one in [servers.machines] again; or, where the cluster is lost, remove what the laptop keeps of it by --undo, and seed anew"
    )]
    OtherMachine(NodeName),
    #[error(
        "the cluster has no image for its servers: none was named, and no snapshot at Hetzner is one"
    )]
    NoImage,
}

/// The one step that comes next.
pub fn next(wanted: &Wanted, seen: &Observed) -> Next {
    let work = match image::next(wanted, seen) {
        None if wanted.extent == Extent::Cluster => cluster(wanted, seen),
        work => Ok(work),
    };
    match work {
        Err(stop) => Next::Stop(stop),
        Ok(Some(step)) if seen.key.is_none() && needs_key(&step) => Next::Do(Step::RegisterKey),
        Ok(Some(step)) => Next::Do(step),
        Ok(None) => end(seen),
    }
}

/// Nothing is left but what the seed itself has brought. What a coming seed needs of the laptop's keys stays there.
fn end(seen: &Observed) -> Next {
    match seen.key {
        Some(key) => Next::Do(Step::DeleteKey { key }),
        None if seen.laptop.stage == Stage::Parted && seen.laptop.has_secrets => {
            Next::Do(Step::ForgetSecrets)
        }
        None => Next::Done,
    }
}

fn needs_key(step: &Step) -> bool {
    matches!(
        step,
        Step::EnableRescue { .. } | Step::WriteImage { .. } | Step::CreateImageServer { .. }
    )
}

fn cluster(wanted: &Wanted, seen: &Observed) -> Result<Option<Step>, Stop> {
    if seen.laptop.stage == Stage::Parted {
        // The cluster may have replaced its first server by now.
        return Ok(None);
    }
    let Some(first) = &seen.first else {
        return create(wanted, seen).map(Some);
    };
    let server = first.id;
    Ok(Some(match (first.power, stage(seen, server)) {
        (Power::Changing, _) => Step::AwaitServer { server },
        (Power::Off, _) => Step::PowerOn { server },
        (Power::Running, Stage::Unmet) => Step::Meet { server },
        (Power::Running, Stage::Met) => Step::UseHostKey { server },
        (Power::Running, Stage::Trusted | Stage::HandingOver) => Step::HandOver { server },
        (Power::Running, Stage::Founded) => Step::AwaitCommit { server },
        (Power::Running, Stage::CarriedOut) => Step::WriteKubeconfig { server },
        (Power::Running, Stage::KubeconfigWritten | Stage::Parted) => Step::Part { server },
    }))
}

/// How far the laptop has come with this very server.
fn stage(seen: &Observed, server: ServerId) -> Stage {
    match seen.laptop.server {
        Some(known) if known == server => seen.laptop.stage,
        _ => Stage::Unmet,
    }
}

fn create(wanted: &Wanted, seen: &Observed) -> Result<Step, Stop> {
    if seen.laptop.stage >= Stage::HandingOver {
        return Err(Stop::FirstServerGone);
    }
    match &seen.ground {
        None => Err(Stop::NoServers),
        Some(Ground::Taken { name, holder }) => Err(Stop::NameTaken {
            name: name.clone(),
            holder: holder.clone(),
        }),
        Some(Ground::Missing(effect)) => Ok(Step::Make(effect.clone())),
        Some(Ground::Ready(placement)) => {
            let snapshot = image::of_servers(wanted, seen).ok_or(Stop::NoImage)?;
            Ok(Step::CreateFirstServer {
                snapshot,
                placement: placement.clone(),
            })
        }
    }
}
