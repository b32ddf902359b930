//! The Hetzner room against the emulator, watched from the emulator's side.

mod hetzner {
    pub mod answers;
    mod destroy;
    pub mod effects;
    mod seeding;
    pub mod world;
}

use std::collections::{BTreeMap, BTreeSet};

use fabrik::hetzner::{HetznerError, Outcome, control_plane, find_left};
use fabrik_core::effect::{Effect, ServerRef};
use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::ledger::Change;
use fabrik_core::observed::{Hetzner, Power};
use jiff::Timestamp;
use serde_json::json;

use hetzner::world::{Bed, INTENT, KEY, TOKEN, intent, name, remember};

#[tokio::test]
async fn a_retired_type_gives_way_to_the_next_and_a_lost_reply_is_found_by_its_intent() {
    let bed = Bed::start().await;
    let new = bed.new_server().await;
    // The first choice is refused, the second one's reply is lost.
    bed.fault(json!({"method": "POST", "path": "^/v1/servers$", "kind": "reply_lost", "skip": 1}))
        .await;
    let lost = bed.execute(&new).await.unwrap_err();
    assert!(matches!(lost, HetznerError::Unreachable { .. }), "{lost}");
    assert_eq!(bed.faults_hit().await, ["reply_lost"]);

    let seen = bed.observe().await.unwrap();
    assert_eq!(seen.servers.len(), 1);
    let server = seen.servers.values().next().unwrap();
    assert_eq!(server.intent, Some(intent()));
    assert_eq!(
        (server.server_type.as_str(), server.location.as_str()),
        ("cx33", "nbg1")
    );
    assert_eq!(bed.execute(&new).await, Ok(Outcome::Found(server.id.0)));

    let meant = ServerRef {
        id: server.id,
        name: name(),
        intent: intent(),
    };
    let other = ServerRef {
        intent: "aaaaaa".parse().unwrap(),
        ..meant.clone()
    };
    for touch in [
        Effect::PowerOff {
            server: other.clone(),
        },
        Effect::Reset {
            server: other.clone(),
        },
        Effect::DeleteServer { server: other },
    ] {
        let error = bed.execute(&touch).await.unwrap_err();
        assert!(matches!(error, HetznerError::NotOurs { .. }), "{error}");
    }
    bed.execute(&Effect::Reset {
        server: meant.clone(),
    })
    .await
    .unwrap();
    assert_eq!(
        bed.observe().await.unwrap().servers[&meant.id].power,
        Power::Running
    );
    bed.execute(&Effect::PowerOff {
        server: meant.clone(),
    })
    .await
    .unwrap();
    assert_eq!(
        bed.observe().await.unwrap().servers[&meant.id].power,
        Power::Off
    );
    let delete = Effect::DeleteServer { server: meant };
    assert_eq!(bed.execute(&delete).await, Ok(Outcome::Done));
    assert_eq!(bed.execute(&delete).await, Ok(Outcome::AlreadyGone));
}

#[tokio::test]
async fn a_server_that_a_list_lacks_is_gone_only_when_its_id_is_not_found() {
    let mut bed = Bed::start().await;
    let new = bed.new_server().await;
    let Ok(Outcome::Created(id)) = bed.execute(&new).await else {
        panic!("not created")
    };
    remember(&mut bed.ledger, INTENT, id);
    remember(&mut bed.ledger, "bbbbbb", 999_999);
    bed.fault(
        json!({"method": "GET", "path": "^/v1/servers$", "kind": "incomplete_list", "drop": 1}),
    )
    .await;
    let seen = bed.observe().await.unwrap();
    assert_eq!(bed.faults_hit().await, ["incomplete_list"]);
    assert!(seen.servers.contains_key(&ServerId(id)));
    assert_eq!(seen.gone, [ServerId(999_999)].into());

    for (i, intent) in ["cccccc", "dddddd", "eeeeee"].into_iter().enumerate() {
        remember(&mut bed.ledger, intent, 1_000_000 + i as u64);
    }
    let lost = [1_000_000, 1_000_001, 1_000_002, 999_999].map(ServerId);
    let seen = bed.observe().await.unwrap();
    assert_eq!(
        (seen.missing, seen.gone),
        (lost.into(), [].into()),
        "too many at once"
    );
    bed.confirmed_gone = [ServerId(999_999)].into();
    let seen = bed.observe().await.unwrap();
    assert_eq!((seen.missing, seen.gone), ([].into(), lost.into()));
}

/// A Node may say anything: what is not gone is left out, and one request is what each of a few costs.
#[tokio::test]
async fn a_server_that_a_node_alone_names_is_gone_only_when_its_id_is_not_found() {
    let bed = Bed::start().await;
    let new = bed.new_server().await;
    let Ok(Outcome::Created(ours)) = bed.execute(&new).await else {
        panic!("not created")
    };
    let named = |ids: &[u64]| ids.iter().copied().map(ServerId).collect::<BTreeSet<_>>();
    let before = bed.observe().await.unwrap();
    let asked = async |ids: &[u64], mut seen: Hetzner| {
        find_left(&bed.client, named(ids), &mut seen).await;
        seen.gone
    };
    let gone = asked(&[ours, 999_999], before.clone()).await;
    assert_eq!(gone, named(&[999_999]));

    bed.fault(
        json!({"method": "GET", "path": "^/v1/servers/999998$", "kind": "error", "status": 422, "times": 1,
            "code": "invalid_input", "message": "no such id"}),
    )
    .await;
    let gone = asked(&[999_998, 999_999], before).await;
    assert_eq!(gone, named(&[999_999]), "the look goes on");
}

