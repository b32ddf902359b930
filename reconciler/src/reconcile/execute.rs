//! Carries effects out: each once, after a look at the authority, some at a time. What fails is told and rests.

use std::fmt::Display;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fabrik_core::effect::{Effect, NewServer, NodeRef};
use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::{IntentId, PoolName, StorePath, Uid};
use fabrik_core::join;
use fabrik_core::system::{Action, Order, Retirement};
use futures::StreamExt as _;
use jiff::Timestamp;
use tracing::{info, warn};

use super::delivery;
use super::leader::{InForce, Leader};
use super::tell;
use crate::cluster::events::Weight;
use crate::cluster::user_data::{self, Invitation};
use crate::cluster::{nodes, tokens};
use crate::config::Config;
use crate::hetzner::{self, HetznerError};
use crate::join::for_new_machines;
use crate::publication;
use crate::report::Outcome;
use crate::secrets::Secret;
use crate::signing::{KeyError, SigningKey};

/// How many effects are under way at once.
const CONCURRENCY: usize = 8;
const NO_ETCD: &str = "the configuration has no [etcd]: run `fabrik found` on this server again";
const NO_PROJECT: &str =
    "cluster.toml has no [hetzner], so nothing is done there: give it back its [hetzner]";
const NO_JOIN: &str = "the configuration has no [join], so a new server could ask nobody for its keys: run `fabrik found` \
                       on this server again";
/// For as long as the core may ask for one reset, and longer.
const RESET_ONCE: Duration = Duration::from_secs(60);
/// kubectl's interval between two tries to evict a pod.
const EVICTION_RETRY: Duration = Duration::from_secs(5);

pub struct Executor<'a> {
    leader: &'a mut Leader,
    in_force: &'a InForce,
}

/// What came of one effect.
pub(super) enum Done {
    Yes,
    /// Not yet: another replica is to do it.
    HandsOver,
    Blocked {
        uid: Uid,
        message: String,
    },
    No {
        reason: HoldReason,
        message: String,
    },
}

impl Done {
    pub(super) fn refused(why: impl Display) -> Self {
        Self::No {
            reason: HoldReason::Refused,
            message: why.to_string(),
        }
    }
}

impl<'a> Executor<'a> {
    pub fn new(leader: &'a mut Leader, in_force: &'a InForce) -> Self {
        Self { leader, in_force }
    }

    /// Carries out what does not rest, and says what could not be done.
    pub async fn carry_out(&mut self, effects: &[Effect]) -> Vec<Hold> {
        let now = Instant::now();
        let mut holds = Vec::new();
        for (effect, done) in self.leader.evictions.take_ended() {
            holds.extend(self.note(&effect, done));
        }
        let mut due = Vec::new();
        for effect in effects {
            match self.leader.backoff.resting(&key(effect), now) {
                _ if self.is_blocked(effect, now) || self.was_reset(effect, now) => {}
                Some((reason, message)) => holds.push(hold(effect, reason, message)),
                None => due.push(effect),
            }
        }
        let is_eviction = |effect: &&Effect| matches!(effect, Effect::Evict { .. });
        let (evictions, due): (Vec<_>, Vec<_>) = due.into_iter().partition(is_eviction);
        self.leader.evictions.start(&evictions);
        // Nodes that go down or come back wait for no secrets of others.
        let is_delivery = |effect: &&Effect| matches!(effect, Effect::DeliverSecrets { .. });
        let (deliveries, due): (Vec<_>, Vec<_>) = due.into_iter().partition(is_delivery);
        let due = due
            .into_iter()
            .chain(deliveries.into_iter().take(CONCURRENCY));
        let this = &*self;
        let results: Vec<(&Effect, Done)> = futures::stream::iter(due)
            .map(|effect| async move { (effect, this.one(effect).await) })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (effect, done) in results {
            holds.extend(self.note(effect, done));
        }
        holds
    }

