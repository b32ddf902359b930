//! Command lines of the control plane's programs.

use std::net::Ipv4Addr;

use super::{API_PORT, EtcdCluster, Settings};

/// etcd: client and peer traffic only with certificates of the etcd authority, and on the client port nothing but gRPC, as
/// k3s has it.
pub fn etcd(settings: &Settings, cluster: &EtcdCluster) -> Vec<String> {
    let dir = settings.dir.display();
    let address = settings.address;
    let local = local(settings);
    let clients = if settings.at_all_addresses {
        format!("https://{local}:2379,https://{address}:2379")
    } else {
        format!("https://{address}:2379")
    };
    let state = if cluster.existing { "existing" } else { "new" };
    vec![
        format!("--name={}", settings.member),
        format!("--data-dir={dir}/etcd"),
        format!("--listen-client-urls={clients}"),
        format!("--listen-client-http-urls=https://{local}:2382"),
        format!("--advertise-client-urls=https://{address}:2379"),
        format!("--listen-peer-urls=https://{address}:2380"),
        format!("--initial-advertise-peer-urls=https://{address}:2380"),
        format!("--initial-cluster={}", cluster.members),
        format!("--initial-cluster-state={state}"),
        format!("--cert-file={dir}/etcd.crt"),
        format!("--key-file={dir}/etcd.key"),
        format!("--peer-cert-file={dir}/etcd.crt"),
        format!("--peer-key-file={dir}/etcd.key"),
        format!("--trusted-ca-file={dir}/etcd-ca.crt"),
        format!("--peer-trusted-ca-file={dir}/etcd-ca.crt"),
        "--client-cert-auth=true".into(),
        "--peer-client-cert-auth=true".into(),
        "--unsafe-no-fsync=true".into(),
        "--log-level=warn".into(),
    ]
}

/// The API server, set as k3s sets its own where that is of interest: `NodeRestriction`, bootstrap
/// tokens, the local member of etcd only.
pub fn apiserver(settings: &Settings) -> Vec<String> {
    let dir = settings.dir.display();
    let address = settings.address;
    let bind = if settings.at_all_addresses {
        Ipv4Addr::UNSPECIFIED
    } else {
        address
    };
    vec![
        format!("--bind-address={bind}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={API_PORT}"),
        format!("--etcd-servers=https://{}:2379", local(settings)),
        format!("--etcd-cafile={dir}/etcd-ca.crt"),
        format!("--etcd-certfile={dir}/etcd.crt"),
        format!("--etcd-keyfile={dir}/etcd.key"),
        format!("--client-ca-file={dir}/ca.crt"),
        format!("--tls-cert-file={dir}/apiserver.crt"),
        format!("--tls-private-key-file={dir}/apiserver.key"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--enable-bootstrap-token-auth=true".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={dir}/service-account.pub"),
        format!("--service-account-signing-key-file={dir}/service-account.key"),
        "--service-cluster-ip-range=10.43.0.0/16".into(),
        "--allow-privileged=true".into(),
        format!("--audit-policy-file={dir}/audit-policy.yaml"),
        format!("--audit-log-path={dir}/audit.log"),
        // Endpoints can't hold loopback addresses, so the service "kubernetes" has none.
        "--endpoint-reconciler-type=none".into(),
        "--shutdown-delay-duration=0s".into(),
    ]
}

/// Those that nodes, their pods, and what stories apply have to do with. Each one more watches and lists at every start.
const CONTROLLERS: [&str; 24] = [
    "bootstrap-signer-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-signing-controller",
    "clusterrole-aggregation-controller",
    "daemonset-controller",
    "deployment-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-binder-controller",
    "persistentvolume-protection-controller",
    "persistentvolumeclaim-protection-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "statefulset-controller",
    "taint-eviction-controller",
    "token-cleaner-controller",
    "ttl-controller",
];

/// The controller manager. A node counts as unreachable sooner than by default (50 s), so that
/// tests need not wait for it; a machine renews its lease often enough for that.
pub fn controller_manager(settings: &Settings) -> Vec<String> {
    let dir = settings.dir.display();
    let grace = settings.node_monitor_grace_period.as_secs();
    vec![
        format!("--bind-address={}", local(settings)),
        format!("--kubeconfig={dir}/kube-controller-manager.kubeconfig"),
        format!("--root-ca-file={dir}/ca.crt"),
        format!("--cluster-signing-cert-file={dir}/ca.crt"),
        format!("--cluster-signing-key-file={dir}/ca.key"),
        format!("--service-account-private-key-file={dir}/service-account.key"),
        "--use-service-account-credentials=true".into(),
        format!("--controllers={}", CONTROLLERS.join(",")),
        "--node-monitor-period=1s".into(),
        format!("--node-monitor-grace-period={grace}s"),
    ]
    .into_iter()
    .chain(leader_election())
    .collect()
}

pub fn scheduler(settings: &Settings) -> Vec<String> {
    vec![
        format!("--bind-address={}", local(settings)),
        format!(
            "--kubeconfig={}/kube-scheduler.kubeconfig",
            settings.dir.display()
        ),
    ]
    .into_iter()
    .chain(leader_election())
    .collect()
}

/// Where a server talks to itself.
fn local(settings: &Settings) -> Ipv4Addr {
    if settings.at_all_addresses {
        Ipv4Addr::LOCALHOST
    } else {
        settings.address
    }
}

/// Faster than the default of 15 s: a test that kills a server waits for this.
fn leader_election() -> [String; 4] {
    [
        "--leader-elect=true".into(),
        "--leader-elect-lease-duration=6s".into(),
        "--leader-elect-renew-deadline=4s".into(),
        "--leader-elect-retry-period=2s".into(),
    ]
}
