//! What a bed has that begins with an empty Hetzner project.

use std::path::Path;

use anyhow::{Context, Result};

use super::Bed;
use crate::pki;

impl Bed {
    /// Writes an image that machines of this bed boot from, as it is on their disks: for `fabrik seed --image`.
    pub fn write_image(&self, file: &Path) -> Result<()> {
        let image = self.fleet.image();
        let image = image.context("this bed's machines have no systems (Options::systems)")?;
        image.archive(file)
    }

    /// Makes the cluster that a machine founded or joined the one that [`Bed::kube`], [`Bed::kubectl`] and
    /// [`Bed::kubeconfig`] reach, by any of the servers that run: for a bed that began empty.
    pub fn adopt(&mut self, server: &str) -> Result<()> {
        let machine = self.machine(server)?;
        let root = machine.root().context("a machine without a disk")?;
        let ca = root.path("var/lib/rancher/k3s/server/tls/server-ca.crt");
        let ca = std::fs::read_to_string(&ca).context("k3s has not run there")?;
        let trust = self.fleet.clusters().of(&ca);
        self.trust = trust.context("a cluster of another bed")?;
        let admin = self.kubeconfig_text("bed-admin", Some("system:masters"))?;
        pki::write_private(&self.kubeconfig(), admin.as_bytes())
    }
}
