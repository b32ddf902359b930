//! A machine behind a server of the emulator: off, booting, running, or refused by the cluster.

mod etcd;
mod joining;
mod life;
mod native;
mod network;
pub(crate) mod own;
mod rescue;
mod root;
mod services;
mod surroundings;
mod units;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use self::etcd::OwnEtcd;
pub(crate) use self::root::uuid;
pub use self::root::{Root, System};
pub use self::surroundings::{Surroundings, UserData};
use crate::agent;
use crate::bed::success;
use crate::control_plane::Trust;
use crate::emulator::Boots;
use crate::join::{self, Disk};
use crate::kubelet::Health;
use crate::namespaces::Entrance;
use crate::process::Process;
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
    /// Its rescue system lets those in who were named.
    Rescue,
    /// It runs a Linux of its owner's, and lets its owner in.
    OtherLinux,
    /// It has power, and the cluster does not want it. It tries no more until the next boot.
    Refused { reason: String },
}

/// What a machine is for.
pub enum Role {
    /// Reads its user data at boot and joins.
    Agent,
    Server {
        server: Arc<Server>,
        trust: Arc<Trust>,
    },
    /// A server of the control plane in a bed that began empty: what is on its disk makes it one.
    Native,
    /// Of somebody's own: nobody ordered it, and Hetzner knows nothing of it.
    Own,
    /// Somebody else's: what is on its disk is not played here, and what it does in rescue is.
    Other,
}

/// What goes wrong at the next boot, and only then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whim {
    Hang,
    OldSystem,
    Sick,
    EmptyDisk,
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
    whims: Mutex<BTreeSet<Whim>>,
    /// How many times it booted, panics included.
    boots: watch::Sender<u32>,
    /// Whether its network lets it reach API servers.
    network: watch::Sender<bool>,
    /// What an agent is told about its cluster. A machine without this runs none.
    cluster: watch::Sender<Option<agent::Cluster>>,
    agent: Mutex<Option<Process>>,
    /// The namespaces of a machine that has its own, while it has power.
    entrance: Mutex<Option<Entrance>>,
    /// Its address in a private network, where the bed has such.
    private: watch::Sender<Option<Ipv4Addr>>,
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
            whims: Mutex::default(),
            boots: watch::Sender::default(),
            network: watch::Sender::new(true),
            cluster: watch::Sender::default(),
            agent: Mutex::default(),
            entrance: Mutex::default(),
            private: watch::Sender::default(),
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

    /// The machine switches itself off at once; the emulator sees it, where it is a server there.
    pub async fn power_off(&self) -> Result<()> {
        self.cut().await;
        if matches!(self.inner.role, Role::Own) {
            return Ok(());
        }
        self.inner.surroundings.hetzner.halted(self.id()).await
    }

    /// Somebody presses the power button at the emulator. Waits until the machine boots.
    pub async fn power_on(&self) -> Result<()> {
        self.inner
            .surroundings
            .hetzner
            .action(self.id(), "poweron")
            .await?;
        self.wait_for(Duration::from_secs(90), |state| *state != State::Off)
            .await?;
        Ok(())
    }

    /// It reboots itself: the emulator does not notice, the boot id is a new one.
    pub async fn reboot(&self) {
        self.cut().await;
        self.boot(Boots::Disk);
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

    /// Its next boot hangs, until somebody resets it.
    pub fn hang_at_boot(&self) {
        self.whim(Whim::Hang);
    }

    /// Its next boot does not take the one-shot entry.
    pub fn boot_old_system(&self) {
        self.whim(Whim::OldSystem);
    }

    /// From its next boot on its kubelet reports Ready=False, until [`Machine::well`].
    pub fn sick_after_boot(&self) {
        self.whim(Whim::Sick);
    }

    /// Its next boot finds the disk as it was when the machine was made.
    pub fn lose_disk_at_boot(&self) {
        self.whim(Whim::EmptyDisk);
    }

    /// The folder that it has for its root, in a bed with systems.
    pub fn root(&self) -> Option<Root> {
        self.inner.root()
    }

    /// The system that it runs.
    pub fn system(&self) -> Result<System> {
        self.root().context("this machine has no system")?.current()
    }

    /// Whether it is a server by what is on its disk, and its API server is ready.
    pub(crate) fn is_native_and_runs(&self) -> bool {
        self.is_native() && matches!(self.state(), State::Running { .. })
    }

    /// How many times it booted, panics included.
    pub fn boots(&self) -> u32 {
        *self.inner.boots.borrow()
    }

    /// SIGKILL for `fabrik agent`; it is started again as a service manager does. False: none runs.
    pub fn kill_agent(&self) -> Result<bool> {
        let agent = lock(&self.inner.agent);
        agent.as_ref().map_or(Ok(false), Process::crash)
    }

    /// Nothing passes any more between what runs on this node (kubelet, agent, KWOK) and API servers, until
    /// [`Machine::reconnect`]. A server's own control plane and its `fabrik run` are no part of that.
    pub fn cut_off(&self) {
        self.inner.network.send_replace(false);
    }

    pub fn reconnect(&self) {
        self.inner.network.send_replace(true);
    }

    pub fn is_cut_off(&self) -> bool {
        !*self.inner.network.borrow()
    }

    /// What runs as `fabrik agent`, by the kernel's word. None while it is started.
    pub fn agent_program(&self) -> Option<PathBuf> {
        let pid = lock(&self.inner.agent).as_ref().and_then(Process::pid)?;
        std::fs::read_link(format!("/proc/{pid}/exe")).ok()
    }

    pub fn agent_runs(&self) -> bool {
        lock(&self.inner.agent)
            .as_ref()
            .is_some_and(Process::is_running)
    }

    /// Whether it is a server by what is on its disk.
    pub fn is_native(&self) -> bool {
        matches!(self.inner.role, Role::Native)
    }

    /// `systemctl` on it, to its end.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<()> {
        let root = self.root().context("a machine without a disk")?;
        let program = root.programs().join("systemctl");
        let output = Command::new(program).args(arguments).output()?;
        success(&output, arguments).map(drop)
    }

    /// Installs `fabrik agent`, now and at each boot.
    pub(crate) fn install_agent(&self, cluster: agent::Cluster) {
        self.inner.cluster.send_replace(Some(cluster));
    }

    /// Power comes on. A machine that has power is left alone.
    pub(crate) fn boot(&self, boots: Boots) {
        let mut life = self.life();
        if self.state() != State::Off {
            return;
        }
        self.inner.state.send_replace(State::Booting);
        let inner = Arc::clone(&self.inner);
        *life = Some(self.inner.surroundings.runtime.spawn(async move {
            // A machine that failed to boot says why, and waits for somebody to reset it.
            let lived = match boots {
                Boots::Disk => Arc::clone(&inner).live().await,
                Boots::Rescue => inner.live_in_rescue().await,
            };
            if let Err(error) = lived {
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
        self.inner.end();
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
        self.inner.end();
    }

    fn whim(&self, whim: Whim) {
        lock(&self.inner.whims).insert(whim);
    }

    fn life(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        lock(&self.inner.life)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
