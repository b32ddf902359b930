//! What a machine does while it has power: it boots a system, joins, and runs a kubelet and an agent.
//! What happens on its disk (another system is activated, a reboot is called for) it notices and does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::sleep;

use super::root::Boot;
use super::{Inner, Role, Root, State, System, Whim, lock};
use crate::agent;
use crate::balancer::Balancer;
use crate::control_plane::{API_PORT, ControlPlane, Trust};
use crate::fabrik;
use crate::join;
use crate::kubeconfig::{self, Endpoint};
use crate::kubelet;
use crate::pki::{Certified, Subject};
use crate::rights::KWOK_USER;
use crate::scripted::{Agent, Disk, Script, pods};
use crate::server::Server;
use crate::system::{Build, SERVERS, WORKERS};

/// As on k3s' agents.
const BALANCER_PORT: u16 = 6444;
/// From the end of one boot to the beginning of the next.
const REBOOT: Duration = Duration::from_secs(2);
/// With `panic=` a machine does not stand still; here it waits shorter than a real one.
const PANIC: Duration = Duration::from_secs(1);
/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(100);

impl Inner {
    /// From power-on to the end of power, which comes by dropping this future.
    pub(super) async fn live(self: Arc<Self>) -> Result<()> {
        let hetzner = &self.surroundings.hetzner;
        loop {
            if !matches!(self.role, Role::Own) {
                hetzner.set_hung(self.id, false).await?;
            }
            let delay = self.health.borrow().delay;
            sleep(delay).await;
            let (boot_id, root) = self.start_up().await?;
            tokio::select! {
                ended = self.run(boot_id, root.clone()) => return ended,
                () = reboot_wanted(self.root_dir()) => {}
            }
            self.end();
            self.state.send_replace(State::Booting);
            sleep(REBOOT).await;
        }
    }

    /// Everything that runs on the machine ends, as when power goes.
    pub(super) fn end(&self) {
        let agent = lock(&self.agent).take();
        drop(agent);
        *lock(&self.entrance) = None;
        self.private.send_replace(None);
        if let Role::Server { server, .. } = &self.role {
            server.cut();
        }
        if let Some(root) = self.root() {
            root.cut();
        }
    }

    /// The disk, once the machine has booted for the first time.
    pub(super) fn root(&self) -> Option<Root> {
        Root::existing(&self.root_dir(), &self.name, &self.surroundings.dirs)
    }

    pub(super) fn dir(&self) -> PathBuf {
        let machines = self.surroundings.dir.join("machines");
        machines.join(self.id.to_string())
    }

    pub(super) fn root_dir(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// What the firmware, the boot loader and the kernel do. Never returns where the boot hangs.
    async fn start_up(&self) -> Result<(String, Option<Root>)> {
        let whims = std::mem::take(&mut *lock(&self.whims));
        self.boots.send_modify(|boots| *boots += 1);
        if whims.contains(&Whim::Sick) {
            self.health.send_modify(|health| health.sick = true);
        }
        if whims.contains(&Whim::Hang) {
            return self.hang().await;
        }
        let Some(root) = self.disk(whims.contains(&Whim::EmptyDisk)).await? else {
            return Ok((join::random_hex(16)?, None));
        };
        if whims.contains(&Whim::OldSystem) {
            root.forget_one_shot()?;
        }
        loop {
            match root.boot()? {
                Boot::Up { boot_id } => return Ok((boot_id, Some(root))),
                Boot::Hang => return self.hang().await,
                Boot::Panic => {
                    sleep(PANIC).await;
                    self.boots.send_modify(|boots| *boots += 1);
                }
            }
        }
    }

    async fn hang<T>(&self) -> Result<T> {
        self.surroundings.hetzner.set_hung(self.id, true).await?;
        std::future::pending().await
    }

    /// The disk, made from what was written to it or from the bed's image if it is not there. None in a bed without
    /// systems.
    async fn disk(&self, empty: bool) -> Result<Option<Root>> {
        let image = self.surroundings.image.as_ref();
        let played = self.script().is_none() && !matches!(self.role, Role::Other);
        let Some(image) = image.filter(|_| played) else {
            return Ok(None);
        };
        let written = self.surroundings.disks.disk(self.id);
        let dir = self.root_dir();
        if empty {
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => lock(&self.disk).kubelet = None,
            }
        }
        if let Some(root) = self.root() {
            return Ok(Some(root));
        }
        let pool = match &self.role {
            // Somebody lays it there.
            Role::Own => return Ok(None),
            Role::Agent => self.user_data().await?.pool.unwrap_or(WORKERS.to_owned()),
            Role::Server { .. } | Role::Native | Role::Other => SERVERS.to_owned(),
        };
        std::fs::create_dir_all(self.dir())?;
        let (name, dirs) = (&self.name, &self.surroundings.dirs);
        let root = if written.exists() {
            Root::unpack(&written, &dir, name, &pool, dirs)?
        } else {
            Root::create(image, &dir, name, &pool, dirs)?
        };
        if let Role::Server { server, .. } = &self.role {
            server.add_programs(&root)?;
        }
        Ok(Some(root))
    }

