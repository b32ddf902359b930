//! The NixOS systems that nodes run: what a pool should run, what a node says of itself, and what it is told to do.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::id::{
    AgeRecipient, BootId, ClusterId, CommitId, NodeName, PoolName, SecretsDigest, StorePath,
};
use crate::spec::K3sVersion;

/// The system of a pool at a commit: one closure for all its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct System {
    pub output: StorePath,
    pub derivation: StorePath,
    pub kubernetes: K3sVersion,
}

/// What the nodes of a pool should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    pub system: System,
    /// The same operating system with the k3s minor that is in force, where the commit changes both: the first of two
    /// steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<System>,
}

impl Target {
    /// The systems on the way, in their order.
    pub fn systems(&self) -> impl Iterator<Item = &System> {
        self.first.iter().chain([&self.system])
    }
}

/// What the leader says that the nodes of a pool may run. Whoever can say it is root on every node, so it is signed with
/// the cluster's key, and a node obeys no order about a system that is not in the newest one it has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publication {
    pub schema: u32,
    pub cluster: ClusterId,
    pub pool: PoolName,
    pub commit: CommitId,
    /// Grows with each commit that is admitted. A node refuses a lower one than it has seen.
    pub sequence: u64,
    /// One, or two where the way there has two steps.
    pub systems: Vec<System>,
}

impl Publication {
    /// The version of its layout.
    pub const SCHEMA: u32 = 1;
}

/// A publication as it travels: the bytes that were signed, and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedPublication {
    /// A `Publication` as JSON.
    pub statement: String,
    /// Ed25519, as Nix writes signatures: the key's name, a colon, base64.
    pub signature: String,
}

/// That a server is to leave: its k3s ends, and is started no more. It is signed as a publication is, and of one boot of
/// one machine, so that it is no order for another that has the name later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retirement {
    pub schema: u32,
    pub cluster: ClusterId,
    pub node: NodeName,
    pub boot: BootId,
    /// k3s is stopped. Else it ends by itself when its etcd member is removed: of two members neither may be stopped before.
    pub stops: bool,
    /// A server that hears it only after this, by its own clock, refuses it: by then the others may need it. One of before it
    /// was said is good for as long as the boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

impl Retirement {
    /// The version of its layout.
    pub const SCHEMA: u32 = 1;

    pub fn is_late(&self, now: Timestamp) -> bool {
        self.not_after.is_some_and(|until| now > until)
    }
}

/// What it takes to go from the running system to another one, by what the two closures hold. Ordered by what it
/// disturbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Needs {
    /// They are the same.
    Nothing,
    /// Units are restarted; containers run on.
    Switch,
    /// Another k3s minor: containers may be restarted, so the node is drained first.
    Drain,
    /// Kernel, initrd, kernel modules or parameters, systemd, or a switch inhibitor differ.
    Reboot,
}

/// What a node says of itself: the status of its `FabrikNode`. Only the node writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of its layout. The first fabrik that reported did not say it.
    #[serde(default = "first_layout")]
    pub schema: u32,
    pub boot: BootId,
    /// `/run/current-system`.
    pub running: StorePath,
    /// What an ordinary boot would start. `None` where the boot loader's files do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<StorePath>,
    /// The system that it fetched last, whole and kept from collection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
    /// What it does, or did last, under a ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Whom its secrets have to be encrypted to. An agent that knows of no secrets does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<AgeRecipient>,
    /// The secrets that it has placed for its units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretsDigest>,
    /// It is to leave, and k3s is started no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
}

fn first_layout() -> u32 {
    1
}

/// Why what a node says of itself can't be read. The words complete "its report …".
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("can't be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "has the layout {found}, and this fabrik knows up to {}: update this server's",
        Report::SCHEMA
    )]
    NewerLayout { found: u32 },
}

impl Report {
    /// The version of its layout.
    pub const SCHEMA: u32 = 1;

    /// # Errors
    /// It is of a layout to come, or no report.
    pub fn read(value: &serde_json::Value) -> Result<Self, ReportError> {
        #[derive(Deserialize)]
        struct Layout {
            #[serde(default = "first_layout")]
            schema: u32,
        }
        // First: the rest may have changed with it.
        let Layout { schema: found } = Layout::deserialize(value)?;
        if found > Self::SCHEMA {
            return Err(ReportError::NewerLayout { found });
        }
        Ok(Self::deserialize(value)?)
    }

    /// It runs one system and would boot another: somebody has changed the one without the other, or a try has ended half-way.
    pub fn is_half_way(&self) -> bool {
        self.default.is_some() && !self.boots(&self.running)
    }

