//! A server that fabrik made asks for its keys: whoever else asks, from elsewhere, later or a second time, gets none, and who
//! stands in between learns nothing.

#[path = "identify/cloud.rs"]
mod cloud;
#[path = "founding/world.rs"]
#[allow(dead_code, reason = "some of it is for other stories")]
mod world;
mod join {
    pub mod control_plane;
    pub mod door;
}

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use age::x25519::Identity;
use fabrik::cluster::tokens::Tokens;
use fabrik::config::{Config, Join};
use fabrik::handover::Bundle;
use fabrik::join::ask::ask_one;
use fabrik::join::{self as asking, AskError, Judge, Reply};
use fabrik::node::identify::{self, ByHand};
use fabrik::secrets::Secret;
use fabrik_bed::{Bed, Options};
use fabrik_core::join::Claim;
use futures::FutureExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use cloud::Cloud;
use join::control_plane::{ControlPlane, INTENT, NODE};
use join::door::{Authority, Door, NONCE, bundle, request, sealed_to, signing_key};

/// Answers each claim, and counts them.
fn generous() -> (Judge, Arc<AtomicUsize>) {
    giving(bundle())
}

fn giving(bundle: Bundle) -> (Judge, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&asked);
    let judge: Judge = Arc::new(move |claim: Claim| {
        count.fetch_add(1, Ordering::Relaxed);
        let sealed = sealed_to(&claim.recipient, &bundle);
        async move { Reply::Answer(sealed) }.boxed()
    });
    (judge, asked)
}

/// As the user data have it.
fn known<'a>(ca_hash: &'a str, public_key: Option<&'a str>) -> asking::Door<'a> {
    asking::Door {
        urls: &[],
        ca_hash,
        public_key,
    }
}

#[tokio::test]
async fn an_answer_opens_for_the_machine_that_asked_and_for_no_other() {
    let authority = Authority::new();
    let door = Door::open(&authority, Some(generous().0)).await;
    let own = Identity::generate();
    let hash = authority.hash();
    let answer = ask_one(&door.url(), known(&hash, None), &request(&own), &own).await;
    assert_eq!(answer.unwrap(), bundle());
    // Who repeats what was on the wire.
    let other = Identity::generate();
    let error = ask_one(&door.url(), known(&hash, None), &request(&own), &other).await;
    let error = error.unwrap_err();
    assert!(matches!(error, AskError::NotForUs { .. }), "{error}");
    assert!(!error.to_string().contains("planted"), "{error}");
}

#[tokio::test]
async fn who_stands_in_between_with_another_authority_is_told_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let own = Identity::generate();
    let (judge, asked) = generous();
    let between = Door::open(&theirs, Some(Arc::clone(&judge))).await;
    let error = ask_one(
        &between.url(),
        known(&ours.hash(), None),
        &request(&own),
        &own,
    )
    .await;
    let error = error.unwrap_err();
    assert!(matches!(error, AskError::OtherAuthority { .. }), "{error}");
    assert!(!error.to_string().contains(NONCE), "{error}");

    // One that shows the right authority, and has no certificate of it.
    let between = Door::open_showing(&theirs, &ours, Some(judge)).await;
    let error = ask_one(
        &between.url(),
        known(&ours.hash(), None),
        &request(&own),
        &own,
    )
    .await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(asked.load(Ordering::Relaxed), 0, "the nonce was not sent");
}

/// k3s signs a certificate for whatever address a node says it has: a worker may answer where a server was before.
#[tokio::test]
async fn a_node_that_answers_where_a_server_was_gives_a_machine_no_keys() {
    let authority = Authority::new();
    let forged = Bundle {
        signing_key: signing_key(2).1,
        ..bundle()
    };
    let keyless = Bundle {
        signing_key: Secret::new(Vec::new()),
        ..bundle()
    };
    let own = Identity::generate();
    let (public, _) = signing_key(1);
    let (hash, request) = (authority.hash(), request(&own));
    let known = known(&hash, Some(&public));
    for answer in [forged, keyless] {
        let node = Door::open(&authority, Some(giving(answer).0)).await;
        let answer = ask_one(&node.url(), known, &request, &own).await;
        let error = answer.unwrap_err();
        assert!(matches!(error, AskError::NotOfTheCluster), "{error}");
    }
}

