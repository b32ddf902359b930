//! A machine's software when it is a server: the control plane, the supervisor and `fabrik run`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, Trust};
use crate::fabrik::Fabrik;
use crate::supervisor::{self, Supervisor};

/// What runs on a control-plane machine.
pub struct Server {
    pub control_plane: ControlPlane,
    pub fabrik: Fabrik,
    trust: Arc<Trust>,
    api_servers: Vec<SocketAddr>,
    supervisor: Mutex<Option<Supervisor>>,
}

impl Server {
    /// Three servers that boot together on two busy cores need a while.
    const BOOT_DEADLINE: Duration = Duration::from_secs(120);

    pub fn new(
        control_plane: ControlPlane,
        fabrik: Fabrik,
        trust: Arc<Trust>,
        api_servers: Vec<SocketAddr>,
    ) -> Self {
        Self {
            control_plane,
            fabrik,
            trust,
            api_servers,
            supervisor: Mutex::default(),
        }
    }

    /// Starts everything that runs at boot.
    pub async fn boot(&self) -> Result<()> {
        self.control_plane.start_all(Self::BOOT_DEADLINE).await?;
        let client = self
            .control_plane
            .client("bed-supervisor", Some("system:masters"))
            .await?;
        let supervisor = Supervisor::start(supervisor::Settings {
            address: self.control_plane.address(),
            trust: Arc::clone(&self.trust),
            client,
            api_servers: self.api_servers.clone(),
        });
        let supervisor = supervisor.await.context("starting the supervisor")?;
        *self
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
        self.fabrik.boot()
    }

    /// Puts the roles on this server's Node, as k3s does with its own rights: a kubelet may not.
    pub async fn label_node(&self) {
        let labels = json!({"metadata": {"labels": {
            "node-role.kubernetes.io/control-plane": "true",
            "node-role.kubernetes.io/etcd": "true",
        }}});
        while let Err(error) = self.patch_node(&labels).await {
            tracing::debug!(node = self.control_plane.name(), %error, "not labelled yet");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn patch_node(&self, patch: &Value) -> Result<()> {
        let client = self
            .control_plane
            .client("bed-supervisor", Some("system:masters"))
            .await?;
        let nodes: Api<Node> = Api::all(client);
        nodes
            .patch(
                self.control_plane.name(),
                &PatchParams::default(),
                &Patch::Merge(patch),
            )
            .await?;
        Ok(())
    }

    /// What a power cut does.
    pub fn cut(&self) {
        self.fabrik.cut();
        let supervisor = self
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(supervisor);
        self.control_plane.kill_all();
    }
}
