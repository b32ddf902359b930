//! What can be done to the world, as data. Each effect names its object by an identity that can't be mistaken, can be
//! done twice, and is carried out by one executor that decides nothing.

use core::net::IpAddr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{
    AgeRecipient, IntentId, NodeName, PoolName, SecretName, SecretsDigest, ServerId, StorePath, Uid,
};
use crate::observed::{FirewallRule, Node};
use crate::spec::IpFamily;
use crate::system::{Order, Retirement};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "verb",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum Effect {
    CreateNetwork {
        name: String,
        range: String,
        nodes: String,
        zone: String,
    },
    CreateFirewall {
        name: String,
        rules: Vec<FirewallRule>,
    },
    SetFirewallRules {
        firewall: u64,
        name: String,
        rules: Vec<FirewallRule>,
    },
    CreateSshKey {
        name: String,
        public_key: String,
    },
    CreatePlacementGroup {
        name: String,
        pool: PoolName,
    },
    CreateLoadBalancer(NewLoadBalancer),
    DeleteLoadBalancer {
        load_balancer: u64,
        name: String,
    },
    CreateFloatingIp(NewFloatingIp),
    /// Has a server have it, whoever had it before.
    AssignFloatingIp {
        floating_ip: u64,
        name: String,
        server: ServerId,
        to: NodeName,
    },
    /// Takes it from who has it, and then deletes it.
    DeleteFloatingIp {
        floating_ip: u64,
        name: String,
    },
    /// Makes the intent's join token where there is none, and then the server.
    CreateServer(NewServer),
    /// The intent's token is of no more use.
    RevokeToken {
        intent: IntentId,
    },
    /// Labels of the pool, by server-side apply: what is no longer among them goes.
    LabelNode {
        node: NodeRef,
        labels: BTreeMap<String, String>,
    },
    /// Cordons, and leaves `mark` in the place of the mark that the Node bears, which must be `over`. A cordon of
    /// somebody else is not taken over (S6).
    Cordon {
        node: NodeRef,
        mark: String,
        over: Option<String>,
    },
    /// Takes back our own cordon, and no other's (S6): the one that bears this mark, if it is there still (S7).
    Uncordon {
        node: NodeRef,
        mark: String,
    },
    Evict {
        node: NodeName,
        namespace: String,
        pod: String,
        uid: Uid,
    },
    /// Deletes a pod that the user lets go in spite of its PodDisruptionBudget, and no other one.
    ForcePod {
        node: NodeName,
        namespace: String,
        pod: String,
        uid: Uid,
    },
    PowerOff {
        server: ServerRef,
    },
    /// Tells a node which system to fetch.
    Aim {
        node: NodeRef,
        pool: PoolName,
        system: StorePath,
    },
    /// Tells a node what to do with it now.
    Order {
        node: NodeRef,
        order: Order,
    },
    /// Takes back an order whose ticket is no more.
    Withdraw {
        node: NodeRef,
    },
    /// Lays ready the secrets that a node is to have, all of them, where only that node can read them.
    DeliverSecrets {
        node: NodeRef,
        recipient: AgeRecipient,
        digest: SecretsDigest,
        /// That of the commit; a node takes no older ones.
        sequence: u64,
        secrets: Vec<SecretName>,
    },
    /// Has another etcd member lead, by its etcd name.
    MoveEtcdLeader {
        from: NodeRef,
        to: String,
    },
    SnapshotEtcd {
        node: NodeRef,
        name: String,
    },
    /// Has a server's k3s end, and start no more.
    StopK3s {
        node: NodeRef,
        retirement: Retirement,
    },
    /// Takes a member out of etcd by another one, if it is this server's still: by its number, and by its name or its
    /// address.
    RemoveEtcdMember {
        server: NodeName,
        member: u64,
        address: Option<IpAddr>,
    },
    /// Presses the reset button: what hangs boots its default system.
    Reset {
        server: ServerRef,
    },
    DeleteNode {
        node: NodeRef,
    },
    DeleteServer {
        server: ServerRef,
    },
}

/// A server to create. `choices` are tried in order while Hetzner says that one is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewServer {
    pub intent: IntentId,
    pub pool: PoolName,
    pub name: NodeName,
    pub choices: Vec<Choice>,
    pub image: String,
    pub network: u64,
    pub firewall: u64,
    pub ssh_keys: Vec<u64>,
    pub placement_group: Option<u64>,
    /// Labels and taints that the kubelet registers its Node with.
    pub node_labels: BTreeMap<String, String>,
    pub node_taints: Vec<String>,
}

