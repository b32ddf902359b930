//! The first server's side of being handed its identity: each step is one connection of the laptop's, and may be repeated.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::place::place;
use super::{Bundle, HandoverError, host_key as keys, start, systemctl};
use crate::cluster::{Founded, connect, founding};
use crate::node::identify::{self, Identity, K3s};

/// k3s unpacks itself, makes its certificates and starts etcd.
const K3S_LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(250);
/// Written by k3s as soon as its API answers.
pub(super) const KUBECONFIG: &str = "etc/rancher/k3s/k3s.yaml";
/// What nixos/k3s.nix takes for data, and leaves where there were some.
const ETCD_LOG: &str = "var/lib/rancher/k3s/server/db/etcd/member/wal";
const HAD_DATA: &str = "etc/rancher/k3s/fabrik-had-data";

/// The public half of a host key that the machine has made itself.
pub fn host_key(root: &Path) -> Result<String, HandoverError> {
    let identity = first_server(root)?;
    keys::own(root, &comment(&identity))
}

/// Puts that one in the place of the one from the user data.
pub async fn use_host_key(root: &Path) -> Result<(), HandoverError> {
    let identity = first_server(root)?;
    keys::use_own(root, &comment(&identity)).await
}

/// Takes what the laptop sends, and founds the cluster with it.
///
/// # Errors
/// The machine still has a host key that others know, or what comes is not for it; then nothing is written. Anything later
/// says what to repeat.
pub async fn identity(root: &Path, from: impl Read) -> Result<Founded, HandoverError> {
    let identity = first_server(root)?;
    // That of a machine of the user's own was never in any user data.
    if !identity.is_own_machine() && !keys::is_own(root)? {
        let node = identity.node().clone();
        return Err(HandoverError::HostKeyOfUserData { node });
    }
    let bundle = Bundle::read(from)?;
    let theirs = &bundle.cluster;
    let ours = identity.control_plane().ok_or(HandoverError::NobodyYet)?;
    if (&ours.name, &ours.id) != (&theirs.name, &theirs.id) {
        return Err(HandoverError::OtherCluster {
            ours: format!("{} ({})", ours.name, ours.id),
            theirs: format!("{} ({})", theirs.name, theirs.id),
        });
    }
    let has_data = root.join(ETCD_LOG).exists();
    if !has_data && root.join(HAD_DATA).exists() {
        let node = identity.node().clone();
        return Err(HandoverError::HadData { node });
    }
    place(root, &bundle)?;
    info!("the keys are placed");
    let told = if has_data { K3s::Goes } else { K3s::Founds };
    identify::tell_k3s(root, &identity, told)?;
    run_k3s(root).await?;
    // Whoever starts it from here on finds data, or a mark that there were some.
    identify::tell_k3s(root, &identity, K3s::Goes)?;
    info!("k3s is up");
    start(root).await
}

/// Ends the laptop's time on the machine.
pub fn done(root: &Path) -> Result<(), HandoverError> {
    keys::part(root)
}

/// It is started to its end where systemd waits for that, and its API is asked in any case.
async fn run_k3s(root: &Path) -> Result<(), HandoverError> {
    let late = |reason: String| HandoverError::K3s {
        secs: K3S_LIMIT.as_secs(),
        reason,
    };
    let end = Instant::now() + K3S_LIMIT;
    info!("k3s starts");
    let started = timeout(K3S_LIMIT, systemctl(root, &["start", "k3s"])).await;
    started.map_err(|_| late("it is still starting".to_owned()))??;
    let kubeconfig = root.join(KUBECONFIG);
    while !kubeconfig.exists() {
        if Instant::now() >= end {
            return Err(late(format!("it has not written {}", kubeconfig.display())));
        }
        sleep(POLL).await;
    }
    let (admin, _) = connect::from_kubeconfig(&kubeconfig).await?;
    Ok(founding::wait_for_api(&admin).await?)
}

fn first_server(root: &Path) -> Result<Identity, HandoverError> {
    let identity = identify::kept(root)?.ok_or(HandoverError::NobodyYet)?;
    if identity.is_first_server() {
        return Ok(identity);
    }
    Err(HandoverError::NotFirst {
        node: identity.node().clone(),
    })
}

fn comment(identity: &Identity) -> String {
    format!("root@{}", identity.node())
}
