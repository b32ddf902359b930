//! fabrik's own kinds, group `fabrik.dev`, category `fabrik`: what `kubectl get fabrik` shows.
//!
//! The definitions in `manifests/fabrik/crds` are generated from these types; a test keeps them equal.

use std::collections::BTreeMap;

use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::hold::Hold;
use fabrik_core::system::{Order, Report, SignedPublication};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

mod schemas;

use self::schemas::{
    AnyObject, DiagnosticSchema, HoldSchema, MomentSchema, ReportSchema, SignedPublicationSchema,
};

/// The API group of all of them.
pub const GROUP: &str = "fabrik.dev";
/// The name of the one `FabrikLedger`.
pub const LEDGER_NAME: &str = "ledger";

/// What a node may say at most: its words are a command's, and their end is what tells.
const MAX_SAID_CHARS: usize = 8192;
const MAX_WORD_CHARS: usize = 64;
/// sshd has one key of a kind.
const MAX_HOST_KEYS: usize = 1;
/// An ed25519 key has 80 characters.
const MAX_HOST_KEY_CHARS: usize = 128;

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

/// A node of the cluster. The spec is the leader's; the status is the node's own.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fabrik.dev",
    version = "v1alpha1",
    kind = "FabrikNode",
    plural = "fabriknodes",
    category = "fabrik",
    status = "FabrikNodeStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Pool","type":"string","jsonPath":".spec.pool"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".spec.standing.state"}"#,
    printcolumn = r#"{"name":"Since","type":"date","jsonPath":".spec.standing.since"}"#,
    printcolumn = r#"{"name":"Runs","type":"string","jsonPath":".spec.standing.system"}"#,
    printcolumn = r#"{"name":"Wants","type":"string","jsonPath":".spec.standing.wants"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".spec.standing.message"}"#,
    printcolumn = r#"{"name":"Server","type":"integer","jsonPath":".spec.serverId","priority":1}"#,
    printcolumn = r#"{"name":"Agent","type":"string","jsonPath":".status.state","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
pub struct FabrikNodeSpec {
    pub pool: String,
    /// The server's id at Hetzner.
    pub server_id: u64,
    /// The UID of the Node that this stands for.
    pub uid: String,
    /// The creation intent that the server was made for.
    pub intent: String,
    /// The system that it is to fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aim: Option<String>,
    /// What it may run, signed with the cluster's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<SignedPublicationSchema>")]
    pub publication: Option<SignedPublication>,
    /// Where it may fetch it from, beside what it was made with: the caches of the servers that there are now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<String>,
    /// What it is to do now.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "if_it_reads"
    )]
    #[schemars(with = "Option<AnyObject>")]
    pub order: Option<Order>,
    /// That it leaves for good, if it is a server, signed with the cluster's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<SignedPublicationSchema>")]
    pub retirement: Option<SignedPublication>,
    /// Where it stands, as the leader sees it: for people.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "if_it_reads"
    )]
    #[schemars(with = "Option<Standing>")]
    pub standing: Option<Standing>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FabrikNodeStatus {
    /// The version of fabrik that wrote this.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_WORD_CHARS))]
    pub version: Option<String>,
    /// What the node runs and does.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "report_if_it_reads"
    )]
    #[schemars(with = "Option<ReportSchema>")]
    pub report: Option<Report>,
    /// In words, for the table of `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_WORD_CHARS))]
    pub state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_SAID_CHARS))]
    pub message: Option<String>,
    /// The machine's public host keys, as `ssh-ed25519 BASE64`: by them `fabrik ssh` knows it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MAX_HOST_KEYS),
        inner(length(max = MAX_HOST_KEY_CHARS), regex(pattern = "^ssh-ed25519 [A-Za-z0-9+/]+=*$"))
    )]
    pub ssh_host_keys: Vec<String>,
}

impl FabrikNodeStatus {
    /// Cut to what the API server takes: a report that it refuses would be none.
    #[must_use]
    pub fn within_bounds(mut self) -> Self {
        let activity = self.report.as_mut().and_then(|r| r.activity.as_mut());
        let words = activity.map(|a| &mut a.message);
        for words in words.into_iter().chain(self.message.as_mut()) {
            if let Some((end, _)) = words.char_indices().nth(MAX_SAID_CHARS) {
                words.truncate(end);
            }
        }
        self
    }
}

/// What another version of fabrik wrote may not read; the object that it is in still does.
fn if_it_reads<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// The same, by the number of its layout.
fn report_if_it_reads<'de, D>(deserializer: D) -> Result<Option<Report>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| Report::read(&value).ok()))
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
    fn a_node_whose_report_or_order_does_not_read_still_does() {
        let node: FabrikNode = serde_json::from_value(serde_json::json!({
            "apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikNode", "metadata": {"name": "a"},
            "spec": {"pool": "p", "serverId": 1, "uid": "u", "intent": "i", "order": {"action": "dance"}},
            "status": {"version": "9", "report": {"later": true}},
        }))
        .unwrap();
        let status = node.status.unwrap();
        assert_eq!((node.spec.order, status.report), (None, None));
        assert_eq!(status.version.as_deref(), Some("9"));
    }

    #[test]
    fn a_node_s_words_are_cut_to_what_the_api_server_takes() {
        let mut status: FabrikNodeStatus = serde_json::from_value(serde_json::json!({
            "message": "ä".repeat(MAX_SAID_CHARS + 1),
            "report": {"boot": "00000000-0000-0000-0000-000000000001",
                "running": format!("/nix/store/{}-x", "0".repeat(32)), "default": null, "staged": null,
                "activity": {"ticket": 1, "phase": "failed", "since": "2026-11-21T12:00:00Z",
                    "message": "x".repeat(MAX_SAID_CHARS + 1)}},
        }))
        .unwrap();
        status = status.within_bounds();
        let said = status.report.unwrap().activity.unwrap().message;
        for words in [said, status.message.unwrap()] {
            assert_eq!(words.chars().count(), MAX_SAID_CHARS);
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
