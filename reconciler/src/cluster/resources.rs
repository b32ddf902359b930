//! fabrik's own kinds, group `fabrik.dev`, category `fabrik`: what `kubectl get fabrik` shows.
//!
//! The definitions in `manifests/fabrik/crds` are generated from these types; a test keeps them equal.

use std::collections::BTreeMap;

use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::hold::Hold;
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

mod node;
mod schemas;

pub use self::node::{FabrikNode, FabrikNodeSpec, FabrikNodeStatus};
use self::schemas::{DiagnosticSchema, HoldSchema, MomentSchema};

/// The API group of all of them.
pub const GROUP: &str = "fabrik.dev";
/// The name of the one `FabrikLedger`.
pub const LEDGER_NAME: &str = "ledger";

/// One cluster: what fabrik does for it, and the switch that pauses all effects.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fabrik.dev",
    version = "v1alpha1",
    kind = "FabrikCluster",
    plural = "fabrikclusters",
    category = "fabrik",
    status = "FabrikClusterStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Commit","type":"string","jsonPath":".status.appliedCommit"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Nodes","type":"string","jsonPath":".status.nodes"}"#,
    printcolumn = r#"{"name":"Units","type":"string","jsonPath":".status.unitsReady"}"#,
    printcolumn = r#"{"name":"Paused","type":"string","jsonPath":".spec.paused.reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct FabrikClusterSpec {
    /// The random id that founding gave the cluster; in a label of each of its resources at Hetzner.
    pub cluster_id: String,
    /// Whom the secrets are encrypted to; each server has its key. Founding on a server with another key is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_recipient: Option<String>,
    /// Set: fabrik observes and reports, and changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// A machine that is being installed as a server, by `fabrik install`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installing: Option<Installing>,
}

/// Who is installed, and the hash of what it has to show to be given a server's keys. No secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Installing {
    pub node: String,
    pub nonce_hash: String,
    #[schemars(with = "MomentSchema")]
    pub until: Timestamp,
}

/// Who paused all effects, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    pub reason: String,
    pub by: String,
    #[schemars(with = "MomentSchema")]
    pub at: Timestamp,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FabrikClusterStatus {
    /// `Ready`, `Reconciling` and `Stalled`, by the kstatus conventions.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The commit in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admitted_commit: Option<String>,
    /// The tip of the branch at the last fetch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_commit: Option<String>,
    /// The last commit that was carried out whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied_commit: Option<String>,
    /// Why the tip of the branch is not in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// What waits, and for what.
    #[schemars(with = "Vec<HoldSchema>")]
    pub holds: Vec<Hold>,
    pub pools: BTreeMap<String, PoolStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<Units>,
    /// Ready and wanted nodes of all pools, as `2/3`: for the table of `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<String>,
    /// Ready and all units, as `4/4`: for the table of `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units_ready: Option<String>,
    /// Each node that has a system to run, servers first: where it stands, and what it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub systems: Vec<SystemStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// Where the API servers are reached from outside, where one address leads to all of them: a URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// The Node of the leader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    pub commit: String,
    #[schemars(with = "MomentSchema")]
    pub at: Timestamp,
    /// All reasons, not the first.
    #[schemars(with = "Vec<DiagnosticSchema>")]
    pub diagnostics: Vec<Diagnostic>,
}

/// Where a node's system stands, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SystemStatus {
    pub name: String,
    pub pool: String,
    /// In a word or two.
    pub state: String,
    #[schemars(with = "MomentSchema")]
    pub since: Timestamp,
    /// What it waits for, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it says it runs, without the path of the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// What it is to run, where that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<String>,
}

/// The same on the node's own object, for `kubectl get fabriknodes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    pub state: String,
    #[schemars(with = "MomentSchema")]
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<String>,
}

impl From<&SystemStatus> for Standing {
    fn from(status: &SystemStatus) -> Self {
        Self {
            state: status.state.clone(),
            since: status.since,
            message: status.message.clone(),
            system: status.system.clone(),
            wants: status.wants.clone(),
        }
    }
}