    /// Whether an ordinary boot would start `system`.
    pub fn boots(&self, system: &StorePath) -> bool {
        self.default.as_ref() == Some(system)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Staged {
    pub system: StorePath,
    pub needs: Needs,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Activity {
    pub ticket: u64,
    pub phase: Phase,
    /// When the phase began, by the node's clock, as `Node.heard` is.
    pub since: Timestamp,
    /// A k3s of a newer minor was about to start, or has: written down before it did.
    #[serde(default)]
    pub started_minor: bool,
    /// The try says nothing of the system: its time was over and nobody had said what to do, or it could not begin.
    #[serde(default)]
    pub unheard: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Where a node is with its order. The agent journals each one before it begins it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The order is read; nothing that can't be taken back has happened.
    Accepted,
    /// Units are being switched, or the machine boots the new system once. The old one is still the default.
    Applying,
    /// The new system runs. It is not the default yet, and the node goes back by itself if nobody says `Keep` in time.
    Trying,
    /// The new system runs and is the default.
    Kept,
    /// The old system is being put back.
    GoingBack,
    /// The old system runs and is the default.
    WentBack,
    /// Neither could be brought about; only a person can help.
    Failed,
}

impl Phase {
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Applying,
        Self::Trying,
        Self::Kept,
        Self::GoingBack,
        Self::WentBack,
        Self::Failed,
    ];

    /// What may come after it of the same order. Nothing is decided by it: tests hold what an agent does against it, and
    /// docs/states.md is written from it.
    pub const fn next(self) -> &'static [Self] {
        match self {
            Self::Accepted => &[
                Self::Applying,
                Self::Trying,
                Self::GoingBack,
                Self::WentBack,
            ],
            Self::Applying => &[Self::Trying, Self::GoingBack, Self::Failed],
            Self::Trying => &[Self::Kept, Self::GoingBack, Self::Failed],
            Self::GoingBack => &[Self::WentBack, Self::Failed],
            Self::Kept | Self::WentBack | Self::Failed => &[],
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Applying => "applying",
            Self::Trying => "trying",
            Self::Kept => "kept",
            Self::GoingBack => "going-back",
            Self::WentBack => "went-back",
            Self::Failed => "failed",
        }
    }
}

/// What the leader has a node do: the `spec` of its `FabrikNode`. Only the leader writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Higher than that of any order before; a node obeys no lower one.
    pub ticket: u64,
    pub system: StorePath,
    pub needs: Needs,
    /// It brings another k3s minor: an agent notes it down before that one starts.
    pub minor: bool,
    pub action: Action,
    /// How long it has from the moment it accepts the order, by its own clock. Without `Keep` by then, it goes back by
    /// itself.
    pub seconds: u32,
    /// A node that hears the order to try only after this refuses it: by then nobody knows whether it may go down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Activate the system, or boot it once.
    Try,
    /// It is verified: make it the default.
    Keep,
    /// It is not well: put the old one back.
    GoBack,
}

/// What a ticket for an update is about. Fixed when it is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// The number of the ticket; see `Order::ticket`.
    pub number: u64,
    pub system: StorePath,
    pub kubernetes: K3sVersion,
    /// What it runs now, and goes back to.
    pub from: StorePath,
    pub boot: BootId,
    pub needs: Needs,
    /// Another k3s minor than the one it runs.
    pub minor: bool,
    /// The newer k3s minor was seen to run on a server: its data are the newer one's from then on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub started_minor: bool,
    /// Its machine was reset at Hetzner, because it was silent beyond its deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<Timestamp>,
    /// When the order to try was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered: Option<Timestamp>,
    /// Until when it may try, by the leader's clock. Written down with `ordered`: a change of the settings is for later
    /// tickets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
}

/// A system that was tried and left: it is tried nowhere any more, as long as a pool wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denied {
    pub pool: PoolName,
    pub node: NodeName,
    pub at: Timestamp,
    pub why: String,
}

/// How often a system was left only because nobody had spoken: those tries say nothing of it. The node that tried it last
/// tries it next, so that a system that is bad after all goes no further. Forgotten once that node has kept the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lapses {
    pub pool: PoolName,
    pub node: NodeName,
    pub count: u32,
    /// When the last one was counted; not known of those that an older fabrik has written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

impl Lapses {
    /// Whether a try that was ordered then lapsed with the one that was counted last: an outage that several nodes met is one.
    pub fn include(&self, ordered: Option<Timestamp>) -> bool {
        self.at
            .zip(ordered)
            .is_some_and(|(at, ordered)| ordered < at)
    }
}

/// How long updates took, from ticket to uncordoned: a mean in which the last ones count most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pace {
    /// How many went into it, up to `MAX_STEPS`.
    pub steps: u32,
    pub mean_secs: u64,
}

impl Pace {
    const MAX_STEPS: u32 = 20;

    pub fn add(&mut self, took: SignedDuration) {
        let took = u64::try_from(took.as_secs()).unwrap_or(0);
        self.steps = (self.steps + 1).min(Self::MAX_STEPS);
        let before = self.mean_secs.saturating_mul(u64::from(self.steps - 1));
        self.mean_secs = before.saturating_add(took) / u64::from(self.steps);
    }
}
