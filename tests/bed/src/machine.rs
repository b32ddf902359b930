//! A machine behind a server of the emulator: off, booting, running, or refused by the cluster.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::balancer::Balancer;
use crate::control_plane::Trust;
use crate::emulator::Hetzner;
use crate::join::{self, Disk, JoinError};
use crate::kubeconfig::{self, Endpoint};
use crate::kubelet::{self, Health};
use crate::parts::Parts;
use crate::pki::{Certified, Subject};
use crate::process::Dirs;
use crate::server::Server;

/// Where a machine stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing of it runs.
    Off,
    /// It has power; its Node is not ready yet.
    Booting,
    /// Its Node is registered and reported.
    Running { boot_id: String },
    /// It has power, and the cluster does not want it. It tries no more until the next boot.
    Refused { reason: String },
}

/// What is the same for all machines of a bed.
pub struct Surroundings {
    /// Where machines live, whoever gives them power.
    pub runtime: Handle,
    pub parts: Arc<Parts>,
    pub hetzner: Hetzner,
    pub dir: PathBuf,
    pub dirs: Dirs,
    pub kubelet_version: String,
    /// KWOK's own: it asks for more than a kubelet may.
    pub kwok_identity: Certified,
}

/// The user data of a worker.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UserData {
    pub fabrik: u32,
    pub role: String,
    pub node_name: String,
    pub servers: Vec<String>,
    pub token: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub taints: Vec<String>,
}

/// What a machine is for.
pub enum Role {
    /// Reads its user data at boot and joins.
    Agent,
    Server {
        server: Arc<Server>,
        trust: Arc<Trust>,
    },
}

/// A machine. Clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    name: String,
    address: Ipv4Addr,
    role: Role,
    surroundings: Arc<Surroundings>,
    state: watch::Sender<State>,
    health: watch::Sender<Health>,
    disk: Mutex<Disk>,
    life: Mutex<Option<JoinHandle<()>>>,
}

