//! A machine of somebody's own: nobody ordered it at Hetzner. A real sshd lets its owner in, by a host key that it has from the
//! beginning. It runs another Linux until a system is laid on its disk; from then on it is the node that `fabrik identify`
//! says by the file that `fabrik install` has written.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::sleep;

use super::{Inner, Root, State, UserData};
use crate::k3s::Config;
use crate::namespaces::Namespaces;
use crate::process::{Dirs, Process};
use crate::sshd;
use crate::system::WORKERS;

pub(crate) const HOST_KEY: &str = "etc/ssh/ssh_host_ed25519_key";
pub(crate) const AUTHORIZED_KEYS: &str = "root/.ssh/authorized_keys";
/// Below its folder: what it has that this host has not.
pub(crate) const PROGRAMS: &str = "bin";
/// What namespaces put in the place of this host's, so they have to be there before a system is.
pub(crate) const BOOT_ID: &str = "proc/sys/kernel/random/boot_id";
pub(crate) const FIRMWARE: &str = "sys/firmware";
const LAY: &str = "run/lay";
const LAID: &str = "run/laid";
const GIVEN: &str = "var/lib/fabrik-identity/machine.json";
const IDENTITY: &str = "var/lib/fabrik-identity/identity.json";
/// That `systemctl` knows this unit. What it is asked is not read: the file that it comes with is looked for.
const UNIT: &str = "run/services/state.fabrik-identity";
const LOOK: Duration = Duration::from_millis(100);

/// What is kept of it that is not in k3s' configuration.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kept {
    agent: Option<Cluster>,
    cache_urls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    id: String,
    public_key: String,
}

impl Inner {
    /// From power-on to the end of power or a reboot, which come by dropping this future.
    pub(super) async fn live_as_own(&self, boot_id: String, root: Option<&Root>) -> Result<()> {
        if let Some(root) = root {
            fs::create_dir_all(root.path("run/services"))?;
            fs::write(root.path(UNIT), "activating\n")?;
        }
        let namespaces = self.namespaces(&self.root_dir(), false).await?;
        let _sshd = self.own_sshd(&namespaces).await?;
        match root {
            None => self.await_system().await,
            Some(root) => {
                self.identify_by_file(root).await?;
                let (user_data, provider_id) = told(root)?;
                self.be_agent(boot_id, Some(root), user_data, provider_id)
                    .await
            }
        }
    }

    async fn own_sshd(&self, namespaces: &Namespaces) -> Result<Process> {
        let programs = [self.root_dir().join("sw/bin"), self.dir().join(PROGRAMS)];
        sshd::start(&sshd::Settings {
            name: &format!("{}-sshd", self.name),
            sshd: &self.surroundings.parts.sshd,
            address: self.address.into(),
            host_key: Path::new("/").join(HOST_KEY),
            authorized_keys: Path::new("/").join(AUTHORIZED_KEYS),
            path: self.path(&programs.each_ref().map(AsRef::as_ref)),
            dir: &self.dir(),
            dirs: &Dirs {
                inside: Some(namespaces.entrance()),
                ..self.surroundings.dirs.clone()
            },
        })
        .await
    }

    /// Lays the system on its disk that it is told to, beside what is there.
    async fn await_system(&self) -> Result<()> {
        self.state.send_replace(State::OtherLinux);
        let dir = self.root_dir();
        exists(&[&dir.join(LAY)]).await;
        let wanted = fs::read_to_string(dir.join(LAY))?;
        let image = self.surroundings.image.as_ref().context("no image")?;
        let system = image.system(WORKERS)?;
        if wanted.trim() != system {
            bail!(
                "it is to have {}, and the image has {system}",
                wanted.trim()
            );
        }
        Root::create(image, &dir, &self.name, WORKERS, &self.surroundings.dirs)?;
        fs::write(dir.join(LAID), "")?;
        std::future::pending().await
    }

    /// Waits until it was told once who it is.
    async fn identify_by_file(&self, root: &Root) -> Result<()> {
        exists(&[&root.path(GIVEN), &root.path(IDENTITY)]).await;
        let program = self.fabrik_of(&root.current()?)?;
        let identify = Command::new(program)
            .args(["identify", "--root"])
            .arg(root.dir())
            .kill_on_drop(true)
            .output()
            .await?;
        if !identify.status.success() {
            let said = String::from_utf8_lossy(&identify.stderr);
            bail!("fabrik identify: {}: {said}", identify.status);
        }
        Ok(())
    }
}

/// What k3s and the agent are told by the files on its disk, and its provider id.
fn told(root: &Root) -> Result<(UserData, String)> {
    let config = Config::load(root.dir())?;
    let provider_id = config.provider_id().context("no provider id")?.to_owned();
    let token = config.token_file.context("no token file")?;
    let token = fs::read_to_string(root.path(&token.to_string_lossy()))?;
    let kept: Kept = serde_json::from_str(&fs::read_to_string(root.path(IDENTITY))?)?;
    let agent = kept.agent.context("its cluster has no key")?;
    let labels = config.node_label.iter();
    let labels = labels.filter_map(|label| label.split_once('='));
    let user_data = UserData {
        fabrik: 1,
        role: "agent".to_owned(),
        node_name: config.node_name,
        servers: config.server.into_iter().collect(),
        token: token.trim().to_owned(),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        taints: config.node_taint,
        pool: None,
        cluster_id: Some(agent.id),
        public_key: Some(agent.public_key),
        cache_urls: kept.cache_urls,
    };
    Ok((user_data, provider_id))
}

async fn exists(any: &[&Path]) {
    while !any.iter().any(|file| file.exists()) {
        sleep(LOOK).await;
    }
}