/// How far the nodes have come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Nodes that run what they should.
    pub done: u32,
    pub total: u32,
    /// What is left to do, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// When it will have ended, if nothing stands in its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<MomentSchema>")]
    pub ends: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolStatus {
    pub wanted: u32,
    pub ready: u32,
    pub joining: u32,
    pub leaving: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Units {
    pub total: u32,
    pub ready: u32,
}

/// A unit: a folder under `manifests/`, and what of it is in the cluster.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fabrik.dev",
    version = "v1alpha1",
    kind = "FabrikUnit",
    plural = "fabrikunits",
    category = "fabrik",
    status = "FabrikUnitStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')").message("the name must be that of a folder under manifests/: at most 63 of a-z, 0-9 and -, beginning with a letter and not ending with -"),
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Objects","type":"integer","jsonPath":".status.objects"}"#,
    printcolumn = r#"{"name":"Healthy","type":"integer","jsonPath":".status.ready"}"#,
    printcolumn = r#"{"name":"Commit","type":"string","jsonPath":".status.commit"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#
)]
pub struct FabrikUnitSpec {}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FabrikUnitStatus {
    /// `Ready`, `Reconciling` and `Stalled`, by the kstatus conventions.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The commit that was last applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    pub objects: u32,
    /// How many of the objects are there and healthy.
    pub ready: u32,
    /// What the unit owns, by `KIND.GROUP/NAMESPACE/NAME`, with the digest of the source that it was applied from.
    /// Written before the objects are.
    pub inventory: BTreeMap<String, String>,
    pub errors: Vec<String>,
}

/// What can't be observed and must survive a crash. Its layout is `fabrik_core::ledger`, under a schema version of its
/// own; the API server keeps it as it is.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "fabrik.dev",
    version = "v1alpha1",
    kind = "FabrikLedger",
    plural = "fabrikledgers",
    category = "fabrik",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Cluster","type":"string","jsonPath":".spec.cluster"}"#,
    printcolumn = r#"{"name":"Admitted","type":"string","jsonPath":".spec.admitted.commit"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(transparent)]
pub struct FabrikLedgerSpec {
    pub content: serde_json::Map<String, serde_json::Value>,
}

impl JsonSchema for FabrikLedgerSpec {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FabrikLedgerSpec".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}

/// Each definition with the name of its file in `manifests/fabrik/crds`.
pub fn definitions() -> [(&'static str, CustomResourceDefinition); 4] {
    [
        ("fabrikclusters.yaml", FabrikCluster::crd()),
        ("fabrikunits.yaml", FabrikUnit::crd()),
        ("fabriknodes.yaml", FabrikNode::crd()),
        ("fabrikledgers.yaml", FabrikLedger::crd()),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// After a change of the types above: `FABRIK_WRITE_CRDS=1 cargo test -p fabrik --lib resources`.
    #[test]
    fn the_files_are_what_the_types_say() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/fabrik/crds");
        for (name, definition) in definitions() {
            let generated = format!(
                "# Generated from reconciler/src/cluster/resources.rs; a test keeps it so.\n{}",
                serde_saphyr::to_string(&definition).unwrap()
            );
            let path = dir.join(name);
            if std::env::var_os("FABRIK_WRITE_CRDS").is_some() {
                std::fs::write(&path, &generated).unwrap();
            }
            assert_eq!(
                std::fs::read_to_string(&path).unwrap_or_default(),
                generated,
                "{name}"
            );
        }
    }

    #[test]
    fn every_kind_is_in_the_category_and_the_ledger_keeps_what_we_do_not_know() {
        for (_, definition) in definitions() {
            assert_eq!(
                definition.spec.names.categories,
                Some(vec!["fabrik".to_owned()])
            );
            assert_eq!(definition.spec.scope, "Cluster");
        }
        let unknown = serde_json::json!({"schema": 9, "later": {"x": [1]}});
        let spec: FabrikLedgerSpec = serde_json::from_value(unknown.clone()).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap(), unknown);
    }
}
