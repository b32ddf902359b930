//! Evictions, beside the passes. Those under one `PodDisruptionBudget` meet as conflicts in the API server, which lets each
//! wait for half a second (its `EvictionsRetry`): those of a namespace go one after the other, and no other node waits for
//! them.
//!
//! Nothing is decided here: what is not wanted any more is not asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fabrik_core::effect::Effect;
use fabrik_core::id::Uid;
use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::execute::Done;
use crate::cluster::lease::Authority;
use crate::cluster::nodes::{self, Eviction};

/// So many evictions of one namespace are asked for at once; the next pass wants those that are left.
const MAX_LANE: usize = 16;
/// An API server that takes its time must not keep a namespace for long either.
const LANE_LIMIT: Duration = Duration::from_secs(5);

/// A pod that is to go, and the effect that says so.
#[derive(Debug, PartialEq, Eq)]
struct Leaving {
    pod: String,
    uid: Uid,
    effect: Effect,
}

/// What came of a namespace's evictions.
struct Lane {
    namespace: String,
    ended: Vec<(Effect, Done)>,
}

pub struct Evictions {
    client: Client,
    authority: Authority,
    /// Pods that are to be evicted.
    wanted: watch::Sender<BTreeSet<Uid>>,
    /// Namespaces with a lane.
    busy: BTreeSet<String>,
    lanes: JoinSet<Lane>,
    ended: Vec<(Effect, Done)>,
}

impl Evictions {
    pub fn new(client: Client, authority: Authority) -> Self {
        Self {
            client,
            authority,
            wanted: watch::Sender::default(),
            busy: BTreeSet::new(),
            lanes: JoinSet::new(),
            ended: Vec::new(),
        }
    }

    /// From now on only evictions among `effects` are wanted. Said before a ticket ends in the ledger.
    pub fn keep_to(&self, effects: &[Effect]) {
        let wanted = effects.iter().filter_map(|effect| match effect {
            Effect::Evict { uid, .. } => Some(uid.clone()),
            _ => None,
        });
        self.wanted.send_replace(wanted.collect());
    }

    /// Asks for those that are `due` and wanted, where none of their namespace is under way.
    pub fn start(&mut self, due: &[&Effect]) {
        for (namespace, lane) in lanes(due) {
            if self.busy.insert(namespace.clone()) {
                let (client, authority) = (self.client.clone(), self.authority.clone());
                let wanted = self.wanted.subscribe();
                self.lanes.spawn(async move {
                    let ended = evict(&client, &authority, &wanted, &namespace, lane).await;
                    Lane { namespace, ended }
                });
            }
        }
    }

    /// Returns once a lane has ended; never where there is none. Nothing is lost where it is dropped before.
    pub async fn changed(&mut self) {
        match self.lanes.join_next().await {
            Some(Ok(lane)) => self.note(lane),
            Some(Err(_)) | None => std::future::pending().await,
        }
    }

    /// What came of those that ended, each once.
    pub fn take_ended(&mut self) -> Vec<(Effect, Done)> {
        while let Some(ended) = self.lanes.try_join_next() {
            if let Ok(lane) = ended {
                self.note(lane);
            }
        }
        std::mem::take(&mut self.ended)
    }

    fn note(&mut self, lane: Lane) {
        self.busy.remove(&lane.namespace);
        self.ended.extend(lane.ended);
    }
}

fn lanes(due: &[&Effect]) -> BTreeMap<String, Vec<Leaving>> {
    let mut lanes = BTreeMap::<String, Vec<Leaving>>::new();
    for &effect in due {
        if let Effect::Evict {
            namespace,
            pod,
            uid,
            ..
        } = effect
        {
            let lane = lanes.entry(namespace.clone()).or_default();
            if lane.len() < MAX_LANE {
                lane.push(Leaving {
                    pod: pod.clone(),
                    uid: uid.clone(),
                    effect: effect.clone(),
                });
            }
        }
    }
    lanes
}