    fn is_blocked(&self, effect: &Effect, now: Instant) -> bool {
        let Effect::Evict { uid, .. } = effect else {
            return false;
        };
        self.leader
            .blocked
            .get(uid)
            .is_some_and(|(_, at)| now.duration_since(*at) < EVICTION_RETRY)
    }

    /// A second press of the button would end the boot that the first one began.
    fn was_reset(&self, effect: &Effect, now: Instant) -> bool {
        let Effect::Reset { server } = effect else {
            return false;
        };
        let at = self.leader.resets.get(&server.id);
        at.is_some_and(|at| now.duration_since(*at) < RESET_ONCE)
    }

    async fn one(&self, effect: &Effect) -> Done {
        if let Err(lost) = self.leader.authority.check() {
            return Done::refused(lost);
        }
        let client = &self.leader.replica.clients.leader_once;
        let result = match effect {
            Effect::Cordon { node, mark, over } => {
                nodes::cordon(client, node, mark, over.as_deref())
                    .await
                    .map_err(|e| e.to_string())
            }
            Effect::Uncordon { node, mark } => nodes::uncordon(client, node, mark)
                .await
                .map_err(|e| e.to_string()),
            Effect::LabelNode { node, labels } => nodes::label(client, node, labels)
                .await
                .map_err(|e| e.to_string()),
            Effect::DeleteNode { node } => {
                nodes::delete(client, node).await.map_err(|e| e.to_string())
            }
            Effect::Aim { node, pool, system } => self.aim(node, pool, system).await,
            Effect::Order { node, order } if self.gives_up_the_lead(node, order) => {
                return Done::HandsOver;
            }
            Effect::Order { node, order } => nodes::order(client, node, order)
                .await
                .map_err(|e| e.to_string()),
            Effect::Withdraw { node } => nodes::withdraw(client, node)
                .await
                .map_err(|e| e.to_string()),
            Effect::DeliverSecrets { .. } => {
                delivery::deliver(self.leader, self.in_force, effect).await
            }
            Effect::MoveEtcdLeader { to, .. } => match &self.leader.etcd {
                Some(etcd) => etcd.move_leader(to).await.map_err(|e| e.to_string()),
                None => Err(NO_ETCD.to_owned()),
            },
            Effect::RemoveEtcdMember {
                server,
                member,
                address,
            } => match &self.leader.etcd {
                Some(etcd) => {
                    let removed = etcd.remove(server, *member, *address);
                    removed.await.map_err(|e| e.to_string())
                }
                None => Err(NO_ETCD.to_owned()),
            },
            Effect::StopK3s { node, retirement } => self.retire(node, retirement).await,
            Effect::SnapshotEtcd { name, .. } => match &self.leader.etcd {
                Some(etcd) => etcd.snapshot(name).await.map_err(|e| e.to_string()),
                None => Err(NO_ETCD.to_owned()),
            },
            Effect::RevokeToken { intent } => self
                .leader
                .tokens
                .revoke(intent)
                .await
                .map_err(|e| e.to_string()),
            Effect::ForcePod {
                namespace,
                pod,
                uid,
                ..
            } => {
                // The leader's own identity may only evict: what a budget forbids is the applier's, which is an admin.
                let applier = &self.leader.replica.clients.applier_once;
                nodes::delete_pod(applier, namespace, pod, uid)
                    .await
                    .map_err(|e| e.to_string())
            }
            Effect::CreateServer(server) => return self.create_server(effect, server).await,
            _ => return self.at_hetzner(effect, "").await,
        };
        match result {
            Ok(()) => Done::Yes,
            Err(message) => Done::refused(message),
        }
    }

    /// A server that leads gives the lead up once before it tries another system, so that who tells it so lives through it.
    fn gives_up_the_lead(&self, node: &NodeRef, order: &Order) -> bool {
        let replica = &self.leader.replica;
        if node.name != replica.config.node || order.action != Action::Try {
            return false;
        }
        let before = replica.handed_over.swap(order.ticket, Ordering::Relaxed);
        let first = before != order.ticket;
        self.leader.hands_over.fetch_or(first, Ordering::Relaxed);
        first
    }

