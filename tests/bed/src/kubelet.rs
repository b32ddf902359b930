//! A stand-in for the kubelet of a machine: it registers the Node and is the only writer of the
//! Node's status and lease. Pods are played by a KWOK process of this machine's own: when the
//! machine is off there is nobody who could start or end them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::parts::KWOK_STAGES;
use crate::pki;
use crate::process::{Dirs, Process, Spec};

/// How often a machine says that it lives.
const LEASE_EVERY: Duration = Duration::from_secs(2);
const LEASE_DURATION_SECONDS: i32 = 40;
/// What an API server does not answer by then is said anew, as kubelets do after 10 s where a Lease lasts 40 s
/// (cmd/kubelet/app/server.go, `heartbeatClientConfig.Timeout`): one that waits for etcd would cost the Node its readiness.
const ANSWER: Duration = Duration::from_secs(2);
/// Status is written when it changes, and this often.
const STATUS_EVERY: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How a machine feels. A test sets it, the kubelet reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub sick: bool,
    /// The system that it runs makes it sick.
    pub sick_system: bool,
    /// Added before each thing that the machine does.
    pub delay: Duration,
}

/// What the Node says about this machine and this boot of it.
#[derive(Clone, Debug)]
pub struct Settings {
    pub node_name: String,
    pub provider_id: String,
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect`, as k3s takes them.
    pub taints: Vec<String>,
    pub address: Ipv4Addr,
    pub kubelet_version: String,
    pub boot_id: String,
    /// With the node's own certificate in it.
    pub kubeconfig: String,
    pub kwok_kubeconfig: String,
    /// Nobody plays pods where there is none.
    pub kwok: Option<PathBuf>,
    /// Folder of this machine alone.
    pub dir: PathBuf,
    pub dirs: Dirs,
}

/// Runs until it is dropped. Returns only when the Node can't be registered.
pub async fn run(
    settings: Settings,
    mut health: watch::Receiver<Health>,
    registered: impl FnOnce(),
) -> Result<()> {
    let client = crate::kubeconfig::client(&settings.kubeconfig).await?;
    let node = register(&settings, &client, &health).await?;
    let kwok = settings.kwok.as_deref();
    let _pods = kwok.map(|kwok| start_pods(kwok, &settings)).transpose()?;
    write_status(&settings, &client, &health).await;
    registered();
    let mut next_lease = Instant::now();
    let mut next_status = Instant::now() + STATUS_EVERY;
    loop {
        tokio::select! {
            () = sleep_until(next_lease) => {
                renew_lease(&settings, &client, &node, &health).await;
                next_lease = Instant::now() + LEASE_EVERY;
            }
            () = sleep_until(next_status) => {
                write_status(&settings, &client, &health).await;
                next_status = Instant::now() + STATUS_EVERY;
            }
            Ok(()) = health.changed() => next_status = Instant::now(),
        }
    }
}

async fn slowly(health: &watch::Receiver<Health>) {
    let delay = health.borrow().delay;
    sleep(delay).await;
}

/// Creates the Node, or finds the one of an earlier boot.
async fn register(
    settings: &Settings,
    client: &kube::Client,
    health: &watch::Receiver<Health>,
) -> Result<Node> {
    let nodes: Api<Node> = Api::all(client.clone());
    let wanted = node(settings)?;
    loop {
        slowly(health).await;
        match nodes.create(&PostParams::default(), &wanted).await {
            Ok(node) => return Ok(node),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                if let Ok(node) = nodes.get(&settings.node_name).await {
                    return Ok(node);
                }
            }
            Err(kube::Error::Api(status)) if status.code == 403 || status.code == 422 => {
                bail!(
                    "the API server refuses node {}: {}",
                    settings.node_name,
                    status.message
                );
            }
            Err(error) => tracing::debug!(node = settings.node_name, %error, "not registered yet"),
        }
        sleep(RETRY_PAUSE).await;
    }
}

fn node(settings: &Settings) -> Result<Node> {
    let mut labels = BTreeMap::from([
        (
            "kubernetes.io/hostname".to_owned(),
            settings.node_name.clone(),
        ),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), "amd64".to_owned()),
        (
            "node.kubernetes.io/instance-type".to_owned(),
            "k3s".to_owned(),
        ),
    ]);
    labels.extend(settings.labels.clone());
    let taints = settings
        .taints
        .iter()
        .map(|taint| parse_taint(taint))
        .collect::<Result<Vec<_>>>()?;
    Ok(Node {
        metadata: ObjectMeta {
            name: Some(settings.node_name.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: Some(settings.provider_id.clone()),
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: None,
    })
}

fn parse_taint(text: &str) -> Result<Taint> {
    let form = || format!("taint \"{text}\" is not of the form key=value:Effect");
    let (rest, effect) = text.rsplit_once(':').with_context(form)?;
    let (key, value) = rest
        .split_once('=')
        .map_or((rest, None), |(k, v)| (k, Some(v)));
    Ok(Taint {
        key: key.to_owned(),
        value: value.map(str::to_owned),
        effect: effect.to_owned(),
        time_added: None,
    })
}

async fn write_status(
    settings: &Settings,
    client: &kube::Client,
    health: &watch::Receiver<Health>,
) {
    slowly(health).await;
    let nodes: Api<Node> = Api::all(client.clone());
    // A kubelet does not register its Node anew while it runs, so 404 is only worth a line.
    let patch = Patch::Strategic(status(settings, *health.borrow()));
    let parameters = PatchParams::default();
    let written = nodes.patch_status(&settings.node_name, &parameters, &patch);
    match timeout(ANSWER, written).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::debug!(node = settings.node_name, %error, "status is not written");
        }
        Err(_) => tracing::debug!(node = settings.node_name, "status is not written in time"),
    }
}

fn status(settings: &Settings, health: Health) -> Value {
    let now = Timestamp::now()
        .round(jiff::Unit::Second)
        .unwrap_or_default();
    let condition = |kind: &str, status: bool, reason: &str, message: &str| {
        json!({
            "type": kind,
            "status": if status { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
        })
    };
    let ready = if health.sick || health.sick_system {
        condition("Ready", false, "KubeletNotReady", "the machine is sick")
    } else {
        condition(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
        )
    };
    let resources =
        json!({"cpu": "4", "memory": "8Gi", "pods": "110", "ephemeral-storage": "80Gi"});
    json!({"status": {
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", ""),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", ""),
            condition("PIDPressure", false, "KubeletHasSufficientPID", ""),
            ready,
        ],
        "addresses": [
            {"type": "InternalIP", "address": settings.address},
            {"type": "Hostname", "address": settings.node_name},
        ],
        "capacity": resources,
        "allocatable": resources,
        "nodeInfo": {
            "bootID": settings.boot_id,
            "machineID": settings.provider_id,
            "systemUUID": settings.provider_id,
            "kubeletVersion": settings.kubelet_version,
            "kubeProxyVersion": settings.kubelet_version,
            "containerRuntimeVersion": "kwok://0.8.0",
            "kernelVersion": "6.12.0",
            "osImage": "a machine of the test bed",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
    }})
}

async fn renew_lease(
    settings: &Settings,
    client: &kube::Client,
    node: &Node,
    health: &watch::Receiver<Health>,
) {
    slowly(health).await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let name = &settings.node_name;
    let renewed = json!({"spec": {"renewTime": MicroTime(Timestamp::now())}});
    let renewed = async {
        let renewed = Patch::Merge(renewed);
        match leases.patch(name, &PatchParams::default(), &renewed).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                let lease = lease(name, node);
                leases.create(&PostParams::default(), &lease).await
            }
            other => other,
        }
    };
    match timeout(ANSWER, renewed).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(node = name, %error, "lease is not renewed"),
        Err(_) => tracing::debug!(node = name, "lease is not renewed in time"),
    }
}

fn lease(name: &str, node: &Node) -> Lease {
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    Lease {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(LEASE_DURATION_SECONDS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    }
}

/// KWOK for the pods of this node only. It sees its Node and never writes it.
fn start_pods(kwok: &Path, settings: &Settings) -> Result<Process> {
    let stages = settings.dir.join("stages.yaml");
    std::fs::write(&stages, KWOK_STAGES)?;
    let kubeconfig = settings.dir.join("kwok.kubeconfig");
    pki::write_private(&kubeconfig, settings.kwok_kubeconfig.as_bytes())?;
    let [_, _, third, fourth] = settings.address.octets();
    let pods = format!("10.{}.{fourth}.0/24", 64 + third % 64);
    let name = format!("kwok-{}", settings.node_name);
    Process::start(Spec::new(&name, kwok, &settings.dirs).args([
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--config={}", stages.display()),
        format!("--manage-single-node={}", settings.node_name),
        "--manage-all-nodes=false".to_owned(),
        "--node-lease-duration-seconds=0".to_owned(),
        format!("--cidr={pods}"),
        format!("--node-ip={}", settings.address),
        format!("--server-address={}:10250", settings.address),
    ]))
}

#[cfg(test)]
mod tests {
    use super::parse_taint;

    #[test]
    fn taints_are_read_as_k3s_reads_them() {
        let taint = parse_taint("dedicated=web:NoSchedule").unwrap();
        assert_eq!(taint.key, "dedicated");
        assert_eq!(taint.value.as_deref(), Some("web"));
        assert_eq!(taint.effect, "NoSchedule");
        assert_eq!(parse_taint("lonely:NoExecute").unwrap().value, None);
        assert!(parse_taint("nonsense").is_err());
    }
}
