//! The bed as tests use it.

mod control_planes;
mod empty;
mod own;
mod start;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::http::Request;
use hetzner_emulator::Emulator;
use serde_json::Value;
use tokio::runtime::Handle;

pub(crate) use self::start::EMULATOR_PORT;
use crate::audit::{self, Event};
use crate::balancer::Balancer;
use crate::control_plane::{ControlPlane, Trust};
use crate::emulator::{Hetzner, TOKEN};
use crate::etcd::EtcdControl;
use crate::fabrik::{self, Fabrik, Founding};
use crate::fleet::Fleet;
use crate::git::{Git, Webhook, Worktree};
use crate::join;
use crate::kubeconfig::{self, Endpoint};
use crate::machine::Machine;
use crate::parts::{KUBERNETES_VERSION, Parts};
use crate::pki::{self, Subject};
use crate::repository::{self, DefaultRepository};
use crate::scripted::Script;
use crate::server::Server;
use crate::slot::Slot;
use crate::system::{self, Build, SystemChange};
use crate::wait;

/// How long an answer may take. A server that is cut off gives none.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// How fabrik reaches the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Path,
    Http,
    Ssh,
}

/// What a bed is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Servers of the control plane: 1 or 3. With 0 the bed begins with an empty Hetzner project, and what is ordered there
    /// becomes machines.
    pub servers: usize,
    /// Found the cluster and run `fabrik run` on each server.
    pub fabrik: bool,
    /// The machines have NixOS systems, stores and `fabrik agent`; the default repository has a flake.
    pub systems: bool,
    /// With `systems`: another build of fabrik, which founds the cluster and which all machines begin with.
    pub former_fabrik: Option<PathBuf>,
    /// With `systems`: workers are scripted stand-ins, without stores, pods and processes.
    pub script: Option<Script>,
    /// Name of the cluster.
    pub cluster: String,
    pub transport: Transport,
    /// How often fabrik polls the repository.
    pub poll: Duration,
    /// Signed webhooks after each push by HTTP.
    pub webhooks: bool,
    /// Of the control plane ("1.36.3"). A single server can be given another one later.
    pub kubernetes_version: String,
    /// Versions to prepare besides, for servers that change theirs.
    pub other_kubernetes_versions: Vec<String>,
    /// How long an action takes at the emulator.
    pub action_duration: Duration,
    /// After this long without a sign of life, a node is not ready.
    pub node_monitor_grace_period: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: 1,
            fabrik: false,
            systems: false,
            former_fabrik: None,
            script: None,
            cluster: "demo".to_owned(),
            transport: Transport::Http,
            poll: Duration::from_secs(1),
            webhooks: false,
            kubernetes_version: KUBERNETES_VERSION.to_owned(),
            other_kubernetes_versions: Vec::new(),
            action_duration: Duration::from_millis(300),
            node_monitor_grace_period: Duration::from_secs(8),
        }
    }
}

/// Machines of a bed boot within seconds; nobody wants to wait for the usual minutes.
pub(crate) const PATIENCE: &str = "\n[update]\nsoak = \"2s\"\ntry-deadline = \"90s\"\n";

/// Threads for what a bed runs in this process. They may be dropped anywhere.
struct OwnRuntime(Option<tokio::runtime::Runtime>);