    /// A system that no statement covers is none that a node would fetch.
    async fn aim(&self, node: &NodeRef, pool: &PoolName, system: &StorePath) -> Result<(), String> {
        let publication = self.leader.publications.get(pool);
        let publication = publication
            .ok_or_else(|| format!("nothing is signed yet for the nodes of pool {pool}"))?;
        let client = &self.leader.replica.clients.leader_once;
        nodes::aim(client, node, system, publication, &self.leader.caches)
            .await
            .map_err(|e| e.to_string())
    }

    /// Signed as what nodes run is: whoever may write a `FabrikNode` can't stop a server by that alone.
    async fn retire(&self, node: &NodeRef, retirement: &Retirement) -> Result<(), String> {
        let key = self.signing_key().map_err(|e| e.to_string())?;
        let key = key.ok_or("the configuration has no key to sign with, so no agent would obey")?;
        let signed = publication::sign(&key, retirement)?;
        let client = &self.leader.replica.clients.leader_once;
        nodes::retire(client, node, &signed)
            .await
            .map_err(|e| e.to_string())
    }

    /// `None` where no systems are built.
    fn signing_key(&self) -> Result<Option<SigningKey>, KeyError> {
        let nix = self.leader.replica.config.nix.as_ref();
        nix.map(|nix| SigningKey::read(&nix.signing_key_file))
            .transpose()
    }

    async fn create_server(&self, effect: &Effect, server: &NewServer) -> Done {
        let user_data = match self.user_data(server).await {
            Ok(user_data) => user_data,
            Err(done) => return done,
        };
        if let Err(lost) = self.leader.authority.check() {
            return Done::refused(lost);
        }
        self.at_hetzner(effect, user_data.expose_str().unwrap_or_default())
            .await
    }

    /// What a machine reads when it boots.
    async fn user_data(&self, server: &NewServer) -> Result<Secret, Done> {
        let client = self.in_force.hetzner.as_ref();
        let client = client.ok_or_else(|| Done::refused(NO_PROJECT))?;
        let config = for_new_machines(&self.leader.replica.config, client).await;
        let config = &config.map_err(|error| at_hetzner(&error))?;
        // A node that knows no key could never be told what to run.
        let key = self.signing_key().map_err(Done::refused)?;
        let public_key = key.map(|key| key.public_half());
        let cluster = user_data::Cluster {
            name: &config.cluster.name,
            id: &config.cluster.id,
            servers: &config.kubernetes.join_urls,
            public_key: public_key.as_deref(),
            cache_urls: &config.cache_urls(),
        };
        if server.pool == PoolName::servers() {
            let invitation = self.invite(&server.intent, config).await;
            let invitation = invitation.map_err(Done::refused)?;
            return Ok(user_data::server(server, cluster, invitation));
        }
        // The token first: a machine that boots finds it valid.
        let token = self.leader.tokens.ensure(&server.intent, Timestamp::now());
        let token = token.await.map_err(Done::refused)?;
        Ok(user_data::worker(server, cluster, &token))
    }

    /// A nonce for the server of an intent, which the ledger knows before the server is there.
    async fn invite(&self, intent: &IntentId, config: &Config) -> Result<Invitation, String> {
        let join_urls = config.join_desk_urls();
        if join_urls.is_empty() {
            return Err(NO_JOIN.to_owned());
        }
        let nonce = nonce(config, intent)?;
        let ca_hash = tokens::ca_hash(&config.kubernetes.ca_file);
        let ca_hash = ca_hash.map_err(|error| error.to_string())?;
        let mut held = self.leader.ledger.lock().await;
        let (ledger, now) = (held.read().await?, Timestamp::now());
        let change = join::invite(&ledger, intent, join::hash(nonce.expose()), now);
        let change = change.ok_or("it is not wanted any more")?;
        held.write(&[change], now, &self.leader.authority).await?;
        Ok(Invitation {
            nonce,
            ca_hash,
            join_urls,
        })
    }

