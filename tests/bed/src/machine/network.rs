//! A machine with a network of its own, as each has it in a bed that began empty: its loopback is its own, its private address
//! is the one that Hetzner gave it, and the services of the bed are found at the addresses that they have outside.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::{Inner, Role, Root, lock};
use crate::bed::EMULATOR_PORT;
use crate::control_plane::API_PORT;
use crate::emulator::Hetzner;
use crate::fabrik;
use crate::git;
use crate::inside::{Door, Inside, Task};
use crate::namespaces::{self, Entrance, Namespaces};
use crate::process::Dirs;
use crate::sshd;
use crate::switch::{self, Switch};

const INIT: &str = include_str!("../../stand-ins/machine/init");
/// How often Hetzner's metadata service is asked.
const ASK: Duration = Duration::from_millis(200);

impl Inner {
    /// One boot of it. What is played of it here runs on a thread in its network, its programs in its namespaces.
    pub(super) async fn run_in_own_network(
        self: &Arc<Self>,
        switch: &Switch,
        boot_id: String,
        root: Root,
    ) -> Result<()> {
        let namespaces = self.namespaces(root.dir(), true).await?;
        let entrance = namespaces.entrance();
        switch::configure(entrance, "link set lo up\n")?;
        *lock(&self.entrance) = Some(entrance);
        let inside = Inside::start(entrance)?;
        let _doors = self.doors(inside.handle()).await?;
        let software = Arc::clone(self).run_software(boot_id, Some(root));
        let mut software = Task::new(inside.handle().spawn(software));
        tokio::select! {
            ended = software.end() => ended?,
            failed = self.plug(switch, entrance) => failed.map(|never| match never {}),
        }
    }

    /// What is below `root` is its own there.
    pub(super) async fn namespaces(&self, root: &Path, network: bool) -> Result<Namespaces> {
        let surroundings = &self.surroundings;
        let mut arguments = vec![root.into()];
        arguments.extend(self.kept()?.into_iter().map(PathBuf::into_os_string));
        Namespaces::start(namespaces::Settings {
            name: &format!("{}-machine", self.name),
            script: INIT,
            arguments,
            network,
            dir: &self.dir(),
            dirs: &surroundings.dirs,
        })
        .await
    }

    /// What of this host has to be there on any machine: the bed's folder, and the programs of the bed.
    fn kept(&self) -> Result<Vec<PathBuf>> {
        let surroundings = &self.surroundings;
        let (parts, binary) = (&surroundings.parts, fabrik::binary()?);
        let image = surroundings.image.as_ref().context("no image")?;
        let nix = image.nix_programs().join("nix").canonicalize()?;
        let programs = parts.programs().chain([binary.as_path(), &nix]);
        let folders = programs.filter_map(Path::parent).map(Path::to_owned);
        Ok([surroundings.dir.clone()]
            .into_iter()
            .chain(folders)
            .collect())
    }

    /// From here to there and back.
    async fn doors(&self, inside: &Handle) -> Result<Vec<Door>> {
        let (surroundings, outside) = (&self.surroundings, Handle::current());
        let mut doors = Vec::new();
        for port in [EMULATOR_PORT, git::HTTP_PORT, git::SSH_PORT] {
            let service = SocketAddr::from((surroundings.services, port));
            doors.push(Door::open(inside, service, &outside, service).await?);
        }
        if matches!(self.role, Role::Native) {
            for port in [sshd::PORT, API_PORT] {
                let public = SocketAddr::from((self.address, port));
                doors.push(Door::open(&outside, public, inside, public).await?);
            }
        }
        Ok(doors)
    }

    /// Waits for a private network, as a new server has to.
    async fn plug(&self, switch: &Switch, entrance: Entrance) -> Result<Infallible> {
        let hetzner = &self.surroundings.hetzner;
        let port = loop {
            let listed = hetzner
                .metadata(self.id, "metadata/private-networks")
                .await?;
            if let Some(port) = switch::port(&listed.unwrap_or_default())? {
                break port;
            }
            sleep(ASK).await;
        };
        switch.plug(entrance, &port)?;
        self.private.send_replace(Some(port.ip));
        std::future::pending().await
    }

    /// The address that its Node has.
    pub(super) async fn node_address(&self) -> Result<Ipv4Addr> {
        if self.surroundings.switch.is_none() {
            return Ok(self.address);
        }
        let mut private = self.private.subscribe();
        let private = *private.wait_for(Option::is_some).await?;
        private.context("an address")
    }

    /// A client of its own: connections belong to the network that they were made in.
    pub(super) fn hetzner(&self) -> Result<Hetzner> {
        match self.surroundings.switch {
            Some(_) => Hetzner::new(self.surroundings.hetzner.base()),
            None => Ok(self.surroundings.hetzner.clone()),
        }
    }

    /// Where its programs run.
    pub(super) fn dirs(&self) -> Dirs {
        Dirs {
            inside: *lock(&self.entrance),
            ..self.surroundings.dirs.clone()
        }
    }
}
