//! A machine that is a server by what is on its own disk: at boot `fabrik identify` tells it who it is, then its services
//! start as NixOS' units have them, and whoever is on it may start, stop and restart them.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::sleep;

use super::services::{Activity, Request, Services, Unit, Verb};
use super::{Inner, Root, State};
use crate::control_plane::API_PORT;
use crate::git::make_host_key;
use crate::inside::Task;
use crate::k3s::{self, K3s};
use crate::pki::{self, Subject};
use crate::process::{Process, Spec};
use crate::system::Build;
use crate::{fabrik, sshd};

/// As in nixos/identity.nix.
const IDENTITY_PAUSE: Duration = Duration::from_secs(5);
/// Shorter than the real one's.
const K3S_PAUSE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
const AUTHORIZED_KEYS: &str = "/root/.ssh/authorized_keys";
const CONFIG: &str = "/etc/fabrik/config.toml";
const AGENT_CONFIG: &str = "/etc/fabrik/agent.toml";
/// And as its unit's ExecStartPost.
const IDENTIFY: &str =
    "\"$@\"; read -r name </etc/fabrik/hostname; echo \"$name\" >/proc/sys/kernel/hostname";
const KUBELET: &str = "var/lib/rancher/k3s/agent/kubelet.kubeconfig";

/// The services of one boot.
struct Units {
    machine: Arc<Inner>,
    root: Root,
    boot_id: String,
    services: Services,
    sshd: Option<Process>,
    k3s: Option<Task<()>>,
    fabrik: Option<Process>,
    agent: Option<Process>,
}

/// How far k3s is: nothing yet, or why it did not start.
type Progress = Option<Result<(), String>>;

impl Inner {
    pub(super) async fn live_as_native(self: Arc<Self>, boot_id: String, root: Root) -> Result<()> {
        let services = Services::new(&root)?;
        let mut units = Units {
            machine: Arc::clone(&self),
            root: root.clone(),
            boot_id,
            services: services.clone(),
            sshd: None,
            k3s: None,
            fabrik: None,
            agent: None,
        };
        let mut identified = self.identify(&root).await?;
        units.start(Unit::Sshd).await?;
        if identified {
            units.start_all().await?;
        }
        let mut build = root.current()?.fabrik;
        loop {
            tokio::select! {
                request = services.next() => units.obey(request?).await?,
                () = sleep(IDENTITY_PAUSE), if !identified => {
                    identified = self.identify(&root).await?;
                    if identified {
                        units.start_all().await?;
                    }
                }
                next = another_build(&root, build) => {
                    build = next?;
                    units.become_build().await?;
                }
            }
        }
    }

    /// Runs `fabrik identify`, as its unit does. False: it failed, and says why in its log.
    async fn identify(&self, root: &Root) -> Result<bool> {
        let hetzner = &self.surroundings.hetzner;
        let metadata = format!(
            "{}/_emulator/servers/{}/hetzner/v1",
            hetzner.base(),
            self.id
        );
        let dirs = self.dirs();
        let inside = dirs.inside.context("a machine without namespaces")?;
        let program = self.fabrik_of(&root.current()?)?;
        let mut arguments = inside.prefix().into_iter();
        let output = Command::new(arguments.next().context("a program")?)
            .args(arguments)
            .args(["sh", "-ec", IDENTIFY, "identify"])
            .arg(program)
            .args(["identify", "--root", "/", "--metadata", &metadata])
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("starting fabrik identify")?;
        let log = dirs.logs.join(format!("{}-identity.log", self.name));
        let mut log = OpenOptions::new().create(true).append(true).open(log)?;
        log.write_all(&output.stderr)?;
        Ok(output.status.success())
    }

    /// k3s until the machine loses power, and its kubelet: started again when it fails.
    async fn run_k3s(&self, root: &Root, boot_id: &str, progress: &watch::Sender<Progress>) {
        while k3s::may_start(root).is_ok() {
            if let Err(error) = self.run_k3s_once(root, boot_id, progress).await {
                let reason = format!("{error:#}");
                tracing::warn!(machine = self.name, reason, "k3s ended");
                progress.send_replace(Some(Err(reason)));
                self.state.send_replace(State::Booting);
            }
            sleep(K3S_PAUSE).await;
        }
        let refused = k3s::may_start(root).err().map(|error| format!("{error:#}"));
        progress.send_replace(refused.map(Err));
    }