    async fn at_hetzner(&self, effect: &Effect, user_data: &str) -> Done {
        let Some(client) = &self.in_force.hetzner else {
            return Done::refused(NO_PROJECT);
        };
        let context = hetzner::Context {
            cluster: &self.leader.replica.config.cluster.id,
            user_data,
        };
        match hetzner::execute(client, effect, context).await {
            Some(Ok(_)) => Done::Yes,
            Some(Err(error)) => at_hetzner(&error),
            None => Done::refused("is no effect at Hetzner"),
        }
    }

    /// Log, metrics, Events and memory of one result.
    fn note(&mut self, effect: &Effect, done: Done) -> Option<Hold> {
        let (verb, target) = (effect.verb(), effect.target());
        let leader = &mut *self.leader;
        match done {
            Done::Yes => {
                info!(verb, target, "done");
                leader.replica.metrics.effect(verb, Outcome::Success);
                leader.backoff.succeeded(&key(effect));
                match effect {
                    Effect::Evict { uid, .. } => drop(leader.blocked.remove(uid)),
                    Effect::Uncordon { .. } => leader.makes_room = true,
                    Effect::Reset { server } => {
                        leader.resets.insert(server.id, Instant::now());
                    }
                    _ => {}
                }
                if matches!(effect, Effect::ForcePod { .. }) {
                    warn!(verb, target, "a pod was deleted in spite of its budget");
                }
                tell::effect(&leader.events, effect);
                None
            }
            Done::HandsOver => {
                let words = format!("server {target} is next: another replica leads meanwhile");
                let events = &leader.events;
                events.normal("HandsOver", verb, &words);
                None
            }
            Done::Blocked { uid, message } => {
                leader.replica.metrics.effect(verb, Outcome::Error);
                let known = leader
                    .blocked
                    .insert(uid, (message.clone(), Instant::now()))
                    .is_some();
                let Effect::Evict { node, .. } = effect else {
                    return None;
                };
                if !known {
                    warn!(verb, target, message, "refused");
                    let note = format!("{node}: {target}: {message}");
                    let events = &leader.events;
                    let reason = "DrainBlocked";
                    events.of_node(node, Weight::Warning, reason, &note);
                }
                Some(Hold {
                    about: format!("node {node}"),
                    reason: HoldReason::DrainBlocked,
                    message: format!("pod {target} can't be evicted: {message}"),
                })
            }
            Done::No { reason, message } => {
                warn!(verb, target, message, "failed");
                leader.replica.metrics.effect(verb, Outcome::Error);
                leader
                    .backoff
                    .failed(&key(effect), reason, &message, Instant::now());
                leader
                    .events
                    .warning("Failed", verb, &format!("{verb} {target}: {message}"));
                Some(hold(effect, reason, &message))
            }
        }
    }
}

fn nonce(config: &Config, intent: &IntentId) -> Result<Secret, String> {
    let file = &config.secrets.age_key_file;
    let age_key = std::fs::read(file).map(Secret::new);
    let age_key = age_key.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(tokens::nonce(&age_key, &config.cluster.id, intent))
}

fn key(effect: &Effect) -> String {
    format!("{} {}", effect.verb(), effect.target())
}

fn hold(effect: &Effect, reason: HoldReason, message: &str) -> Hold {
    Hold {
        about: key(effect),
        reason,
        message: message.to_owned(),
    }
}

fn at_hetzner(error: &HetznerError) -> Done {
    Done::No {
        reason: reason(error),
        message: error.to_string(),
    }
}

fn reason(error: &HetznerError) -> HoldReason {
    match error {
        HetznerError::OutOfStock { .. } => HoldReason::OutOfStock,
        HetznerError::NameTaken { .. } => HoldReason::NameTaken,
        HetznerError::RateLimited { .. } => HoldReason::Throttled,
        _ => HoldReason::Refused,
    }
}
