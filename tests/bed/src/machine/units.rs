//! The services of a machine that is a server: what of them runs, and what is done when somebody asks for another state.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::watch;

use super::services::{Activity, Request, Services, Unit, Verb};
use super::{Inner, Root, State};
use crate::git::make_host_key;
use crate::inside::Task;
use crate::process::{Process, Spec};
use crate::sshd;

const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";
const AUTHORIZED_KEYS: &str = "/root/.ssh/authorized_keys";
const CONFIG: &str = "/etc/fabrik/config.toml";
const AGENT_CONFIG: &str = "/etc/fabrik/agent.toml";
const FOUNDING: &str = "/var/lib/fabrik-identity/founding.json";

/// The services of one boot.
pub(super) struct Units {
    machine: Arc<Inner>,
    root: Root,
    boot_id: String,
    services: Services,
    sshd: Option<Process>,
    k3s: Option<(Task<()>, watch::Receiver<Progress>)>,
    fabrik: Option<Process>,
    agent: Option<Process>,
    founding: Option<Task<()>>,
}

/// How far k3s is: nothing yet, or why it did not start.
pub(super) type Progress = Option<Result<(), String>>;

impl Units {
    /// None of them runs yet.
    pub(super) fn new(
        machine: &Arc<Inner>,
        root: &Root,
        boot_id: String,
        services: &Services,
    ) -> Self {
        Self {
            machine: Arc::clone(machine),
            root: root.clone(),
            boot_id,
            services: services.clone(),
            sshd: None,
            k3s: None,
            fabrik: None,
            agent: None,
            founding: None,
        }
    }

    /// What is wanted at boot; each for itself, and k3s for as long as it takes.
    pub(super) async fn start_all(&mut self) -> Result<()> {
        for unit in Unit::ALL {
            if !self.services.is_masked(unit) {
                self.start(unit).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn obey(&mut self, request: Request) -> Result<()> {
        let Request { unit, verb, .. } = request;
        match verb {
            Verb::Start => {}
            Verb::Stop | Verb::Restart => self.stop(unit).await?,
            Verb::Kill => self.end(unit, Process::kill).await?,
        }
        if matches!(verb, Verb::Stop | Verb::Kill) {
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
        // What is said to who does not wait for it is lost, as with a real one.
        tokio::spawn(async move { request.answer(settled(&mut progress).await) });
        Ok(())
    }

    /// Starts what does not run. A service that takes its time tells how far it is.
    pub(super) async fn start(&mut self, unit: Unit) -> Result<Option<watch::Receiver<Progress>>> {
        match unit {
            Unit::Sshd if self.sshd.is_none() => self.sshd = Some(self.start_sshd().await?),
            Unit::K3s => return self.start_k3s().map(Some),
            Unit::Fabrik if self.fabrik.is_none() => {
                self.fabrik = self.start_fabrik(unit, &["run"], CONFIG)?;
            }
            Unit::FabrikAgent if self.agent.is_none() => {
                self.agent = self.start_fabrik(unit, &["agent"], AGENT_CONFIG)?;
            }
            Unit::FabrikFounding if self.founding.as_ref().is_none_or(Task::is_finished) => {
                self.founding = self.start_founding();
            }
            _ => {}
        }
        self.tell(unit)?;
        Ok(None)
    }

    async fn stop(&mut self, unit: Unit) -> Result<()> {
        self.end(unit, Process::stop).await
    }

    async fn end(&mut self, unit: Unit, how: fn(&Process)) -> Result<()> {
        let process = match unit {
            Unit::Sshd => self.sshd.take(),
            Unit::Fabrik => self.fabrik.take(),
            Unit::FabrikAgent => self.agent.take(),
            Unit::K3s => {
                if let Some((k3s, _)) = self.k3s.take() {
                    k3s.stop().await;
                }
                self.machine.state.send_replace(State::Booting);
                None
            }
            Unit::FabrikFounding => {
                if let Some(founding) = self.founding.take() {
                    founding.stop().await;
                }
                None
            }
        };
        if let Some(process) = process {
            // What it says goodbye to may be played on this thread.
            tokio::task::spawn_blocking(move || how(&process)).await?;
        }
        self.tell(unit)
    }

    fn tell(&self, unit: Unit) -> Result<()> {
        let runs = match unit {
            Unit::Sshd => self.sshd.is_some(),
            Unit::Fabrik => self.fabrik.is_some(),
            Unit::FabrikAgent => self.agent.is_some(),
            Unit::K3s => self.k3s.is_some(),
            // One that has ended is not active.
            Unit::FabrikFounding => false,
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
            path: machine.path(&folders.each_ref().map(AsRef::as_ref)),
            dir: &machine.dir(),
            dirs: &machine.dirs(),
        })
        .await
    }

    fn start_k3s(&mut self) -> Result<watch::Receiver<Progress>> {
        if let Some((task, told)) = &self.k3s
            && !task.is_finished()
        {
            return Ok(told.clone());
        }
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
        self.k3s = Some((Task::new(tokio::spawn(work)), told.clone()));
        Ok(told)
    }

    /// Where secrets were given and founding has not come to its end.
    fn start_founding(&self) -> Option<Task<()>> {
        let (machine, root) = (Arc::clone(&self.machine), self.root.clone());
        let given = root.path(FOUNDING).exists() && !root.path(CONFIG).exists();
        given.then(|| {
            Task::new(tokio::spawn(async move {
                if let Err(error) = machine.end_first_boot(&root).await {
                    tracing::warn!(
                        machine = machine.name,
                        error = format!("{error:#}"),
                        "founding"
                    );
                }
            }))
        })
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
            Unit::Fabrik => machine.path(&[&self.root.server_programs()]),
            _ => machine.path(&[&self.root.programs()]),
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
    pub(super) async fn become_build(&mut self) -> Result<()> {
        for unit in [Unit::Fabrik, Unit::FabrikAgent] {
            self.stop(unit).await?;
            self.start(unit).await?;
        }
        Ok(())
    }
}

/// Waits until k3s is up, or until the next try of it fails.
async fn settled(progress: &mut watch::Receiver<Progress>) -> Result<(), String> {
    let failed = matches!(*progress.borrow_and_update(), Some(Err(_)));
    if failed && progress.changed().await.is_err() {
        let last = progress.borrow().clone();
        return last.unwrap_or(Ok(()));
    }
    match progress.wait_for(Option::is_some).await {
        Ok(said) => said.clone().unwrap_or(Ok(())),
        Err(_) => Err("it was stopped".to_owned()),
    }
}