    async fn run_k3s_once(
        &self,
        root: &Root,
        boot_id: &str,
        progress: &watch::Sender<Progress>,
    ) -> Result<()> {
        let surroundings = &self.surroundings;
        let dirs = self.dirs();
        let system = root.current()?;
        let k3s = K3s::start(&k3s::Settings {
            root,
            parts: &surroundings.parts,
            clusters: &surroundings.clusters,
            network: dirs.inside.context("a machine without namespaces")?,
            dirs,
            version: &system.k3s,
            node_monitor_grace_period: surroundings.node_monitor_grace_period,
        })
        .await?;
        let ca = &k3s.trust.cluster;
        let user = format!("system:node:{}", k3s.config.node_name);
        let identity = ca.issue(&Subject::client(&user, Some("system:nodes")))?;
        let own = SocketAddr::from((k3s.address, API_PORT));
        let (_balancer, endpoint) = self.balance(vec![own]).await?;
        let ca_pem = ca.certificate_pem();
        let mut settings =
            self.kubelet_settings(boot_id.to_owned(), &endpoint, ca_pem, &identity)?;
        settings.address = k3s.address;
        settings.node_name.clone_from(&k3s.config.node_name);
        settings.taints.clone_from(&k3s.config.node_taint);
        let labels = k3s.config.node_label.iter();
        settings.labels = labels
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let provider_id = k3s.config.provider_id().map(str::to_owned);
        settings.provider_id = provider_id.unwrap_or_default();
        let file = root.path(KUBELET);
        fs::create_dir_all(file.parent().context("a folder")?)?;
        pki::write_private(&file, settings.kubeconfig.as_bytes())?;
        progress.send_replace(Some(Ok(())));
        let kubelet = self.run_kubelets(settings, root, Some(&k3s.control_plane));
        let (ended, ()) = tokio::join!(kubelet, k3s.control_plane.label_node());
        ended
    }
}

impl Units {
    /// What is wanted at boot; each for itself, and k3s for as long as it takes.
    async fn start_all(&mut self) -> Result<()> {
        for unit in [Unit::K3s, Unit::Fabrik, Unit::FabrikAgent] {
            if !self.services.is_masked(unit) {
                self.start(unit).await?;
            }
        }
        Ok(())
    }

    async fn obey(&mut self, request: Request) -> Result<()> {
        let Request { unit, verb, .. } = request;
        if verb != Verb::Start {
            self.stop(unit).await?;
        }
        if verb == Verb::Stop {
            return request.answer(Ok(()));
        }
        if self.services.is_masked(unit) {
            let name = unit.name();
            let reason = format!("Failed to start {name}.service: Unit {name}.service is masked.");
            return request.answer(Err(reason));
        }
        let Some(mut progress) = self.start(unit).await? else {
            return request.answer(Ok(()));
        };
        tokio::spawn(async move {
            let said = match progress.wait_for(Option::is_some).await {
                Ok(said) => said.clone().unwrap_or(Ok(())),
                Err(_) => Err("it was stopped".to_owned()),
            };
            request.answer(said)
        });
        Ok(())
    }

    /// Starts what does not run. A service that takes its time tells how far it is.
    async fn start(&mut self, unit: Unit) -> Result<Option<watch::Receiver<Progress>>> {
        match unit {
            Unit::Sshd if self.sshd.is_none() => self.sshd = Some(self.start_sshd().await?),
            Unit::K3s if self.k3s.as_ref().is_none_or(Task::is_finished) => {
                return self.start_k3s().map(Some);
            }
            Unit::Fabrik if self.fabrik.is_none() => {
                self.fabrik = self.start_fabrik(unit, &["run"], CONFIG)?;
            }
            Unit::FabrikAgent if self.agent.is_none() => {
                self.agent = self.start_fabrik(unit, &["agent"], AGENT_CONFIG)?;
            }
            _ => {}
        }
        self.tell(unit)?;
        Ok(None)
    }

    async fn stop(&mut self, unit: Unit) -> Result<()> {
        let process = match unit {
            Unit::Sshd => self.sshd.take(),
            Unit::Fabrik => self.fabrik.take(),
            Unit::FabrikAgent => self.agent.take(),
            Unit::K3s => {
                if let Some(k3s) = self.k3s.take() {
                    k3s.stop().await;
                }
                self.machine.state.send_replace(State::Booting);
                None
            }
        };
        if let Some(process) = process {
            process.stop();
        }
        self.tell(unit)
    }