async fn evict(
    client: &Client,
    authority: &Authority,
    wanted: &watch::Receiver<BTreeSet<Uid>>,
    namespace: &str,
    lane: Vec<Leaving>,
) -> Vec<(Effect, Done)> {
    let began = Instant::now();
    let mut ended = Vec::new();
    for Leaving { pod, uid, effect } in lane {
        if began.elapsed() >= LANE_LIMIT {
            break;
        }
        if !wanted.borrow().contains(&uid) {
            continue;
        }
        let done = match authority.check() {
            Ok(()) => match nodes::evict(client, namespace, &pod, &uid).await {
                Ok(Eviction::Accepted | Eviction::Gone) => Done::Yes,
                Ok(Eviction::Blocked(message)) => Done::Blocked { uid, message },
                Err(error) => Done::refused(error),
            },
            Err(lost) => Done::refused(lost),
        };
        ended.push((effect, done));
    }
    ended
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tokio::sync::Semaphore;

    use super::*;

    fn of(namespace: &str, pod: &str) -> Effect {
        Effect::Evict {
            node: "w-1".parse().unwrap(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            uid: pod.parse().unwrap(),
        }
    }

    /// The pods that were asked for, and how many answers the API server may give.
    struct Server {
        asked: Mutex<Vec<String>>,
        answers: Semaphore,
    }

    impl Server {
        fn that_hangs() -> Arc<Self> {
            Arc::new(Self {
                asked: Mutex::default(),
                answers: Semaphore::new(0),
            })
        }
    }

    /// Evictions that ask that server.
    fn evictions(server: &Arc<Server>) -> Evictions {
        let server = Arc::clone(server);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let path = request.uri().path().to_owned();
                let pod = path.rsplit('/').nth(1).unwrap().to_owned();
                server.asked.lock().unwrap().push(pod);
                server.answers.acquire().await.unwrap().forget();
                let body = json!({"apiVersion": "v1", "kind": "Status", "status": "Success"});
                Ok::<_, Infallible>(Response::new(Body::from(body.to_string().into_bytes())))
            }
        });
        Evictions::new(Client::new(service, "default"), Authority::unlimited())
    }

    #[tokio::test]
    async fn those_of_a_namespace_go_one_after_the_other_and_others_beside_them() {
        let server = Server::that_hangs();
        let mut evictions = evictions(&server);
        let effects = [of("shop", "a"), of("shop", "b"), of("web", "c")];
        let due: Vec<&Effect> = effects.iter().collect();
        evictions.keep_to(&effects);
        evictions.start(&due);
        // What is under way is not asked for twice.
        evictions.start(&due);
        while server.asked.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        server.answers.add_permits(3);
        evictions.changed().await;
        evictions.changed().await;
        let ended = evictions.take_ended();
        assert_eq!(ended.len(), 3);
        assert!(ended.iter().all(|(_, done)| matches!(done, Done::Yes)));
        let mut asked = server.asked.lock().unwrap().clone();
        assert_eq!(asked.pop().unwrap(), "b");
        asked.sort();
        assert_eq!(asked, ["a", "c"]);
        assert!(evictions.take_ended().is_empty());
    }

    #[tokio::test]
    async fn what_is_not_wanted_any_more_is_not_asked_for() {
        let server = Server::that_hangs();
        let mut evictions = evictions(&server);
        let effects = [of("shop", "a"), of("shop", "b"), of("shop", "c")];
        evictions.keep_to(&effects);
        evictions.start(&effects.iter().collect::<Vec<_>>());
        while server.asked.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        evictions.keep_to(&effects[2..]);
        server.answers.add_permits(3);
        evictions.changed().await;
        assert_eq!(*server.asked.lock().unwrap(), ["a", "c"]);
    }

    #[test]
    fn a_namespace_has_so_many_at_once() {
        let effects: Vec<Effect> = (0..40).map(|n| of("shop", &format!("p{n}"))).collect();
        let lanes = lanes(&effects.iter().collect::<Vec<_>>());
        assert_eq!(lanes["shop"].len(), MAX_LANE);
        assert_eq!(lanes["shop"][0].pod, "p0");
    }
}
