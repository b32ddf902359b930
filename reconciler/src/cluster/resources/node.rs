//! `FabrikNode`: what the leader tells a node, and what the node says of itself.

use fabrik_core::system::{Order, Report, SignedPublication};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Standing;
use super::schemas::{AnyObject, ReportSchema, SignedPublicationSchema};

/// What a node may say at most: its words are a command's, and their end is what tells.
pub const MAX_SAID_CHARS: usize = 8192;
const MAX_WORD_CHARS: usize = 64;
/// sshd has one key of a kind.
const MAX_HOST_KEYS: usize = 1;
/// An ed25519 key has 80 characters.
const MAX_HOST_KEY_CHARS: usize = 128;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
