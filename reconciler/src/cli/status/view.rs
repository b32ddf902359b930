//! What `fabrik status` shows, read from fabrik's own kinds. As JSON, the document of `--output json`: fields are added
//! to it and never change their meaning.

use std::collections::BTreeMap;

use fabrik_core::hold::Hold;
use fabrik_core::id::CommitId;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};

use crate::cli::access::{AccessError, ClusterSpec, Paused, Refused, part};
use crate::cli::leader::Leader;
use crate::cluster::resources::{RolloutStatus, SystemStatus};

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// When it was read.
    pub at: Timestamp,
    /// What the commit in force is about, where status is asked for in a checkout that has it.
    pub subject: Option<String>,
    pub cluster: ClusterView,
    pub units: Vec<UnitView>,
    pub nodes: Vec<NodeView>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    pub name: String,
    pub paused: Option<Paused>,
    /// When the last leader was heard of, where none leads.
    pub leaderless_since: Option<Timestamp>,
    #[serde(flatten)]
    pub status: ClusterStatus,
}

/// `FabrikCluster.status`. A field that an older leader does not write is empty.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterStatus {
    pub conditions: Vec<Condition>,
    /// In force.
    pub admitted_commit: Option<CommitId>,
    /// In force and carried out.
    pub applied_commit: Option<CommitId>,
    /// What the branch points at.
    pub head_commit: Option<CommitId>,
    pub refused: Option<Refused>,
    pub holds: Vec<Hold>,
    pub pools: BTreeMap<String, PoolCount>,
    pub units: UnitCount,
    /// Each node that has a system to run.
    pub systems: Vec<SystemStatus>,
    pub rollout: Option<RolloutStatus>,
    pub api: Option<String>,
    pub leader: Option<String>,
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolCount {
    pub wanted: u32,
    pub ready: u32,
    pub joining: u32,
    pub leaving: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitCount {
    pub total: u32,
    pub ready: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitView {
    pub name: String,
    pub ready: bool,
    pub objects: u32,
    pub ready_objects: u32,
    pub errors: Vec<UnitError>,
    pub message: Option<String>,
}

/// What is wrong with an object of a unit: a sentence, or its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UnitError {
    Sentence(String),
    Parts {
        object: String,
        #[serde(default)]
        place: Option<String>,
        message: String,
        #[serde(default)]
        remedy: Option<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    pub name: String,
    pub pool: String,
    pub server: Option<u64>,
    pub state: Option<String>,
    pub message: Option<String>,
}

impl ClusterView {
    /// The Lease knows better than what the last leader wrote.
    pub fn set_leader(&mut self, leader: Leader) {
        (self.status.leader, self.leaderless_since) = match leader {
            Leader::Leads(node) => (Some(node), None),
            Leader::None(since) => (None, since),
        };
    }

    pub fn of(object: &DynamicObject) -> Result<Self, AccessError> {
        let spec: ClusterSpec = part(object, "spec")?;
        Ok(Self {
            name: object.name_any(),
            paused: spec.paused,
            leaderless_since: None,
            status: part(object, "status")?,
        })
    }

    pub fn in_force(&self) -> Option<&CommitId> {
        self.status.admitted_commit.as_ref()
    }
}

impl UnitView {
    pub fn of(object: &DynamicObject) -> Result<Self, AccessError> {
        let status: UnitStatus = part(object, "status")?;
        let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
        Ok(Self {
            name: object.name_any(),
            ready: ready.is_some_and(|c| c.status == "True"),
            message: ready.map(|c| c.message.clone()).filter(|m| !m.is_empty()),
            objects: status.objects,
            ready_objects: status.ready,
            errors: status.errors,
        })
    }
}

impl NodeView {
    pub fn of(object: &DynamicObject) -> Result<Self, AccessError> {
        let spec: NodeSpec = part(object, "spec")?;
        let status: NodeStatus = part(object, "status")?;
        Ok(Self {
            name: object.name_any(),
            pool: spec.pool,
            server: spec.server_id,
            state: status.state,
            message: status.message,
        })
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UnitStatus {
    conditions: Vec<Condition>,
    objects: u32,
    ready: u32,
    errors: Vec<UnitError>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeSpec {
    pool: String,
    server_id: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    state: Option<String>,
    message: Option<String>,
}
