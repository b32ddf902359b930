//! A stand-in for a worker's system and its `fabrik agent`, light enough for a hundred workers on two cores. Nothing is
//! fetched, activated or booted: each takes as long as a script says. What comes next is decided by the product's own
//! rules (`fabrik_core::agent`); signatures are not checked, and it has no disk that outlives a power cut.

pub(crate) mod pods;

use std::time::Duration;

use anyhow::{Context, Result};
use fabrik_core::agent::{self, Command, Do, Facts, Journal, Outcome, Wish};
use fabrik_core::id::{BootId, StorePath};
use fabrik_core::system::{Needs, Order, Publication, Report, SignedPublication, Staged};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::machine;

/// How long what a worker is ordered takes. Any other system takes a reboot.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// A pod ends.
    pub stop: Duration,
    /// The new system is written into the boot menu.
    pub prepare: Duration,
    /// From the end of one boot until kubelet and agent of the next one run.
    pub down: Duration,
    /// The new system is made the default.
    pub keep: Duration,
}

/// Between two tries to report.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What is on the disk, as far as it matters.
pub struct Disk {
    journal: Journal,
    boot: BootId,
    running: StorePath,
    default: StorePath,
    staged: Option<Staged>,
}

impl Disk {
    /// As the machine comes up for the first time, with `system`.
    pub fn new(system: &str) -> Result<Self> {
        let system: StorePath = system.parse()?;
        Ok(Self {
            journal: Journal::default(),
            boot: boot_id()?,
            running: system.clone(),
            default: system,
            staged: None,
        })
    }

    pub fn boot_id(&self) -> &str {
        self.boot.as_str()
    }

    fn facts(&self, last: Option<&Outcome>) -> Facts {
        Facts {
            now: Timestamp::now(),
            boot: self.boot.clone(),
            running: self.running.clone(),
            default: Ok(self.default.clone()),
            booted: self.running.clone(),
            staged: self.staged.clone(),
            last: last.cloned(),
        }
    }

    fn fetch(&mut self, wish: &Wish) {
        if let Some(system) = agent::to_fetch(&self.journal, wish) {
            let same = *system == self.running;
            self.staged = Some(Staged {
                system: system.clone(),
                needs: if same { Needs::Nothing } else { Needs::Reboot },
            });
        }
    }

    fn boot(&mut self, system: StorePath) -> Result<()> {
        self.running = system;
        self.boot = boot_id()?;
        Ok(())
    }
}

/// The agent of one boot.
pub struct Agent {
    node: String,
    script: Script,
    api: Api<DynamicObject>,
    /// Its own `FabrikNode`, each time that it changes.
    seen: BoxStream<'static, watcher::Result<DynamicObject>>,
    wish: Wish,
    last: Option<Outcome>,
    reported: Option<Report>,
}

impl Agent {
    pub fn new(client: kube::Client, node: &str, script: Script) -> Self {
        let kind = GroupVersionKind::gvk("fabrik.dev", "v1alpha1", "FabrikNode");
        let kind = ApiResource::from_gvk_with_plural(&kind, "fabriknodes");
        let api: Api<DynamicObject> = Api::all_with(client, &kind);
        let only = watcher::Config::default().fields(&format!("metadata.name={node}"));
        let seen = watcher(api.clone(), only).default_backoff();
        Self {
            node: node.to_owned(),
            script,
            api,
            seen: seen.applied_objects().boxed(),
            wish: Wish::default(),
            last: None,
            reported: None,
        }
    }

    /// What an agent writes down before anybody can be heard: k3s takes longer to start than it does.
    pub fn wake(&self, disk: &mut Disk) {
        while let Do::Write(journal) = agent::next(&disk.journal, &disk.facts(None), &self.wish) {
            disk.journal = journal;
        }
    }

    /// Obeys until the machine reboots: then the next boot is on the disk.
    pub async fn until_reboot(mut self, disk: &mut Disk) -> Result<()> {
        self.hear(None).await;
        loop {
            disk.fetch(&self.wish);
            self.report(disk).await;
            match agent::next(&disk.journal, &disk.facts(self.last.as_ref()), &self.wish) {
                Do::Write(journal) => disk.journal = journal,
                Do::Run(journal, command) => {
                    disk.journal = journal;
                    self.report(disk).await;
                    if self.carry_out(disk, command).await? {
                        return Ok(());
                    }
                }
                Do::Wait(until) => self.hear(until).await,
            }
        }
    }

    /// Waits for another wish of the leader's, or for the time.
    async fn hear(&mut self, until: Option<Timestamp>) {
        let left = until.map(|until| until.duration_since(Timestamp::now()));
        let left = left.map(|left| Duration::try_from(left).unwrap_or_default());
        let next = timeout(left.unwrap_or(Duration::MAX), self.seen.next());
        match next.await {
            Ok(Some(Ok(object))) => self.wish = wish(&object),
            // The watch begins again by itself.
            Ok(Some(Err(error))) => tracing::debug!(node = self.node, %error, "hears nothing"),
            Ok(None) | Err(_) => {}
        }
    }

    async fn report(&mut self, disk: &Disk) {
        let report = agent::report(&disk.journal, &disk.facts(self.last.as_ref()));
        while self.reported.as_ref() != Some(&report) {
            let body = json!({
                "apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikNode",
                "metadata": {"name": self.node}, "status": {"report": report},
            });
            let params = PatchParams::apply("fabrik-agent").force();
            let body = Patch::Apply(&body);
            match self.api.patch_status(&self.node, &params, &body).await {
                Ok(_) => self.reported = Some(report.clone()),
                Err(error) => {
                    tracing::debug!(node = self.node, %error, "not reported");
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// True where the machine reboots by it.
    async fn carry_out(&mut self, disk: &mut Disk, command: Command) -> Result<bool> {
        let current = disk.journal.current.as_ref();
        let current = current.context("a command belongs to an order")?;
        let done = Outcome {
            ticket: current.ticket,
            phase: current.phase,
            attempt: current.attempts,
            result: Ok(()),
            nothing_ran: false,
        };
        match command {
            Command::BootOnce { to: system, .. } | Command::RebootBack { to: system, .. } => {
                sleep(self.script.prepare).await;
                disk.boot(system)?;
                return Ok(true);
            }
            Command::MakeDefault { system, .. } => {
                sleep(self.script.keep).await;
                disk.default = system;
            }
            Command::Switch { to, .. } | Command::SwitchBack { to } => disk.running = to,
            Command::TidyUp { keep, .. } => disk.default = keep,
        }
        self.last = Some(done);
        Ok(false)
    }
}

fn wish(object: &DynamicObject) -> Wish {
    let signed: Option<SignedPublication> = read(object, "/spec/publication");
    let publication = signed.and_then(|s| serde_json::from_str::<Publication>(&s.statement).ok());
    Wish {
        publication,
        aim: read(object, "/spec/aim"),
        order: read::<Order>(object, "/spec/order"),
    }
}

fn read<T: DeserializeOwned>(object: &DynamicObject, pointer: &str) -> Option<T> {
    serde_json::from_value(object.data.pointer(pointer)?.clone()).ok()
}

fn boot_id() -> Result<BootId> {
    Ok(machine::uuid()?.parse()?)
}
