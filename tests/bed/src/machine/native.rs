//! A machine that is a server by what is on its own disk: at boot `fabrik identify` tells it who it is, then its services
//! start as NixOS' units have them, and whoever is on it may start, stop and restart them.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::sleep;

use super::services::{Services, Unit};
use super::units::{Progress, Units};
use super::{Inner, Root, State};
use crate::control_plane::API_PORT;
use crate::fabrik;
use crate::k3s::{self, K3s};
use crate::pki::{self, Subject};
use crate::system::Build;

/// As in nixos/identity.nix.
const UNIT_PAUSE: Duration = Duration::from_secs(5);
/// Shorter than the real one's.
const K3S_PAUSE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);
/// And as its unit's ExecStartPost.
const IDENTIFY: &str =
    "\"$@\"; read -r name </etc/fabrik/hostname; echo \"$name\" >/proc/sys/kernel/hostname";
const KUBELET: &str = "var/lib/rancher/k3s/agent/kubelet.kubeconfig";

impl Inner {
    pub(super) async fn live_as_native(self: Arc<Self>, boot_id: String, root: Root) -> Result<()> {
        let services = Services::new(&root)?;
        let mut units = Units::new(&self, &root, boot_id, &services);
        units.start(Unit::Sshd).await?;
        // It may ask for services itself.
        let mut identity = pin!(self.identify(&root));
        let mut identified = false;
        let mut build = root.current()?.fabrik;
        loop {
            tokio::select! {
                request = services.next() => units.obey(request?).await?,
                known = &mut identity, if !identified => {
                    known?;
                    identified = true;
                    units.start_all().await?;
                }
                next = another_build(&root, build) => {
                    build = next?;
                    units.become_build().await?;
                }
            }
        }
    }

    /// Runs `fabrik identify` until it succeeds, as its unit does.
    async fn identify(&self, root: &Root) -> Result<()> {
        let hetzner = &self.surroundings.hetzner;
        let metadata = format!(
            "{}/_emulator/servers/{}/hetzner/v1",
            hetzner.base(),
            self.id
        );
        let program = self.fabrik_of(&root.current()?)?;
        let arguments = ["identify", "--root", "/", "--metadata", &metadata].map(OsString::from);
        let shell = ["sh", "-ec", IDENTIFY, "identify"].map(OsString::from);
        let command = shell.into_iter().chain([program.into_os_string()]);
        let command: Vec<_> = command.chain(arguments).collect();
        while !self.run_once(root, "identity", command.clone()).await? {
            sleep(UNIT_PAUSE).await;
        }
        Ok(())
    }

    /// Runs `fabrik receive start` until it succeeds, as its unit does.
    pub(super) async fn end_first_boot(&self, root: &Root) -> Result<()> {
        let program = self.fabrik_of(&root.current()?)?.into_os_string();
        let command = [program, "receive".into(), "start".into()];
        while !self.run_once(root, "founding", command.clone()).await? {
            sleep(UNIT_PAUSE).await;
        }
        Ok(())
    }

    /// Runs a program on the machine to its end. False: it failed, and says why in the log of this name.
    async fn run_once(
        &self,
        root: &Root,
        name: &str,
        command: impl IntoIterator<Item = OsString>,
    ) -> Result<bool> {
        let dirs = self.dirs();
        let inside = dirs.inside.context("a machine without namespaces")?;
        let mut arguments = inside.prefix().into_iter().chain(command);
        let output = Command::new(arguments.next().context("a program")?)
            .args(arguments)
            .env(
                "PATH",
                self.path(&[&root.programs(), &root.server_programs()]),
            )
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("starting {name}"))?;
        let log = dirs.logs.join(format!("{}-{name}.log", self.name));
        let mut log = OpenOptions::new().create(true).append(true).open(log)?;
        log.write_all(&output.stderr)?;
        Ok(output.status.success())
    }

    /// k3s until the machine loses power, and its kubelet: started again when it fails.
    pub(super) async fn run_k3s(
        &self,
        root: &Root,
        boot_id: &str,
        progress: &watch::Sender<Progress>,
    ) {
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
        let (_balancer, endpoint) = self
            .balance(watch::Sender::new(vec![own]).subscribe())
            .await?;
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

    /// These folders, the tools of the bed, and what this host has.
    pub(super) fn path(&self, folders: &[&Path]) -> OsString {
        let tools = fabrik::path_of_tools(&self.surroundings.parts);
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
