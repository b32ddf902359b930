//! One server of the control plane: etcd, API server, controller manager and scheduler, each a
//! process of its own at this server's address, on the standard ports.
//!
//! etcd runs with `--unsafe-no-fsync`: a killed process loses nothing by it, only a power cut of
//! the real machine would, and a bed does not outlive that.

mod arguments;
mod k3s;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::kubeconfig::{self, Endpoint};
use crate::parts::Parts;
use crate::pki::{self, Authority, Subject};
use crate::process::{Dirs, Process, Spec};

pub const API_PORT: u16 = 6443;

/// The programs of a server. Their order is the order in which they are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    Etcd,
    ApiServer,
    ControllerManager,
    Scheduler,
}

impl Component {
    pub const ALL: [Self; 4] = [
        Self::Etcd,
        Self::ApiServer,
        Self::ControllerManager,
        Self::Scheduler,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// The authorities and keys that all servers of a cluster share.
pub struct Trust {
    pub cluster: Authority,
    pub etcd: Authority,
    /// Signs the tokens of service accounts.
    pub service_account: rcgen::KeyPair,
}

impl Trust {
    pub fn new() -> Result<Self> {
        Ok(Self {
            cluster: Authority::new("fabrik-bed-ca")?,
            etcd: Authority::new("fabrik-bed-etcd-ca")?,
            service_account: rcgen::KeyPair::generate()?,
        })
    }
}

/// What a server is made from.
#[derive(Clone)]
pub struct Settings {
    pub name: String,
    /// What its etcd is called.
    pub member: String,
    pub address: Ipv4Addr,
    /// It listens on loopback and everywhere, as k3s does. Who shares a network with others has its own address only.
    pub at_all_addresses: bool,
    /// Where clients reach any server; in every server's certificate.
    pub balancer: Ipv4Addr,
    pub kubernetes_version: String,
    /// Folder of this server alone.
    pub dir: PathBuf,
    pub dirs: Dirs,
    pub node_monitor_grace_period: Duration,
}

/// One server of the control plane.
pub struct ControlPlane {
    settings: Settings,
    parts: Arc<Parts>,
    trust: Arc<Trust>,
    /// What etcd is told about its peers when its data folder is empty.
    etcd_cluster: Mutex<EtcdCluster>,
    running: Mutex<BTreeMap<Component, Process>>,
    version: Mutex<String>,
}

/// The members that a new member of etcd is told about.
#[derive(Clone, Debug)]
pub struct EtcdCluster {
    /// `name=https://address:2380,…`
    pub members: String,
    /// True for a member that was added to a cluster that runs.
    pub existing: bool,
}

impl ControlPlane {
    /// Writes certificates and configuration. Starts nothing.
    pub fn new(
        settings: Settings,
        parts: Arc<Parts>,
        trust: Arc<Trust>,
        etcd_cluster: EtcdCluster,
    ) -> Result<Self> {
        parts.kubernetes(&settings.kubernetes_version)?;
        let version = Mutex::new(settings.kubernetes_version.clone());
        let server = Self {
            settings,
            parts,
            trust,
            etcd_cluster: Mutex::new(etcd_cluster),
            running: Mutex::default(),
            version,
        };
        server.write_files()?;
        Ok(server)
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn address(&self) -> Ipv4Addr {
        self.settings.address
    }

    /// What its etcd is called.
    pub fn member(&self) -> &str {
        &self.settings.member
    }

    pub fn url(&self) -> String {
        format!("https://{}:{API_PORT}", self.settings.address)
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.url(),
            through_balancer: false,
        }
    }

    pub fn dir(&self) -> &PathBuf {
        &self.settings.dir
    }

    /// The Kubernetes version that its programs have when they are started next.
    pub fn version(&self) -> String {
        self.version
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Programs that are started from now on have this version. It must have been prepared.
    pub fn set_version(&self, version: &str) -> Result<()> {
        self.parts.kubernetes(version)?;
        version.clone_into(&mut self.version.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// Starts one program that does not run. Does not wait for it to serve.
    pub fn start(&self, component: Component) -> Result<()> {
        let mut running = self.running();
        if running.get(&component).is_some_and(Process::is_running) {
            return Ok(());
        }
        let spec = self.spec(component)?;
        running.insert(component, Process::start(spec)?);
        Ok(())
    }

    /// SIGTERM; blocks until it has ended.
    pub fn stop(&self, component: Component) {
        if let Some(process) = self.take(component) {
            process.stop();
        }
    }

    /// SIGKILL; blocks until it has ended.
    pub fn kill(&self, component: Component) {
        let process = self.running().remove(&component);
        drop(process);
    }

    pub fn kill_all(&self) {
        for component in Component::ALL.into_iter().rev() {
            self.kill(component);
        }
    }

    pub fn is_running(&self, component: Component) -> bool {
        self.running()
            .get(&component)
            .is_some_and(Process::is_running)
    }

    /// Starts everything that does not run and waits until the API server says that it is ready.
    pub async fn start_all(&self, deadline: Duration) -> Result<()> {
        self.start(Component::Etcd)?;
        self.start(Component::ApiServer)?;
        self.wait_ready(deadline).await?;
        self.start(Component::ControllerManager)?;
        self.start(Component::Scheduler)
    }

    /// Waits until this API server answers `/readyz` with 200.
    pub async fn wait_ready(&self, deadline: Duration) -> Result<()> {
        let client = self
            .client("system:bed-probe", Some("system:masters"))
            .await?;
        let started = Instant::now();
        loop {
            let request = http_get("/readyz")?;
            let answer = tokio::time::timeout(Duration::from_secs(3), client.request_text(request));
            let reason = match answer.await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            if started.elapsed() > deadline {
                let log = self.log_path(Component::ApiServer);
                bail!(
                    "{}: not ready: {reason}. Its log: {}",
                    self.url(),
                    log.display()
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A client of this API server for a user with a fresh certificate.
    pub async fn client(&self, user: &str, group: Option<&str>) -> Result<kube::Client> {
        kubeconfig::client(&self.kubeconfig(user, group)?).await
    }

    /// A kubeconfig of this API server for a user with a fresh certificate.
    pub fn kubeconfig(&self, user: &str, group: Option<&str>) -> Result<String> {
        let ca = &self.trust.cluster;
        let identity = ca.issue(&Subject::client(user, group))?;
        Ok(kubeconfig::text(
            &self.endpoint(),
            ca.certificate_pem(),
            &identity,
        ))
    }

    /// The API server's audit log, one JSON event a line.
    pub fn audit_log(&self) -> PathBuf {
        self.settings.dir.join("audit.log")
    }

    pub fn log_path(&self, component: Component) -> PathBuf {
        self.settings
            .dirs
            .logs
            .join(format!("{}-{}.log", self.name(), component.name()))
    }

    /// How etcd starts when its data folder is empty.
    pub fn set_etcd_cluster(&self, cluster: EtcdCluster) {
        *self
            .etcd_cluster
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = cluster;
    }

    /// What etcd is started with.
    pub(crate) fn etcd_arguments(&self) -> Vec<String> {
        let cluster = self
            .etcd_cluster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        arguments::etcd(&self.settings, &cluster)
    }

    /// Forgets all that etcd had on this server's disk. etcd must not run.
    pub fn wipe_etcd(&self) -> Result<()> {
        if self.is_running(Component::Etcd) {
            bail!("{}: etcd runs, its data can't be removed", self.name());
        }
        match fs::remove_dir_all(self.settings.dir.join("etcd")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn take(&self, component: Component) -> Option<Process> {
        self.running().remove(&component)
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Component, Process>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spec(&self, component: Component) -> Result<Spec> {
        let version = self.version();
        let kubernetes = self.parts.kubernetes(&version)?;
        let program = match component {
            Component::Etcd => &self.parts.etcd,
            Component::ApiServer => &kubernetes.apiserver,
            Component::ControllerManager => &kubernetes.controller_manager,
            Component::Scheduler => &kubernetes.scheduler,
        };
        let name = format!("{}-{}", self.name(), component.name());
        let arguments = match component {
            Component::Etcd => self.etcd_arguments(),
            Component::ApiServer => arguments::apiserver(&self.settings),
            Component::ControllerManager => arguments::controller_manager(&self.settings),
            Component::Scheduler => arguments::scheduler(&self.settings),
        };
        // They live for a minute, and their collectors would take a fifth of their time. So would threads that look for
        // work, as many beds share few cores.
        Ok(Spec::new(&name, program, &self.settings.dirs)
            .args(arguments)
            .env("GOGC", "400")
            .env("GOMAXPROCS", "1"))
    }

    fn write_files(&self) -> Result<()> {
        let (settings, trust) = (&self.settings, &self.trust);
        let dir = &settings.dir;
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let own = std::net::IpAddr::from(settings.address);
        let names = [
            kubeconfig::TLS_SERVER_NAME,
            "kubernetes.default",
            "kubernetes.default.svc",
            "localhost",
        ];
        let addresses = [
            own,
            Ipv4Addr::LOCALHOST.into(),
            settings.balancer.into(),
            Ipv4Addr::new(10, 43, 0, 1).into(),
        ];
        let serving = Subject::server("kube-apiserver", &names, &addresses);
        pki::write(dir, "apiserver", &trust.cluster.issue(&serving)?)?;
        fs::write(dir.join("ca.crt"), trust.cluster.certificate_pem())?;
        pki::write_private(&dir.join("ca.key"), trust.cluster.key_pem().as_bytes())?;
        fs::write(dir.join("etcd-ca.crt"), trust.etcd.certificate_pem())?;
        let member = Subject::server(
            &settings.name,
            &["localhost"],
            &[own, Ipv4Addr::LOCALHOST.into()],
        );
        pki::write(dir, "etcd", &trust.etcd.issue(&member)?)?;
        let key = trust.service_account.serialize_pem();
        pki::write_private(&dir.join("service-account.key"), key.as_bytes())?;
        fs::write(
            dir.join("service-account.pub"),
            trust.service_account.public_key_pem(),
        )?;
        fs::write(dir.join("audit-policy.yaml"), AUDIT_POLICY)?;
        for user in ["system:kube-controller-manager", "system:kube-scheduler"] {
            let file = format!("{}.kubeconfig", user.trim_start_matches("system:"));
            pki::write_private(&dir.join(file), self.kubeconfig(user, None)?.as_bytes())?;
        }
        let admin = self.kubeconfig("bed-admin", Some("system:masters"))?;
        pki::write_private(&dir.join("admin.kubeconfig"), admin.as_bytes())
    }
}

const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
";

fn http_get(path: &str) -> Result<axum::http::Request<Vec<u8>>> {
    Ok(axum::http::Request::get(path).body(Vec::new())?)
}