#[tokio::test]
async fn a_machine_asks_on_until_it_finds_the_one_that_leads() {
    let authority = Authority::new();
    let follower = Door::open(&authority, None).await;
    let leader = Door::open(&authority, Some(generous().0)).await;
    let own = Identity::generate();
    let error = ask_one(
        &follower.url(),
        known(&authority.hash(), None),
        &request(&own),
        &own,
    )
    .await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("503: this server's fabrik does not lead"),
        "{error}"
    );
    let urls = [
        "https://127.0.0.1:1".to_owned(),
        follower.url(),
        leader.url(),
    ];
    let door = asking::Door {
        urls: &urls,
        ca_hash: &authority.hash(),
        public_key: Some(&signing_key(1).0),
    };
    assert_eq!(asking::ask(door, &request(&own), &own).await, bundle());
}

#[tokio::test]
async fn the_door_takes_no_more_than_a_request_and_not_too_many() {
    let authority = Authority::new();
    let (judge, asked) = generous();
    let door = Door::open(&authority, Some(judge)).await;
    for (body, status) in [
        ("x".repeat(5000), 413),
        (format!("{NONCE},"), 400),
        (
            format!(r#"{{"nonce": "{NONCE}", "node-name": "s-1", "age-recipient": "age1x"}}"#),
            400,
        ),
    ] {
        let answer = door.post(&authority, body).await;
        assert_eq!(answer.status(), status);
        assert!(!answer.text().await.unwrap().contains(NONCE));
    }
    let mut last = 0;
    for _ in 0..60 {
        last = door.post(&authority, String::new()).await.status().as_u16();
    }
    assert_eq!(last, 429);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_server_boots_with_a_nonce_and_has_all_that_it_needs_to_join() {
    let cloud = Cloud::start().await;
    let authority = Authority::new();
    let (judge, asked) = generous();
    let door = Door::open(&authority, Some(judge)).await;
    let user_data = json!({
        "fabrik": 1, "role": "server", "pool": "servers", "node-name": NODE, "cluster-name": "demo",
        "cluster-id": "abcdefgh01234567", "public-key": signing_key(1).0,
        "cache-urls": ["https://10.0.1.1:9642"], "nonce": NONCE, "ca-hash": authority.hash(), "join-urls": [door.url()],
        "labels": {"tier": "control"}, "taints": [],
    });
    let (id, metadata) = cloud.server(NODE, &user_data.to_string()).await;
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let boot = async || {
        let booted = identify::run(&metadata, root, ByHand::Allowed).await;
        booted.unwrap();
    };
    boot().await;
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let k3s: Value =
        serde_saphyr::from_str(&read("etc/rancher/k3s/config.yaml.d/50-fabrik.yaml")).unwrap();
    let given = bundle();
    assert_eq!(k3s["server"], given.k3s_server_urls[0].as_str());
    assert_eq!(k3s["advertise-address"], "10.0.1.1");
    assert_eq!(k3s["node-label"], json!(["tier=control"]));
    assert_eq!(
        k3s["kubelet-arg+"],
        json!([format!("provider-id=hcloud://{id}")])
    );
    assert!(k3s.get("cluster-init").is_none());
    assert_eq!(
        read("var/lib/fabrik-identity/token").as_bytes(),
        given.k3s_token.expose()
    );
    assert_eq!(
        read("etc/fabrik/age.key").as_bytes(),
        given.age_key.expose()
    );
    assert!(read("etc/fabrik/agent.toml").contains(&signing_key(1).0));
    assert!(root.join("var/lib/fabrik-identity/founding.json").exists());
    let key = read("var/lib/fabrik-identity/age.key");

    // The next boot asks nobody; one that was cut off before it knew asks as the same machine.
    boot().await;
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    fs::remove_file(root.join("var/lib/fabrik-identity/identity.json")).unwrap();
    fs::remove_file(root.join("etc/rancher/k3s/config.yaml.d/50-fabrik.yaml")).unwrap();
    fs::remove_file(root.join("etc/fabrik/age.key")).unwrap();
    boot().await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(read("var/lib/fabrik-identity/age.key"), key);
    assert_eq!(
        read("etc/fabrik/age.key").as_bytes(),
        given.age_key.expose()
    );
}

/// Which `fabrik install` has told: it asks no metadata service.
#[tokio::test]
async fn a_machine_of_ones_own_asks_with_its_nonce_and_joins_and_never_founds() {
    let authority = Authority::new();
    let (judge, asked) = generous();
    let door = Door::open(&authority, Some(judge)).await;
    let file = json!({"server": 1_u64 << 53, "node-ip": "192.168.1.21", "user-data": {
        "fabrik": 1, "role": "server", "pool": "servers", "node-name": NODE, "cluster-name": "demo",
        "cluster-id": "abcdefgh01234567", "public-key": signing_key(1).0, "nonce": NONCE, "ca-hash": authority.hash(),
        "join-urls": [door.url()],
    }});
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let machine_file = root.join("var/lib/fabrik-identity/machine.json");
    fs::create_dir_all(machine_file.parent().unwrap()).unwrap();
    fs::write(&machine_file, file.to_string()).unwrap();
    let nobody = "http://127.0.0.1:9";
    for _ in 0..2 {
        identify::run(nobody, root, ByHand::Allowed).await.unwrap();
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        let k3s = read("etc/rancher/k3s/config.yaml.d/50-fabrik.yaml");
        let k3s: Value = serde_saphyr::from_str(&k3s).unwrap();
        assert_eq!(k3s["server"], bundle().k3s_server_urls[0].as_str());
        assert_eq!(k3s["node-ip"], "192.168.1.21");
        let provider_id = format!("provider-id=fabrik://{}", 1_u64 << 53);
        assert_eq!(k3s["kubelet-arg+"], json!([provider_id]));
        assert!(k3s.get("cluster-init").is_none());
        let token = read("var/lib/fabrik-identity/token");
        assert_eq!(token.as_bytes(), bundle().k3s_token.expose());
        assert!(root.join("var/lib/fabrik-identity/founding.json").exists());
        assert!(!machine_file.exists(), "its nonce is not left there");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_desk_writes_down_who_asked_before_it_answers_and_answers_nobody_else() {
    let plane = Box::pin(ControlPlane::start()).await;
    let desk = plane.desk();
    let own = Identity::generate();

    // Before the server is there, and from another address than its own.
    let claim = plane.claim(&own, "10.0.1.1");
    let refused = desk.judge(claim.clone()).await;
    assert_eq!(
        refused,
        Reply::Refused(format!("at Hetzner there is no server {NODE} for it"))
    );
    plane.make_server().await;
    // Has the address of a server that left.
    plane.make_worker().await;
    let elsewhere = plane.claim(&own, "10.0.1.77");
    let refused = desk.judge(elsewhere).await;
    assert_eq!(
        refused,
        Reply::Refused(format!("10.0.1.77 is no address of {NODE}"))
    );
    assert!(
        plane.ledger().await.nonces[&INTENT.parse().unwrap()]
            .used
            .is_none()
    );

    // A worker's token is no nonce.
    let tokens = Tokens::new(
        plane.clients.leader_once.clone(),
        &plane.config.kubernetes.ca_file,
    );
    let token = tokens
        .unwrap()
        .ensure(&"wrk234".parse().unwrap(), Timestamp::now())
        .await;
    let forged = Claim {
        hash: fabrik_core::join::hash(token.unwrap().expose()),
        ..claim.clone()
    };
    let refused = desk.judge(forged).await;
    assert!(
        matches!(&refused, Reply::Refused(why) if why.contains("no server that is on its way"))
    );

    // What can't be answered uses no nonce.
    let broken = plane.desk_without_a_token();
    assert!(matches!(
        broken.judge(claim.clone()).await,
        Reply::Trouble(_)
    ));
    assert!(
        plane.ledger().await.nonces[&INTENT.parse().unwrap()]
            .used
            .is_none()
    );

    // The leader crashes when it has written, before it answers; the next one answers the same machine, as often as it asks.
    let lost = desk.judge(claim.clone()).await;
    assert!(matches!(lost, Reply::Answer(_)), "{lost:?}");
    let used = plane.ledger().await.nonces[&INTENT.parse().unwrap()]
        .used
        .clone();
    assert_eq!(used.unwrap().recipient, claim.recipient);
    let next = plane.desk();
    for _ in 0..2 {
        let Reply::Answer(sealed) = next.judge(claim.clone()).await else {
            panic!("the machine itself is refused")
        };
        let given = age::decrypt(&own, &sealed).unwrap();
        let given: Value = serde_json::from_slice(&given).unwrap();
        assert_eq!(given["k3s-token"], "K10ca::server:planted-k3s");
        assert_eq!(
            given["k3s-server-urls"],
            json!(["https://10.0.1.200:6443", "https://api.example.com"])
        );
        assert_eq!(given["cluster"]["id"], plane.config.cluster.id.as_str());
    }
    let nonce = plane.nonce();
    let ledger = plane
        .world
        .bed
        .kubectl(&["get", "fabrikledgers", "--output=json"]);
    assert!(
        !ledger.unwrap().contains(&nonce),
        "the ledger has its hash alone"
    );

    // A second claimant: an alarm, told where people look, and the end of that server.
    let alarm = plane.hear_of("JoinAlarm").await;
    let second = plane.claim(&Identity::generate(), "10.0.1.1");
    assert!(matches!(next.judge(second.clone()).await, Reply::Alarm(_)));
    let told = tokio::time::timeout(Duration::from_secs(30), alarm)
        .await
        .unwrap();
    assert!(told.contains(NODE) && told.contains("10.0.1.1"), "{told}");
    let ledger = plane.ledger().await;
    assert!(ledger.intents[&INTENT.parse().unwrap()].cancelled.is_some());
    for late in [claim, second] {
        assert!(matches!(next.judge(late).await, Reply::Refused(_)));
    }
    plane.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_leads_judges_who_comes_to_its_door() {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let bed = Bed::start(Options {
        fabrik: true,
        ..Options::default()
    });
    let bed = bed.await.unwrap();
    bed.default_repo(0).unwrap();
    let file = bed.founding().unwrap().config;
    let mut config = Config::load(&file).unwrap();
    let listen = SocketAddr::from(([127, bed.number(), 0, 1], 9643));
    let certificates = bed.control_plane(0).dir();
    config.join = Some(Join {
        listen,
        certificate_file: certificates.join("apiserver.crt"),
        key_file: certificates.join("apiserver.key"),
        k3s_token_file: "/none".into(),
    });
    fs::write(&file, config.render().unwrap()).unwrap();
    bed.fabrik(0).stop();
    bed.fabrik(0).start().unwrap();

    let own = Identity::generate();
    let (url, hash) = (format!("https://{listen}"), bed.ca_hash());
    let request = request(&own);
    let asked = bed.wait_until("somebody judges", Duration::from_secs(60), async || {
        // Before it has read the token of Hetzner, it does not judge.
        match ask_one(&url, known(&hash, None), &request, &own).await {
            Err(AskError::Refused { status: 403, words }) => Ok(Some(words)),
            Err(AskError::Unreachable { .. } | AskError::Refused { status: 503, .. }) => Ok(None),
            other => panic!("{other:?}"),
        }
    });
    let words = asked.await.unwrap();
    assert!(
        words.contains("no server that is on its way has this nonce"),
        "{words}"
    );
    assert!(!bed.fabrik(0).log().contains(NONCE));
    bed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_ask_two_leaders_at_once_one_is_answered() {
    let plane = Box::pin(ControlPlane::start()).await;
    plane.make_server().await;
    let (one, two) = (plane.desk(), plane.desk());
    let first = plane.claim(&Identity::generate(), "10.0.1.1");
    let second = plane.claim(&Identity::generate(), "10.0.1.1");
    let replies = tokio::join!(one.judge(first), two.judge(second));
    let replies = [replies.0, replies.1];
    let answers = replies
        .iter()
        .filter(|r| matches!(r, Reply::Answer(_)))
        .count();
    let alarms = replies
        .iter()
        .filter(|r| matches!(r, Reply::Alarm(_)))
        .count();
    assert_eq!((answers, alarms), (1, 1), "{replies:?}");
    let ledger = plane.ledger().await;
    assert!(ledger.intents[&INTENT.parse().unwrap()].cancelled.is_some());
    plane.end().await;
}