    fn tell(&self, unit: Unit) -> Result<()> {
        let runs = match unit {
            Unit::Sshd => self.sshd.is_some(),
            Unit::Fabrik => self.fabrik.is_some(),
            Unit::FabrikAgent => self.agent.is_some(),
            Unit::K3s => self.k3s.is_some(),
        };
        let activity = if runs {
            Activity::Active
        } else {
            Activity::Inactive
        };
        self.services.set(unit, activity)
    }

    async fn start_sshd(&self) -> Result<Process> {
        let (machine, root) = (&self.machine, &self.root);
        let key = root.path(HOST_KEY);
        if !key.exists() {
            // As sshd's unit does where there is none.
            fs::create_dir_all(key.parent().context("a folder")?)?;
            make_host_key(&key)?;
        }
        let folders = [root.programs(), root.server_programs()];
        sshd::start(&sshd::Settings {
            name: &format!("{}-sshd", machine.name),
            sshd: &machine.surroundings.parts.sshd,
            address: machine.address.into(),
            host_key: HOST_KEY.into(),
            authorized_keys: AUTHORIZED_KEYS.into(),
            path: self.path(&folders.each_ref().map(AsRef::as_ref)),
            dir: &machine.dir(),
            dirs: &machine.dirs(),
        })
        .await
    }

    fn start_k3s(&mut self) -> Result<watch::Receiver<Progress>> {
        let (tells, told) = watch::channel(None);
        let (machine, root) = (Arc::clone(&self.machine), self.root.clone());
        let (boot_id, services) = (self.boot_id.clone(), self.services.clone());
        services.set(Unit::K3s, Activity::Activating)?;
        let mut watched = told.clone();
        let work = async move {
            let runs = machine.run_k3s(&root, &boot_id, &tells);
            let says = async {
                while watched.changed().await.is_ok() {
                    let up = matches!(*watched.borrow(), Some(Ok(())));
                    let activity = if up {
                        Activity::Active
                    } else {
                        Activity::Activating
                    };
                    // What can't be said is said at the next turn.
                    let _ = services.set(Unit::K3s, activity);
                }
            };
            tokio::select! {
                () = runs => {}
                () = says => {}
            }
            let _ = services.set(Unit::K3s, Activity::Inactive);
        };
        self.k3s = Some(Task::new(tokio::spawn(work)));
        Ok(told)
    }

    /// `fabrik run` or `fabrik agent`, where its configuration is there (`ConditionPathExists`).
    fn start_fabrik(&self, unit: Unit, verb: &[&str], config: &str) -> Result<Option<Process>> {
        if !self.root.path(config).exists() {
            return Ok(None);
        }
        let machine = &self.machine;
        let program = machine.fabrik_of(&self.root.current()?)?;
        let path = match unit {
            // It finds no stand-ins for the service manager.
            Unit::Fabrik => self.path(&[&self.root.server_programs()]),
            _ => self.path(&[&self.root.programs()]),
        };
        let name = format!("{}-{}", machine.name, unit.name());
        let spec = Spec::new(&name, &program, &machine.dirs())
            .args(verb.iter().copied().chain(["--config", config]))
            .env("PATH", path)
            .env("HOME", format!("/var/lib/{}", unit.name()));
        fs::create_dir_all(self.root.path("var/lib").join(unit.name()))?;
        Process::start(spec).map(Some)
    }

    /// Another system brings another build of fabrik.
    async fn become_build(&mut self) -> Result<()> {
        for unit in [Unit::Fabrik, Unit::FabrikAgent] {
            self.stop(unit).await?;
            self.start(unit).await?;
        }
        Ok(())
    }

    /// These folders, the tools of the bed, and what this host has.
    fn path(&self, folders: &[&Path]) -> OsString {
        let tools = fabrik::path_of_tools(&self.machine.surroundings.parts);
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let all = folders
            .iter()
            .map(|folder| folder.to_path_buf())
            .chain(std::env::split_paths(tools.as_os_str()))
            .chain(std::env::split_paths(&inherited));
        std::env::join_paths(all).unwrap_or(inherited)
    }
}

async fn another_build(root: &Root, build: Build) -> Result<Build> {
    loop {
        let now = root.current()?.fabrik;
        if now != build {
            return Ok(now);
        }
        sleep(LOOK).await;
    }
}