/// A load balancer in the cluster's network that sends port 6443 to the servers there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewLoadBalancer {
    pub name: String,
    pub kind: String,
    pub location: String,
    pub network: u64,
    pub public: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewFloatingIp {
    pub name: String,
    pub family: IpFamily,
    pub location: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Choice {
    pub server_type: String,
    pub location: String,
}

/// A Node by name and UID: another Node of the same name is another node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeRef {
    pub name: NodeName,
    pub uid: Uid,
}

impl From<&Node> for NodeRef {
    fn from(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            uid: node.uid.clone(),
        }
    }
}

/// A server by id, with what its labels must say right before it is touched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServerRef {
    pub id: ServerId,
    pub name: NodeName,
    pub intent: IntentId,
}

impl Effect {
    /// The effect's name in logs, metrics and plans.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::CreateNetwork { .. } => "create-network",
            Self::CreateFirewall { .. } => "create-firewall",
            Self::SetFirewallRules { .. } => "set-firewall-rules",
            Self::CreateSshKey { .. } => "create-ssh-key",
            Self::CreatePlacementGroup { .. } => "create-placement-group",
            Self::CreateLoadBalancer(_) => "create-load-balancer",
            Self::DeleteLoadBalancer { .. } => "delete-load-balancer",
            Self::CreateFloatingIp(_) => "create-floating-ip",
            Self::AssignFloatingIp { .. } => "assign-floating-ip",
            Self::DeleteFloatingIp { .. } => "delete-floating-ip",
            Self::CreateServer(_) => "create-server",
            Self::RevokeToken { .. } => "revoke-token",
            Self::LabelNode { .. } => "label-node",
            Self::Cordon { .. } => "cordon",
            Self::Uncordon { .. } => "uncordon",
            Self::Evict { .. } => "evict",
            Self::ForcePod { .. } => "force-pod",
            Self::PowerOff { .. } => "power-off",
            Self::Aim { .. } => "aim",
            Self::Order { .. } => "order",
            Self::Withdraw { .. } => "withdraw-order",
            Self::DeliverSecrets { .. } => "deliver-secrets",
            Self::MoveEtcdLeader { .. } => "move-etcd-leader",
            Self::SnapshotEtcd { .. } => "snapshot-etcd",
            Self::StopK3s { .. } => "stop-k3s",
            Self::RemoveEtcdMember { .. } => "remove-etcd-member",
            Self::Reset { .. } => "reset",
            Self::DeleteNode { .. } => "delete-node",
            Self::DeleteServer { .. } => "delete-server",
        }
    }

    /// Whether no server and no Node comes or goes by it.
    pub fn leaves_servers_alone(&self) -> bool {
        matches!(
            self,
            Self::LabelNode { .. }
                | Self::Cordon { .. }
                | Self::Uncordon { .. }
                | Self::Evict { .. }
                | Self::ForcePod { .. }
                | Self::Aim { .. }
                | Self::Order { .. }
                | Self::Withdraw { .. }
                | Self::DeliverSecrets { .. }
                | Self::MoveEtcdLeader { .. }
                | Self::SnapshotEtcd { .. }
        )
    }

    /// What it is done to, as a person calls it.
    pub fn target(&self) -> String {
        match self {
            Self::CreateNetwork { name, .. }
            | Self::CreateFirewall { name, .. }
            | Self::SetFirewallRules { name, .. }
            | Self::CreateSshKey { name, .. }
            | Self::CreatePlacementGroup { name, .. }
            | Self::DeleteLoadBalancer { name, .. }
            | Self::DeleteFloatingIp { name, .. } => name.clone(),
            Self::CreateLoadBalancer(new) => new.name.clone(),
            Self::CreateFloatingIp(new) => new.name.clone(),
            Self::AssignFloatingIp { name, to, .. } => format!("{name} to {to}"),
            Self::CreateServer(server) => server.name.to_string(),
            Self::RevokeToken { intent } => intent.to_string(),
            Self::LabelNode { node, .. }
            | Self::Cordon { node, .. }
            | Self::Uncordon { node, .. }
            | Self::Aim { node, .. }
            | Self::Order { node, .. }
            | Self::Withdraw { node }
            | Self::DeliverSecrets { node, .. }
            | Self::MoveEtcdLeader { from: node, .. }
            | Self::SnapshotEtcd { node, .. }
            | Self::StopK3s { node, .. }
            | Self::DeleteNode { node } => node.name.to_string(),
            Self::RemoveEtcdMember { server, .. } => server.to_string(),
            Self::Evict { namespace, pod, .. } | Self::ForcePod { namespace, pod, .. } => {
                format!("{namespace}/{pod}")
            }
            Self::PowerOff { server } | Self::Reset { server } | Self::DeleteServer { server } => {
                server.name.to_string()
            }
        }
    }
}