    async fn run(self: &Arc<Self>, boot_id: String, root: Option<Root>) -> Result<()> {
        match (&self.surroundings.switch, root) {
            (Some(switch), Some(root)) => self.run_in_own_network(switch, boot_id, root).await,
            (_, root) => {
                let machine = Arc::clone(self);
                machine.run_software(boot_id, root).await
            }
        }
    }

    /// What it does by what it is for.
    pub(super) async fn run_software(
        self: Arc<Self>,
        boot_id: String,
        root: Option<Root>,
    ) -> Result<()> {
        match &self.role {
            Role::Agent => self.live_as_agent(boot_id, root.as_ref()).await,
            Role::Server { server, trust } => {
                self.live_as_server(boot_id, root.as_ref(), server, trust)
                    .await
            }
            Role::Native => {
                let root = root.context("a server without a disk (Options::systems)")?;
                self.live_as_native(boot_id, root).await
            }
            Role::Own => self.live_as_own(boot_id, root.as_ref()).await,
            Role::Other => std::future::pending().await,
        }
    }

    async fn live_as_server(
        &self,
        boot_id: String,
        root: Option<&Root>,
        server: &Server,
        trust: &Trust,
    ) -> Result<()> {
        if let Some(root) = root {
            let system = root.current()?;
            server.control_plane.set_k3s(&system.k3s)?;
            server.fabrik.become_program(&self.fabrik_of(&system)?)?;
        }
        server.boot().await?;
        let user = format!("system:node:{}", self.name);
        let identity = trust
            .cluster
            .issue(&Subject::client(&user, Some("system:nodes")))?;
        let own = SocketAddr::from((self.address, API_PORT));
        let (_balancer, endpoint) = self
            .balance(watch::Sender::new(vec![own]).subscribe())
            .await?;
        let ca_pem = trust.cluster.certificate_pem();
        let mut settings = self.kubelet_settings(boot_id, &endpoint, ca_pem, &identity)?;
        settings.kubelet_version = format!("v{}+k3s1", server.control_plane.version());
        let node = self.run_node(settings, root);
        let (running, ()) = tokio::join!(node, server.control_plane.label_node());
        running
    }

    /// The balancer that k3s runs on its nodes, by which all that runs there reaches API servers.
    pub(super) async fn balance(
        &self,
        api_servers: watch::Receiver<Vec<SocketAddr>>,
    ) -> Result<(Balancer, Endpoint)> {
        let local = SocketAddr::from((self.address, BALANCER_PORT));
        let passage = self.network.subscribe();
        let balancer = Balancer::through(local, api_servers, passage).await?;
        let endpoint = Endpoint {
            url: format!("https://{local}"),
            through_balancer: true,
        };
        Ok((balancer, endpoint))
    }

    /// The kubelet and the agent, and what the machine's system asks of them.
    pub(super) async fn run_node(
        &self,
        settings: kubelet::Settings,
        root: Option<&Root>,
    ) -> Result<()> {
        let Some(root) = root else {
            return match self.script() {
                Some(script) => Box::pin(self.run_scripted(settings, script)).await,
                None => self.run_kubelet(settings).await,
            };
        };
        let kubeconfig = settings.kubeconfig.clone();
        let control_plane = match &self.role {
            Role::Server { server, .. } => Some(&server.control_plane),
            _ => None,
        };
        tokio::select! {
            ended = self.run_kubelets(settings, root, control_plane) => ended,
            failed = self.run_agent(root, &kubeconfig) => failed.map(|never| match never {}),
        }
    }

    /// The kubelet of each k3s that a system brings; with it all of the control plane, where there is one.
    pub(super) async fn run_kubelets(
        &self,
        mut settings: kubelet::Settings,
        root: &Root,
        control_plane: Option<&ControlPlane>,
    ) -> Result<()> {
        let mut system = root.current()?;
        loop {
            settings.kubelet_version = format!("v{}", system.k3s);
            self.health
                .send_modify(|health| health.sick_system = system.sick);
            root.obeyed(&system)?;
            let next = tokio::select! {
                ended = self.run_kubelet(settings.clone()) => return ended,
                next = self.another_k3s(root, &system.k3s) => next?,
            };
            if let Some(control_plane) = control_plane {
                control_plane.restart_k3s(&next.k3s).await?;
            }
            system = next;
        }
    }

