//! All machines of a bed: what happens to a server at the emulator happens to its machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clusters::Clusters;
use crate::control_plane::API_PORT;
use crate::emulator::{Boots, Event, EventKind};
use crate::inside::Task;
use crate::machine::{Machine, Role, Surroundings};
use crate::system::Image;

/// Follows the emulator until it is dropped.
pub struct Fleet {
    machines: Arc<Machines>,
    follower: JoinHandle<()>,
    api_servers: watch::Receiver<Vec<SocketAddr>>,
    _lister: Task<()>,
}

/// What user data have, whatever they are for.
#[derive(Deserialize)]
struct Told {
    fabrik: u32,
    role: String,
}

struct Machines {
    by_id: Mutex<BTreeMap<u64, Machine>>,
    surroundings: Arc<Surroundings>,
}

impl Fleet {
    /// `servers` are the machines of the control plane, which exist at the emulator already.
    pub fn start(surroundings: Arc<Surroundings>, servers: &[Machine]) -> Self {
        let by_id = servers
            .iter()
            .map(|machine| (machine.id(), machine.clone()))
            .collect();
        let machines = Arc::new(Machines {
            by_id: Mutex::new(by_id),
            surroundings,
        });
        let (told, api_servers) = watch::channel(Vec::new());
        Self {
            follower: tokio::spawn(Arc::clone(&machines).follow()),
            _lister: Task::new(tokio::spawn(Arc::clone(&machines).list_api_servers(told))),
            machines,
            api_servers,
        }
    }

    /// Of the machines that are servers by what is on their disks and run, at their public addresses.
    pub fn api_servers(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.api_servers.clone()
    }

    pub fn clusters(&self) -> &Clusters {
        &self.machines.surroundings.clusters
    }

    /// What the disks of machines are made from, in a bed whose machines have systems.
    pub fn image(&self) -> Option<&Image> {
        self.machines.surroundings.image.as_ref()
    }

    /// All machines, in the order of their servers' ids.
    pub fn all(&self) -> Vec<Machine> {
        self.machines.lock().values().cloned().collect()
    }

    /// The machine with this server name.
    pub fn named(&self, name: &str) -> Option<Machine> {
        self.all()
            .into_iter()
            .find(|machine| machine.name() == name)
    }

    /// Another machine, of which the emulator knows nothing.
    pub(crate) fn add(
        &self,
        id: u64,
        name: &str,
        address: Ipv4Addr,
        role: Role,
    ) -> Result<Machine> {
        let surroundings = Arc::clone(&self.machines.surroundings);
        let machine = Machine::new(id, name, address, role, surroundings)?;
        self.machines.lock().insert(id, machine.clone());
        Ok(machine)
    }

    /// Cuts the power of everything, without telling the emulator.
    pub async fn cut(&self) {
        self.follower.abort();
        futures::future::join_all(self.all().iter().map(Machine::cut)).await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.follower.abort();
        self.machines.lock().values().for_each(Machine::abandon);
    }
}

impl Machines {
    const RETRY_PAUSE: Duration = Duration::from_millis(200);
    const LOOK: Duration = Duration::from_millis(100);

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Machine>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn api_servers(&self) -> Vec<SocketAddr> {
        let machines = self.lock();
        let servers = machines.values().filter(|m| m.is_native_and_runs());
        servers.map(|m| (m.address(), API_PORT).into()).collect()
    }

    async fn list_api_servers(self: Arc<Self>, told: watch::Sender<Vec<SocketAddr>>) {
        loop {
            let listed = self.api_servers();
            told.send_if_modified(|known| std::mem::replace(known, listed.clone()) != listed);
            tokio::time::sleep(Self::LOOK).await;
        }
    }

    async fn follow(self: Arc<Self>) {
        let mut last_seen = 0;
        loop {
            match self.surroundings.hetzner.events(last_seen).await {
                Ok(events) => {
                    for event in events {
                        last_seen = event.seq;
                        if let Err(error) = self.handle(&event).await {
                            tracing::warn!(
                                ?event,
                                error = format!("{error:#}"),
                                "event not handled"
                            );
                        }
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "no events from the emulator");
                    tokio::time::sleep(Self::RETRY_PAUSE).await;
                }
            }
        }
    }

    async fn handle(&self, event: &Event) -> Result<()> {
        self.keep_disks(event).await?;
        let known = self.lock().get(&event.server).cloned();
        let machine = match known {
            Some(machine) => machine,
            None => match self.meet(event).await? {
                Some(machine) => machine,
                None => return Ok(()),
            },
        };
        let boots = event.boots.unwrap_or(Boots::Disk);
        match event.kind {
            EventKind::Running => machine.boot(boots),
            EventKind::Off => machine.cut().await,
            EventKind::Rebooted | EventKind::Reset => {
                machine.cut().await;
                machine.boot(boots);
            }
            EventKind::ShutdownRequested => machine.shut_down().await?,
            EventKind::Deleted => {
                machine.cut().await;
                self.lock().remove(&event.server);
            }
            EventKind::Created
            | EventKind::Snapshot
            | EventKind::ImageDeleted
            | EventKind::Other => {}
        }
        Ok(())
    }

    /// Copies and forgets disks, of any server.
    async fn keep_disks(&self, event: &Event) -> Result<()> {
        let (kind, server, image) = (event.kind, event.server, event.image);
        let disks = self.surroundings.disks.clone();
        let work = move || match (kind, image) {
            (EventKind::Created, Some(image)) => disks.create(server, image),
            (EventKind::Snapshot, Some(image)) => disks.snapshot(server, image),
            (EventKind::ImageDeleted, Some(image)) => disks.delete_image(image),
            (EventKind::Deleted, _) => disks.delete(server),
            _ => Ok(()),
        };
        tokio::task::spawn_blocking(work).await?
    }

    /// A server that gets power for the first time is a machine of ours when its user data say so. Any server is one as
    /// soon as it boots a rescue system.
    async fn meet(&self, event: &Event) -> Result<Option<Machine>> {
        let Some(address) = event.ipv4 else {
            return Ok(None);
        };
        let role = match (event.kind, event.boots) {
            (EventKind::Running, Some(Boots::Disk)) => match self.role(event.server).await? {
                Some(role) => role,
                None => return Ok(None),
            },
            (_, Some(Boots::Rescue)) => {
                let role = self.role(event.server).await?;
                role.unwrap_or(Role::Other)
            }
            _ => return Ok(None),
        };
        let surroundings = Arc::clone(&self.surroundings);
        let machine = Machine::new(event.server, &event.name, address, role, surroundings)?;
        self.lock().insert(event.server, machine.clone());
        Ok(Some(machine))
    }

    /// What a server is for by its user data; nothing where they are not ours.
    async fn role(&self, server: u64) -> Result<Option<Role>> {
        let hetzner = &self.surroundings.hetzner;
        let user_data = hetzner.metadata(server, "userdata").await?;
        let told = user_data.map(|text| serde_json::from_str::<Told>(&text));
        let Some(Ok(Told { fabrik: 1, role })) = told else {
            return Ok(None);
        };
        Ok(match role.as_str() {
            "agent" => Some(Role::Agent),
            "first-server" | "server" if self.surroundings.switch.is_some() => Some(Role::Native),
            _ => None,
        })
    }
}