impl Machine {
    pub(crate) fn new(
        id: u64,
        name: &str,
        address: Ipv4Addr,
        role: Role,
        surroundings: Arc<Surroundings>,
    ) -> Result<Self> {
        let disk = Disk {
            node_password: join::random_hex(16)?,
            kubelet: None,
        };
        let inner = Inner {
            id,
            name: name.to_owned(),
            address,
            role,
            surroundings,
            state: watch::Sender::new(State::Off),
            health: watch::Sender::default(),
            disk: Mutex::new(disk),
            life: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The server's id at the emulator.
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// The server's name, which is its Node's name too.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    pub fn address(&self) -> Ipv4Addr {
        self.inner.address
    }

    pub fn state(&self) -> State {
        self.inner.state.borrow().clone()
    }

    /// Waits until the machine is in a state that `wanted` accepts.
    pub async fn wait_for(
        &self,
        deadline: Duration,
        wanted: impl FnMut(&State) -> bool,
    ) -> Result<State> {
        let mut states = self.inner.state.subscribe();
        let waiting = tokio::time::timeout(deadline, states.wait_for(wanted));
        match waiting.await {
            Ok(state) => Ok(state.context("the machine is gone")?.clone()),
            Err(_) => bail!(
                "machine {} is still {:?} after {deadline:?}",
                self.name(),
                self.state()
            ),
        }
    }

    /// Waits until its Node is registered; fails at once when the cluster refuses it.
    pub async fn wait_running(&self, deadline: Duration) -> Result<()> {
        let settled =
            |state: &State| matches!(state, State::Running { .. } | State::Refused { .. });
        match self.wait_for(deadline, settled).await? {
            State::Refused { reason } => bail!("machine {} was refused: {reason}", self.name()),
            _ => Ok(()),
        }
    }

    /// The machine switches itself off at once; the emulator sees it.
    pub async fn power_off(&self) -> Result<()> {
        self.cut().await;
        self.inner.surroundings.hetzner.halted(self.id()).await
    }

    /// Somebody presses the power button at the emulator. Waits until the machine boots.
    pub async fn power_on(&self) -> Result<()> {
        self.inner
            .surroundings
            .hetzner
            .action(self.id(), "poweron")
            .await?;
        self.wait_for(Duration::from_secs(30), |state| *state != State::Off)
            .await?;
        Ok(())
    }

    /// It reboots itself: the emulator does not notice, the boot id is a new one.
    pub async fn reboot(&self) {
        self.cut().await;
        self.boot();
    }

    /// It disappears without notice: nothing of it runs, the emulator still says "running", and
    /// the power button does nothing any more. A reset, or power off and on, brings it back.
    pub async fn kill(&self) -> Result<()> {
        self.cut().await;
        self.inner
            .surroundings
            .hetzner
            .set_hung(self.id(), true)
            .await
    }

    /// Everything that it does from now on takes this much longer. Zero makes it fast again.
    pub fn slow(&self, delay: Duration) {
        self.inner.health.send_modify(|health| health.delay = delay);
    }

    /// Its kubelet reports Ready=False.
    pub fn sick(&self) {
        self.inner.health.send_modify(|health| health.sick = true);
    }

    /// Its kubelet reports Ready=True again.
    pub fn well(&self) {
        self.inner.health.send_modify(|health| health.sick = false);
    }

    /// Power comes on. A machine that has power is left alone.
    pub(crate) fn boot(&self) {
        let mut life = self.life();
        if self.state() != State::Off {
            return;
        }
        self.inner.state.send_replace(State::Booting);
        let inner = Arc::clone(&self.inner);
        *life = Some(self.inner.surroundings.runtime.spawn(async move {
            // A machine that failed to boot says why, and waits for somebody to reset it.
            if let Err(error) = inner.live().await {
                let reason = format!("{error:#}");
                tracing::warn!(machine = inner.name, reason, "the machine stops");
                inner.state.send_replace(State::Refused { reason });
            }
        }));
    }

    /// Power goes. When this returns, nothing of the machine runs.
    pub(crate) async fn cut(&self) {
        let life = self.life().take();
        if let Some(life) = life {
            life.abort();
            // An aborted task answers with its cancellation once all that it held is dropped.
            let _ = life.await;
        }
        if let Role::Server { server, .. } = &self.inner.role {
            server.cut();
        }
        self.inner.state.send_replace(State::Off);
    }

    /// The power button was pressed. A machine that hangs does not notice.
    pub(crate) async fn shut_down(&self) -> Result<()> {
        if self.state() == State::Off {
            return Ok(());
        }
        self.power_off().await
    }

    /// Ends it without waiting, for when the bed itself ends.
    pub(crate) fn abandon(&self) {
        if let Some(life) = self.life().take() {
            life.abort();
        }
        if let Role::Server { server, .. } = &self.inner.role {
            server.cut();
        }
    }

    fn life(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.inner
            .life
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// From power-on to the end of power, which comes by dropping this future.
    async fn live(&self) -> Result<()> {
        let delay = self.health.borrow().delay;
        tokio::time::sleep(delay).await;
        match &self.role {
            Role::Agent => self.live_as_agent().await,
            Role::Server { server, trust } => self.live_as_server(server, trust).await,
        }
    }

    async fn live_as_agent(&self) -> Result<()> {
        let hetzner = &self.surroundings.hetzner;
        hetzner.set_hung(self.id, false).await?;
        let user_data = hetzner
            .metadata(self.id, "userdata")
            .await?
            .context("no user data")?;
        let user_data: UserData = serde_json::from_str(&user_data).context("reading user data")?;
        let instance = hetzner.metadata(self.id, "metadata/instance-id").await?;
        let instance = instance.context("no instance id in the metadata")?;
        let request = join::Request {
            servers: user_data.servers.clone(),
            token: user_data.token.clone(),
            node_name: user_data.node_name.clone(),
        };
        let joined = self.join(&request).await?;
        // The port of the balancer that k3s runs on its agents.
        let local = SocketAddr::from((self.address, 6444));
        let _balancer = Balancer::start(local, joined.api_servers).await?;
        let endpoint = Endpoint {
            url: format!("https://{local}"),
            through_balancer: true,
        };
        let mut settings = self.kubelet_settings(&endpoint, &joined.ca_pem, &joined.kubelet)?;
        settings.node_name = user_data.node_name;
        settings.provider_id = format!("hcloud://{}", instance.trim());
        settings.labels = user_data.labels;
        settings.taints = user_data.taints;
        self.run_kubelet(settings).await
    }

    async fn live_as_server(&self, server: &Server, trust: &Trust) -> Result<()> {
        server.boot().await?;
        let user = format!("system:node:{}", self.name);
        let identity = trust
            .cluster
            .issue(&Subject::client(&user, Some("system:nodes")))?;
        let endpoint = server.control_plane.endpoint();
        let ca_pem = trust.cluster.certificate_pem();
        let mut settings = self.kubelet_settings(&endpoint, ca_pem, &identity)?;
        settings.kubelet_version = format!("v{}+k3s1", server.control_plane.version());
        let (running, ()) = tokio::join!(self.run_kubelet(settings), server.label_node());
        running
    }

    /// Tries until a supervisor answers; a few times when it says no.
    async fn join(&self, request: &join::Request) -> Result<join::Joined> {
        const REFUSALS: u32 = 3;
        const PAUSE: Duration = Duration::from_secs(1);
        let mut refusals = 0;
        loop {
            let disk = self
                .disk
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            match join::join(request, &disk).await {
                Ok(joined) => {
                    let mut disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner);
                    disk.kubelet = Some(joined.kubelet.clone());
                    return Ok(joined);
                }
                Err(JoinError::Refused(reason)) => {
                    refusals += 1;
                    if refusals == REFUSALS {
                        bail!("a supervisor refuses node {}: {reason}", request.node_name);
                    }
                }
                Err(JoinError::Unavailable(error)) => {
                    tracing::debug!(machine = self.name, %error, "not joined yet");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn run_kubelet(&self, settings: kubelet::Settings) -> Result<()> {
        let boot_id = settings.boot_id.clone();
        let registered = || {
            self.state.send_replace(State::Running { boot_id });
        };
        kubelet::run(settings, self.health.subscribe(), registered).await
    }

    fn kubelet_settings(
        &self,
        endpoint: &Endpoint,
        ca_pem: &str,
        identity: &Certified,
    ) -> Result<kubelet::Settings> {
        let surroundings = &self.surroundings;
        let dir = surroundings.dir.join("machines").join(self.id.to_string());
        std::fs::create_dir_all(&dir)?;
        Ok(kubelet::Settings {
            node_name: self.name.clone(),
            provider_id: format!("hcloud://{}", self.id),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            address: self.address,
            kubelet_version: surroundings.kubelet_version.clone(),
            boot_id: join::random_hex(16)?,
            kubeconfig: kubeconfig::text(endpoint, ca_pem, identity),
            kwok_kubeconfig: kubeconfig::text(endpoint, ca_pem, &surroundings.kwok_identity),
            kwok: surroundings.parts.kwok.clone(),
            dir,
            dirs: surroundings.dirs.clone(),
        })
    }
}
