//! A machine's software when it is a server: the control plane, the supervisor and `fabrik run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::control_plane::{ControlPlane, Trust};
use crate::fabrik::Fabrik;
use crate::machine::Root;
use crate::supervisor::{self, ApiServers, Supervisor};

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
            api_servers: ApiServers::These(self.api_servers.clone()),
            server_token: None,
        });
        let supervisor = supervisor.await.context("starting the supervisor")?;
        *self
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(supervisor);
        self.fabrik.boot()
    }

    /// Programs that only servers have.
    pub fn add_programs(&self, root: &Root) -> Result<()> {
        let places = self
            .control_plane
            .places(self.etcdctl.display().to_string());
        let text = include_str!("../stand-ins/k3s");
        root.add_program(&root.server_programs(), "k3s", text, &places)
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