#[tokio::test]
async fn where_our_network_is_not_no_404_is_believed() {
    let mut bed = Bed::start().await;
    remember(&mut bed.ledger, INTENT, 999_999);
    let cancel = Change::Cancel {
        id: INTENT.parse().unwrap(),
    };
    bed.ledger.apply(&cancel, Timestamp::UNIX_EPOCH);
    let error = bed.observe().await.unwrap_err();
    assert!(
        matches!(error, HetznerError::IncompleteList { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("fabrik.dev/confirm-gone=999999"),
        "{error}"
    );
    bed.confirmed_gone = [ServerId(999_999)].into();
    let seen = bed.observe().await.unwrap();
    assert_eq!(seen.gone, [ServerId(999_999)].into());
}

#[tokio::test]
async fn what_bears_another_label_is_named_and_left_alone_and_its_key_is_used() {
    let bed = Bed::start().await;
    let foreign = json!({"name": "demo", "ip_range": "10.0.0.0/16"});
    bed.post("networks", foreign).await;
    let key = json!({"name": "hers", "public_key": format!("{KEY} elsewhere")});
    bed.post("ssh_keys", key).await;

    let seen = bed.observe().await.unwrap();
    assert_eq!(seen.network, None);
    assert!(
        seen.taken["demo"].contains("network `demo`"),
        "{:?}",
        seen.taken
    );
    let alice = &seen.ssh_keys["alice"];
    assert_eq!((alice.ours, alice.public_key.as_str()), (false, KEY));
}

#[tokio::test]
async fn a_read_outlives_a_passing_refusal_and_no_error_shows_the_token() {
    let bed = Bed::start().await;
    let refuse = |times: u32| {
        json!({"method": "GET", "path": "^/v1/networks$", "kind": "error", "status": 429, "times": times,
            "code": "rate_limit_exceeded", "message": format!("limit of {TOKEN} reached")})
    };
    bed.fault(refuse(1)).await;
    bed.observe().await.unwrap();
    assert_eq!(bed.faults_hit().await, ["error"]);
    bed.fault(refuse(10)).await;
    let limited = bed.observe().await.unwrap_err();
    assert_eq!(
        bed.faults_hit().await,
        ["error"; 5],
        "a read is tried four times"
    );
    assert!(
        matches!(limited, HetznerError::RateLimited { .. }),
        "{limited}"
    );

    bed.fault(
        json!({"method": "POST", "path": "^/v1/placement_groups$", "kind": "error", "status": 422,
        "code": "service_error", "message": format!("Bearer {TOKEN} is not liked")}),
    )
    .await;
    let effect = Effect::CreatePlacementGroup {
        name: "demo-workers-1".to_owned(),
        pool: "workers".parse().unwrap(),
    };
    let refused = bed.execute(&effect).await.unwrap_err();
    assert!(matches!(refused, HetznerError::Refused { .. }), "{refused}");
    let shown = format!(
        "{limited} {limited:?} {refused} {refused:?} {:?}",
        bed.client
    );
    assert!(!shown.contains(TOKEN), "{shown}");
}

#[tokio::test]
async fn a_server_is_gone_only_by_a_token_that_knows_the_one_that_asks() {
    let bed = Bed::start().await;
    let server = json!({"name": "server-1", "server_type": "cx23", "image": "debian-12", "location": "fsn1",
        "labels": {"fabrik.dev/cluster": bed.cluster.as_str(), "fabrik.dev/role": "server"}});
    let created = bed.post("servers", server).await;
    let unlabelled = json!({"name": "server-3", "server_type": "cx23", "image": "debian-12", "location": "fsn1"});
    let unlabelled = bed.post("servers", unlabelled).await;
    let id = |created: &serde_json::Value| ServerId(created["server"]["id"].as_u64().unwrap());
    let node = |name: &str| name.parse::<NodeName>().unwrap();
    let known = BTreeMap::from([
        (node("server-2"), ServerId(999)),
        (node("server-3"), id(&unlabelled)),
    ]);
    let asked = async |this: &str| {
        let this = node(this);
        control_plane(&bed.client, &bed.cluster, &this, &known).await
    };

    let seen = asked("server-1").await.unwrap().unwrap();
    let there: Vec<_> = seen.there.iter().map(|m| (m.id, m.power)).collect();
    let runs = |created| (id(created), Power::Running);
    assert_eq!(there, [runs(&created), runs(&unlabelled)]);
    assert!(seen.there.iter().all(|m| !m.addresses.is_empty()));
    assert_eq!(seen.gone, BTreeSet::from([ServerId(999)]));
    // By a token of another project all would be gone, and this server with them.
    assert_eq!(asked("server-9").await.unwrap(), None);
}
