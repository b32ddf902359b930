//! The servers of the control plane, whether the bed made them or somebody ordered them at Hetzner.

use std::path::PathBuf;

use anyhow::Result;

use super::Bed;
use crate::audit::{self, Event};
use crate::fabrik::Fabrik;
use crate::k3s;
use crate::machine::Machine;

impl Bed {
    /// Their names, and where their k3s has its data.
    pub fn control_planes(&self) -> Vec<(String, PathBuf)> {
        let made = self.servers.iter().map(|server| {
            let control_plane = &server.control_plane;
            let name = control_plane.name().to_owned();
            (name, control_plane.dir().to_owned())
        });
        let machines = self.machines().into_iter().filter(Machine::is_native);
        let ordered = machines.filter_map(|machine| {
            let dir = machine.root()?.path(k3s::DIR);
            Some((machine.name().to_owned(), dir))
        });
        made.chain(ordered).collect()
    }

    /// What the API servers were asked for so far. One that is no member yet was asked for nothing.
    pub fn audit_of_all(&self) -> Result<Vec<Event>> {
        let dirs = self.control_planes().into_iter();
        let logs = dirs.map(|(_, dir)| dir.join("audit.log"));
        let read: Result<Vec<_>> = logs
            .filter(|log| log.exists())
            .map(|log| audit::read(&log))
            .collect();
        Ok(read?.into_iter().flatten().collect())
    }

    /// SIGKILL for `fabrik run` of a server, which stays down until [`Bed::start_fabrik`].
    pub fn kill_fabrik(&self, server: &str) -> Result<()> {
        match self.fabrik_of(server) {
            Some(fabrik) => fabrik.kill(),
            None => self.machine(server)?.systemctl(&["kill", "fabrik"])?,
        }
        Ok(())
    }

    pub fn start_fabrik(&self, server: &str) -> Result<()> {
        match self.fabrik_of(server) {
            Some(fabrik) => fabrik.start(),
            None => self.machine(server)?.systemctl(&["start", "fabrik"]),
        }
    }

    /// Of a server that the bed made.
    fn fabrik_of(&self, server: &str) -> Option<&Fabrik> {
        let mut servers = self.servers.iter();
        let found = servers.find(|s| s.control_plane.name() == server);
        found.map(|server| &server.fabrik)
    }
}