    fn script(&self) -> Option<Script> {
        let script = self.surroundings.script;
        script.filter(|_| matches!(self.role, Role::Agent))
    }

    /// Boot after boot, for as long as there is power.
    async fn run_scripted(&self, mut settings: kubelet::Settings, script: Script) -> Result<()> {
        let image = self.surroundings.image.as_ref();
        let image = image.context("a script is for a bed with systems")?;
        let mut disk = Disk::new(image.system(WORKERS)?)?;
        settings.kwok = None;
        loop {
            disk.boot_id().clone_into(&mut settings.boot_id);
            let client = kubeconfig::client(&settings.kubeconfig).await?;
            let agent = Agent::new(client.clone(), &self.name, script);
            agent.wake(&mut disk);
            tokio::select! {
                () = pods::play(&client, &self.name, script.stop) => {}
                ended = self.run_kubelet(settings.clone()) => return ended,
                rebooted = agent.until_reboot(&mut disk) => rebooted?,
            }
            self.state.send_replace(State::Booting);
            sleep(script.down).await;
        }
    }

    /// Follows `/run/current-system` until a system with another k3s is activated: all that lies
    /// between is obeyed by saying so.
    async fn another_k3s(&self, root: &Root, k3s: &str) -> Result<System> {
        let mut obeyed = root.current()?;
        loop {
            sleep(LOOK).await;
            let system = root.current()?;
            if system == obeyed {
                continue;
            }
            if system.k3s != k3s {
                return Ok(system);
            }
            self.health
                .send_modify(|health| health.sick_system = system.sick);
            root.obeyed(&system)?;
            obeyed = system;
        }
    }

    /// Starts the agent as soon as it can know its cluster, and anew where a system with another build of fabrik is
    /// activated. It ends with the machine.
    async fn run_agent(&self, root: &Root, kubeconfig: &str) -> Result<Infallible> {
        let mut clusters = self.cluster.subscribe();
        let cluster = clusters.wait_for(Option::is_some).await?.clone();
        let cluster = cluster.context("a cluster")?;
        loop {
            let system = root.current()?;
            let program = self.fabrik_of(&system)?;
            if let Role::Server { server, .. } = &self.role {
                server.fabrik.become_program(&program)?;
            }
            let process = agent::start(&agent::Settings {
                program: &program,
                node: &self.name,
                address: self.address,
                root,
                kubeconfig,
                cluster: &cluster,
                dirs: &self.dirs(),
            })?;
            *lock(&self.agent) = Some(process);
            while root.current()?.fabrik == system.fabrik {
                sleep(LOOK).await;
            }
            // Ended first: the next one's log and record have the same names.
            let former = lock(&self.agent).take();
            drop(former);
        }
    }

    pub(super) fn fabrik_of(&self, system: &System) -> Result<PathBuf> {
        match system.fabrik {
            Build::Tested => fabrik::binary(),
            Build::Former => {
                let former = self.surroundings.former_fabrik.clone();
                former.context("this bed has no former build of fabrik (Options::former_fabrik)")
            }
        }
    }

    async fn run_kubelet(&self, settings: kubelet::Settings) -> Result<()> {
        let boot_id = settings.boot_id.clone();
        let registered = || {
            self.state.send_replace(State::Running { boot_id });
        };
        kubelet::run(settings, self.health.subscribe(), registered).await
    }

    pub(super) fn kubelet_settings(
        &self,
        boot_id: String,
        endpoint: &Endpoint,
        ca_pem: &str,
        identity: &Certified,
    ) -> Result<kubelet::Settings> {
        let surroundings = &self.surroundings;
        let dir = self.dir();
        std::fs::create_dir_all(&dir)?;
        let cluster = surroundings.clusters.of(ca_pem);
        let cluster = cluster.context("a node of no cluster of this bed")?;
        // It asks for more than a kubelet may.
        let kwok = cluster.cluster.issue(&Subject::client(KWOK_USER, None))?;
        Ok(kubelet::Settings {
            node_name: self.name.clone(),
            provider_id: format!("hcloud://{}", self.id),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            address: self.address,
            kubelet_version: surroundings.kubelet_version.clone(),
            boot_id,
            kubeconfig: kubeconfig::text(endpoint, ca_pem, identity),
            kwok_kubeconfig: kubeconfig::text(endpoint, ca_pem, &kwok),
            kwok: Some(surroundings.parts.kwok.clone()),
            dir,
            dirs: self.dirs(),
        })
    }
}

/// Whether somebody on the machine called for one.
async fn reboot_wanted(root: PathBuf) {
    while !root.join("run/reboot").exists() {
        sleep(LOOK).await;
    }
}
