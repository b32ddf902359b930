//! A machine's software when it is a server: the control plane, the supervisor and `fabrik run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::control_plane::{Component, ControlPlane, Trust};
use crate::fabrik::Fabrik;
use crate::machine::Root;
use crate::supervisor::{self, Supervisor};

/// What runs on a control-plane machine.
pub struct Server {
    pub control_plane: ControlPlane,
    pub fabrik: Fabrik,
    trust: Arc<Trust>,
    api_servers: Vec<SocketAddr>,
    etcdctl: PathBuf,
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
        etcdctl: PathBuf,
    ) -> Self {
        Self {
            control_plane,
            fabrik,
            trust,
            api_servers,
            etcdctl,
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

    /// What its system brings: the control plane has this version when it is started next.
    pub fn set_k3s(&self, k3s: &str) -> Result<()> {
        let version = k3s.split_once('+').map_or(k3s, |(version, _)| version);
        self.control_plane.set_version(version)
    }

    /// k3s is restarted as another version, all of the control plane with it. `fabrik run` is not.
    pub async fn restart_k3s(&self, k3s: &str) -> Result<()> {
        for component in Component::ALL.into_iter().rev() {
            self.control_plane.stop(component);
        }
        self.set_k3s(k3s)?;
        self.control_plane.start_all(Self::BOOT_DEADLINE).await
    }

    /// Programs that only servers have.
    pub fn add_programs(&self, root: &Root) -> Result<()> {
        let places = [
            ("@NODE@", self.control_plane.name().to_owned()),
            ("@ETCDCTL@", self.etcdctl.display().to_string()),
            (
                "@ENDPOINT@",
                format!("https://{}:2379", self.control_plane.address()),
            ),
            (
                "@CERTIFICATES@",
                self.control_plane.dir().display().to_string(),
            ),
            (
                "@SNAPSHOTS@",
                self.control_plane
                    .dir()
                    .join("snapshots")
                    .display()
                    .to_string(),
            ),
        ];
        let text = include_str!("../stand-ins/k3s");
        root.add_program(&root.server_programs(), "k3s", text, &places)
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
