//! What k3s does to its control plane: it brings its version of it, and puts the roles on its Node.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::{Component, ControlPlane};

impl ControlPlane {
    const RESTART_DEADLINE: Duration = Duration::from_secs(120);

    /// What its system brings: it has this version when it is started next.
    pub fn set_k3s(&self, k3s: &str) -> Result<()> {
        let version = k3s.split_once('+').map_or(k3s, |(version, _)| version);
        self.set_version(version)
    }

    /// k3s is restarted as another version, all of the control plane with it.
    pub async fn restart_k3s(&self, k3s: &str) -> Result<()> {
        for component in Component::ALL.into_iter().rev() {
            if let Some(process) = self.take(component) {
                // What it waits for may be played on this thread.
                tokio::task::spawn_blocking(move || process.stop()).await?;
            }
        }
        self.set_k3s(k3s)?;
        self.start_all(Self::RESTART_DEADLINE).await
    }

    /// What the stand-in for the program `k3s` has to know.
    pub fn places(&self, etcdctl: String) -> [(&'static str, String); 5] {
        let dir = self.dir();
        [
            ("@NODE@", self.name().to_owned()),
            ("@ETCDCTL@", etcdctl),
            ("@ENDPOINT@", format!("https://{}:2379", self.address())),
            ("@CERTIFICATES@", dir.display().to_string()),
            ("@SNAPSHOTS@", dir.join("snapshots").display().to_string()),
        ]
    }

    /// Puts the roles on this server's Node, as k3s does with its own rights: a kubelet may not.
    pub async fn label_node(&self) {
        let labels = json!({"metadata": {"labels": {
            "node-role.kubernetes.io/control-plane": "true",
            "node-role.kubernetes.io/etcd": "true",
        }}});
        while let Err(error) = self.patch_node(&labels).await {
            tracing::debug!(node = self.name(), %error, "not labelled yet");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn patch_node(&self, patch: &Value) -> Result<()> {
        let client = self
            .client("bed-supervisor", Some("system:masters"))
            .await?;
        let nodes: Api<Node> = Api::all(client);
        let patch = Patch::Merge(patch);
        nodes
            .patch(self.name(), &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }
}
