//! What servers stand on at Hetzner: the network, the firewall, the SSH keys, the placement groups and what leads to them.

use std::collections::{BTreeMap, BTreeSet};

use crate::desired::Desired;
use crate::effect::Effect;
use crate::endpoint;
use crate::hold::{Hold, HoldReason};
use crate::id::PoolName;
use crate::observed::{FirewallRule, Observed};
use crate::spec::{Firewall, PlacementStrategy, Pool, Spec};
use crate::step::Step;

/// Hetzner's limit of a placement group.
const SERVERS_PER_GROUP: usize = 10;

/// Creates what is missing and sets what differs. What somebody else owns is named and not touched. Where there is no project
/// at Hetzner nothing is made there.
pub fn step(desired: &Desired, observed: &Observed) -> Step {
    let mut step = Step::default();
    let spec = &desired.spec;
    if spec.hetzner.is_none() {
        return step;
    }
    let name = spec.name.to_string();
    let there = &observed.hetzner;
    step.holds.extend(there.taken.iter().map(name_taken));
    let free = |name: &str| !there.taken.contains_key(name);

    if there.network.is_none() && free(&name) {
        let network = &spec.network;
        step.effects.push(Effect::CreateNetwork {
            name: name.clone(),
            range: network.range.clone(),
            nodes: network.nodes.clone(),
            zone: network.zone.clone(),
        });
    }
    let rules = firewall_rules(&spec.firewall);
    match &there.firewall {
        None if free(&name) => step.effects.push(Effect::CreateFirewall { name, rules }),
        Some(firewall) if !same_rules(&firewall.rules, &rules) => {
            step.effects.push(Effect::SetFirewallRules {
                firewall: firewall.id,
                name: firewall.name.clone(),
                rules,
            });
        }
        _ => {}
    }
    step.effects.extend(missing_ssh_keys(spec, observed));
    step.extend(endpoint::step(desired, observed));
    step
}

/// The inbound rules: what the spec opens, and ICMP so that path MTU discovery and pings work.
pub fn firewall_rules(firewall: &Firewall) -> Vec<FirewallRule> {
    let everywhere = || ["0.0.0.0/0", "::/0"].map(str::to_owned).into();
    let tcp = |port: &str, from: &[String]| FirewallRule {
        protocol: "tcp".to_owned(),
        port: port.to_owned(),
        source_ips: from.iter().cloned().collect(),
    };
    let mut rules = vec![FirewallRule {
        protocol: "icmp".to_owned(),
        port: String::new(),
        source_ips: everywhere(),
    }];
    if !firewall.ssh_from.is_empty() {
        rules.push(tcp("22", &firewall.ssh_from));
    }
    if !firewall.api_from.is_empty() {
        rules.push(tcp("6443", &firewall.api_from));
    }
    rules
}

/// What there is for new servers to stand on, and the room left in placement groups while servers are handed out.
pub struct Ground<'a> {
    cluster: String,
    observed: &'a Observed,
    ssh_keys: Option<Vec<u64>>,
    /// Servers in each group, those of this pass among them.
    taken: BTreeMap<String, usize>,
    missing_groups: BTreeMap<String, PoolName>,
}

/// Where one server goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    pub network: u64,
    pub firewall: u64,
    pub ssh_keys: Vec<u64>,
    pub group: Option<u64>,
}

impl<'a> Ground<'a> {
    pub fn new(desired: &Desired, observed: &'a Observed) -> Self {
        let key_id = |name: &String| observed.hetzner.ssh_keys.get(name).map(|k| k.id);
        let taken = observed
            .hetzner
            .placement_groups
            .values()
            .map(|g| (g.name.clone(), g.servers.len()))
            .collect();
        Self {
            cluster: desired.spec.name.to_string(),
            observed,
            ssh_keys: desired.spec.ssh_keys.keys().map(key_id).collect(),
            taken,
            missing_groups: BTreeMap::new(),
        }
    }

    /// A place for one more server of `pool`; `None` while something that it needs is still to be made.
    pub fn for_server(&mut self, name: &PoolName, pool: &Pool) -> Option<Placement> {
        let spread = pool.placement == PlacementStrategy::Spread;
        let group = if spread { self.group(name) } else { None };
        let network = self.observed.hetzner.network.as_ref()?.id;
        let firewall = self.observed.hetzner.firewall.as_ref()?.id;
        let ssh_keys = self.ssh_keys.clone()?;
        if spread && group.is_none() {
            return None;
        }
        Some(Placement {
            network,
            firewall,
            ssh_keys,
            group,
        })
    }

    /// The groups that servers of this pass wait for.
    pub fn missing_groups(self) -> impl Iterator<Item = Effect> {
        self.missing_groups
            .into_iter()
            .map(|(name, pool)| Effect::CreatePlacementGroup { name, pool })
    }

    fn group(&mut self, pool: &PoolName) -> Option<u64> {
        let names = (1..).map(|n| format!("{}-{pool}-{n}", self.cluster));
        let with_room = |name: &String| self.taken.get(name).is_none_or(|n| *n < SERVERS_PER_GROUP);
        let name = names.into_iter().find(with_room)?;
        *self.taken.entry(name.clone()).or_default() += 1;
        let there = self
            .observed
            .hetzner
            .placement_groups
            .get(&name)
            .map(|g| g.id);
        if there.is_none() && !self.observed.hetzner.taken.contains_key(&name) {
            self.missing_groups.insert(name, pool.clone());
        }
        there
    }
}

fn missing_ssh_keys(spec: &Spec, observed: &Observed) -> Vec<Effect> {
    let there = &observed.hetzner;
    let full_name = |name: &str| format!("{}-{name}", spec.name);
    let missing = |name: &&String| {
        !there.ssh_keys.contains_key(*name) && !there.taken.contains_key(&full_name(name))
    };
    spec.ssh_keys
        .iter()
        .filter(|(name, _)| missing(name))
        .map(|(name, key)| Effect::CreateSshKey {
            name: full_name(name),
            public_key: key.clone(),
        })
        .collect()
}

fn same_rules(left: &[FirewallRule], right: &[FirewallRule]) -> bool {
    left.iter().collect::<BTreeSet<_>>() == right.iter().collect::<BTreeSet<_>>()
}

fn name_taken((name, owner): (&String, &String)) -> Hold {
    Hold {
        about: name.clone(),
        reason: HoldReason::NameTaken,
        message: format!(
            "is needed and belongs to {owner}; rename or remove it, or give this cluster another project"
        ),
    }
}
