//! Labels, annotations and field managers: every key that fabrik writes, in one place.

/// On each Hetzner resource: the id of the cluster that owns it. What bears another id is never touched.
pub const CLUSTER_LABEL: &str = "fabrik.dev/cluster";
/// On a Hetzner server: `server` or `agent`, k3s' words.
pub const ROLE_LABEL: &str = "fabrik.dev/role";
/// On a Hetzner server and its placement group: the pool. On its Node as well.
pub const POOL_LABEL: &str = "fabrik.dev/pool";
/// What the control plane is called where a pool is asked for.
pub const SERVERS_POOL: &str = "servers";
/// On a Hetzner server, and on the Secret of a join token: the creation intent it came from.
pub const INTENT_LABEL: &str = "fabrik.dev/intent";
/// On a snapshot: the pool whose system is on that disk.
pub const IMAGE_LABEL: &str = "fabrik.dev/image";
/// On a snapshot: the beginning of the SHA-256 of the bytes that were written to the disk, or of what they were built of.
pub const DIGEST_LABEL: &str = "fabrik.dev/digest";
/// On a snapshot: the fabrik that made it.
pub const VERSION_LABEL: &str = "fabrik.dev/version";
/// On a snapshot: the cluster's name, by which its id is found when nothing else is left.
pub const NAME_LABEL: &str = "fabrik.dev/name";
/// On a snapshot: the minor of k3s in the system on it, as `1.36`.
pub const K3S_LABEL: &str = "fabrik.dev/k3s";
/// On the temporary server of an image: the digest of what was written to its disk and read back from there.
pub const WRITTEN_LABEL: &str = "fabrik.dev/written";
/// On each applied object: the unit that it belongs to.
pub const UNIT_LABEL: &str = "fabrik.dev/unit";
/// On a Node that fabrik cordoned: the mark of the ticket it was cordoned under. Its absence on a cordoned Node says that
/// somebody else did it.
pub const TICKET_ANNOTATION: &str = "fabrik.dev/ticket";
/// On `FabrikCluster`: a person or a webhook asks for a fetch now; any new value does.
pub const RECONCILE_ANNOTATION: &str = "fabrik.dev/reconcile-requested-at";
/// On `FabrikCluster`: ids of servers, with commas between them, that a person says are gone. Without it, more missing
/// servers than a few are not believed to be.
pub const CONFIRM_GONE_ANNOTATION: &str = "fabrik.dev/confirm-gone";
/// On a `FabrikNode`: the number of its ticket, which a person takes away from a node that is stuck.
pub const RELEASE_TICKET_ANNOTATION: &str = "fabrik.dev/release-ticket";
/// On a `FabrikNode`: the key that a person says its node has by now, in the place of the one that was recorded.
pub const ACCEPT_RECIPIENT_ANNOTATION: &str = "fabrik.dev/accept-recipient";
/// On a `FabrikNode`, and on the Secret that only its node reads: which secrets are in that one.
pub const SECRETS_ANNOTATION: &str = "fabrik.dev/secrets";
/// On the Secrets that nodes read theirs from, and on the rights to do so.
pub const NODE_SECRETS_LABEL: &str = "fabrik.dev/node-secrets";
/// On a live object of a protected kind: `confirm` lets it be pruned.
pub const PRUNE_ANNOTATION: &str = "fabrik.dev/prune";

/// The group of those whom `fabrik kubeconfig` gives a certificate: bound to `cluster-admin` by fabrik's own manifests.
pub const ADMINS_GROUP: &str = "fabrik:admins";

/// On the namespace: the version of fabrik's own definitions, rights and policies that was applied last, whole.
pub const MANIFESTS_ANNOTATION: &str = "fabrik.dev/manifests";

/// Field manager of applied units.
pub const APPLIER_MANAGER: &str = "fabrik";
/// Field manager of what the leader writes on Nodes and on fabrik's own objects.
pub const LEADER_MANAGER: &str = "fabrik-leader";
/// Field manager of what the leader tells a node to fetch and to do: apart from the rest of its `FabrikNode`, which is
/// applied whole.
pub const ORDERS_MANAGER: &str = "fabrik-orders";

/// Where k3s' API servers listen.
pub const API_PORT: u16 = 6443;

/// The namespace of fabrik's Lease, service accounts and published observation.
pub const NAMESPACE: &str = "fabrik-system";