impl OwnRuntime {
    fn new() -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder
            .worker_threads(2)
            .thread_name("bed")
            .enable_all()
            .build();
        Ok(Self(Some(runtime.context("starting threads")?)))
    }

    fn handle(&self) -> Result<Handle> {
        Ok(self
            .0
            .as_ref()
            .context("the bed has ended")?
            .handle()
            .clone())
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A running bed. Dropping it takes everything down; [`Bed::shutdown`] does it in order and faster.
pub struct Bed {
    // Dropped in this order: what uses something goes before it, the slot with the folder last.
    fleet: Fleet,
    servers: Vec<Arc<Server>>,
    server_machines: Vec<Machine>,
    _balancer: Balancer,
    _hetzner_doors: Vec<Balancer>,
    balancer_endpoint: Endpoint,
    git: Git,
    emulator: Emulator,
    hetzner: Hetzner,
    trust: Arc<Trust>,
    parts: Arc<Parts>,
    options: Options,
    /// Of [`Bed::read`].
    reader: Mutex<Option<kube::Client>>,
    _runtime: OwnRuntime,
    slot: Slot,
}

impl Bed {
    /// Brings everything up and waits until each server's Node is registered.
    ///
    /// What the bed runs in this process has threads of its own: a test may block (`git push`, a
    /// command line tool) while servers of the bed answer.
    pub async fn start(options: Options) -> Result<Self> {
        let runtime = OwnRuntime::new()?;
        let handle = runtime.handle()?;
        handle
            .clone()
            .spawn(start::bed(options, handle, runtime))
            .await?
    }

    /// Takes everything down and removes the bed's folder.
    pub async fn shutdown(self) {
        self.fleet.cut().await;
        self.emulator.shutdown().await;
    }

    /// The N of this bed's network 127.N.0.0/16.
    pub fn number(&self) -> u8 {
        self.slot.number()
    }

    /// Everything of this bed that is on disk.
    pub fn dir(&self) -> &Path {
        self.slot.dir()
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What a join token carries to prove the cluster's CA: SHA-256 of its PEM file, as hex.
    pub fn ca_hash(&self) -> String {
        join::ca_hash(self.trust.cluster.certificate_pem())
    }

    /// An administrator's client. It reaches any API server that runs.
    pub async fn kube(&self) -> Result<kube::Client> {
        kubeconfig::client(&self.kubeconfig_text("bed-admin", Some("system:masters"))?).await
    }

    /// An administrator's client of one server's API server.
    pub async fn kube_at(&self, server: usize) -> Result<kube::Client> {
        self.control_plane(server)
            .client("bed-admin", Some("system:masters"))
            .await
    }

    /// An administrator's kubeconfig file. It reaches any API server that runs.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("admin.kubeconfig")
    }

    /// A kubeconfig file for any user, with one group if it has one, such as
    /// `system:k3s-controller`, which may patch `nodes/status` of any node.
    pub fn kubeconfig_for(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let file = format!("{}.kubeconfig", user.replace([':', '/'], "-"));
        let path = self.dir().join(file);
        pki::write_private(&path, self.kubeconfig_text(user, group)?.as_bytes())?;
        Ok(path)
    }

    /// A client for any user, as [`Bed::kubeconfig_for`].
    pub async fn kube_for(&self, user: &str, group: Option<&str>) -> Result<kube::Client> {
        kubeconfig::client(&self.kubeconfig_text(user, group)?).await
    }

    /// Runs kubectl as administrator and returns its standard output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.parts.kubectl);
        command
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            // It lives too short to be worth a collector, or threads that look for work.
            .env("GOGC", "off")
            .env("GOMAXPROCS", "1")
            .stdin(std::process::Stdio::null());
        success(&command.output().context("starting kubectl")?, arguments)
    }

    /// An object, or a list of them, by its path at the API server: as kubectl would get it, without the time that kubectl takes to
    /// start. What is polled is read so.
    pub async fn read(&self, path: &str) -> Result<Value> {
        let kept = self.reader().take();
        let client = match kept {
            Some(client) => client,
            None => self.kube().await?,
        };
        let request = Request::get(path).body(Vec::new())?;
        let answer = tokio::time::timeout(READ_LIMIT, client.request(request)).await;
        let answer = answer.with_context(|| format!("no answer for {path}"))??;
        // One that failed leads to a server that is gone, perhaps, and the next one elsewhere.
        *self.reader() = Some(client);
        Ok(answer)
    }

    /// The base URL of the emulator; the control API is below `/_emulator` of it.
    pub fn emulator_url(&self) -> String {
        self.emulator.url()
    }

    /// The bed's own client of the emulator.
    pub fn hetzner(&self) -> &Hetzner {
        &self.hetzner
    }

    /// Where `fabrik run` of this server reaches the emulator, whose journal calls it `host`.
    pub fn hetzner_door(&self, server: usize) -> String {
        start::hetzner_door(self.server(server)).to_string()
    }

    /// Control-plane server number `server`, counted from 0.
    pub fn server(&self, server: usize) -> &Arc<Server> {
        &self.servers[server]
    }

    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// etcd, API server, controller manager and scheduler of one server.
    pub fn control_plane(&self, server: usize) -> &ControlPlane {
        &self.server(server).control_plane
    }

    /// The machine under a server of the control plane.
    pub fn server_machine(&self, server: usize) -> &Machine {
        &self.server_machines[server]
    }

    /// `fabrik` on one server.
    pub fn fabrik(&self, server: usize) -> &Fabrik {
        &self.server(server).fabrik
    }

    /// What founding said, when the bed runs fabrik.
    pub fn founding(&self) -> Result<Founding> {
        self.fabrik(0)
            .founding()
            .context("this bed runs without fabrik (Options::fabrik)")
    }

    /// Members of etcd, added and removed.
    pub fn etcd(&self) -> EtcdControl<'_> {
        EtcdControl {
            parts: &self.parts,
            servers: &self.servers,
        }
    }

    /// All machines, control plane and workers.
    pub fn machines(&self) -> Vec<Machine> {
        self.fleet.all()
    }

    /// The machine behind the server with this name, as soon as it has had power.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        self.fleet
            .named(name)
            .with_context(|| format!("no machine is called {name}"))
    }

    /// Waits for the machine of a server that was just created.
    pub async fn machine_appears(&self, name: &str, deadline: Duration) -> Result<Machine> {
        self.wait_until(&format!("machine {name} has power"), deadline, async || {
            Ok(self.fleet.named(name))
        })
        .await
    }

    /// The work tree that pushes to the cluster repository.
    pub fn git(&self) -> &Worktree {
        self.git.worktree()
    }

    pub fn git_servers(&self) -> &Git {
        &self.git
    }

    /// The repository as fabrik is told about it.
    pub fn repository_url(&self) -> String {
        match self.options.transport {
            Transport::Path => self.git.path().display().to_string(),
            Transport::Http => self.git.http_url(),
            Transport::Ssh => self.git.ssh_url(),
        }
    }

    /// Writes, commits and pushes the default cluster repository with `count` workers; returns the
    /// commit.
    pub fn default_repo(&self, count: u32) -> Result<String> {
        self.write_default_repo(count)?;
        self.git().commit_and_push(&format!("Have {count} workers"))
    }

    /// Writes it. Commits nothing.
    pub fn write_default_repo(&self, count: u32) -> Result<()> {
        let founding = self.founding()?;
        let wanted = DefaultRepository {
            cluster: &self.options.cluster,
            kubernetes_version: &self.options.kubernetes_version,
            count,
            age_recipient: &founding.age_recipient,
            hetzner_token: TOKEN,
        };
        repository::write(self.git(), &self.parts, &wanted)?;
        if self.options.systems {
            let options = &self.options;
            let fabrik = Build::at_first(options.former_fabrik.as_deref());
            system::write(self.git(), &options.kubernetes_version, fabrik)?;
            let spec = self.git().read("cluster.toml")?;
            self.git().write("cluster.toml", spec + PATIENCE)?;
        }
        Ok(())
    }

    /// Changes the system of a pool in the work tree. Commits nothing.
    pub fn change_system(&self, pool: &str, change: &SystemChange) -> Result<()> {
        system::change(self.git(), pool, change)
    }

    /// Gives another pool the system that workers have, in the work tree. Commits nothing.
    pub fn add_system(&self, pool: &str) -> Result<()> {
        system::add_pool(self.git(), pool)
    }

    /// Asks for another Kubernetes ("1.36.3") everywhere in the work tree. Commits nothing.
    pub fn change_kubernetes(&self, from: &str, to: &str) -> Result<()> {
        let spec = self.git().read("cluster.toml")?;
        let changed = spec.replace(&format!("\"{from}+k3s1\""), &format!("\"{to}+k3s1\""));
        if spec == changed {
            bail!("cluster.toml does not ask for Kubernetes {from}");
        }
        self.git().write("cluster.toml", changed)?;
        let change = SystemChange::K3s(format!("{to}+k3s1"));
        self.change_system(system::SERVERS, &change)?;
        self.change_system(system::WORKERS, &change)
    }

    /// The `fabrik` command line tool with this bed's administrator kubeconfig, not yet started.
    pub fn fabrik_cmd(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(fabrik::binary()?);
        command
            .args(arguments)
            .current_dir(self.git().dir())
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", fabrik::path_with(&self.parts));
        Ok(command)
    }

    /// What one API server was asked for so far.
    pub fn audit(&self, server: usize) -> Result<Vec<Event>> {
        audit::read(&self.control_plane(server).audit_log())
    }

    /// Asks `probe` until it gives a value. When the deadline passes first, the error says `what`
    /// did not come, why not by the last answer, and the ends of all logs.
    pub async fn wait_until<T>(
        &self,
        what: &str,
        deadline: Duration,
        probe: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let waited = wait::until(what, deadline, probe).await;
        waited.map_err(|error| error.context(wait::log_tails(&self.logs())))
    }

    /// The folder with the logs of all processes.
    pub fn logs(&self) -> PathBuf {
        self.slot.dirs().logs
    }

    pub fn parts(&self) -> &Arc<Parts> {
        &self.parts
    }

    fn reader(&self) -> MutexGuard<'_, Option<kube::Client>> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kubeconfig_text(&self, user: &str, group: Option<&str>) -> Result<String> {
        let ca = &self.trust.cluster;
        let identity = ca.issue(&Subject::client(user, group))?;
        Ok(kubeconfig::text(
            &self.balancer_endpoint,
            ca.certificate_pem(),
            &identity,
        ))
    }

    /// Webhooks to each server's fabrik, signed with the cluster's secret.
    fn webhooks(&self) -> Result<Vec<Webhook>> {
        let mut webhooks = Vec::new();
        for server in &self.servers {
            let secret = std::fs::read(server.fabrik.dir().join("webhook.secret"))?;
            let url = format!("http://{}/webhook", start::fabrik_listen(server));
            webhooks.push(Webhook {
                url,
                secret: secret.trim_ascii().to_owned(),
            });
        }
        Ok(webhooks)
    }
}

/// Standard output of a program that succeeded.
pub(crate) fn success(output: &Output, arguments: &[&str]) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    bail!("{}: {}\n{text}{errors}", arguments.join(" "), output.status)
}
