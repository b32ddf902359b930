//! What Hetzner may answer: many pages, and words that we do not know.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::Path;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fabrik::hetzner::{Client, HetznerError, Token, observe};
use fabrik_core::ledger::Ledger;
use fabrik_core::observed::{Hetzner, Power, Role};
use serde_json::{Value, json};

use super::world::{Bed, KEY, TOKEN, spec};

#[tokio::test]
async fn all_pages_of_a_list_are_read() {
    let bed = Bed::start().await;
    for i in 0..100_u8 {
        let body = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20".as_slice(), &[i; 32]].concat();
        let key = format!("ssh-ed25519 {}", STANDARD.encode(body));
        bed.post(
            "ssh_keys",
            json!({"name": format!("key-{i}"), "public_key": key}),
        )
        .await;
    }
    bed.post("ssh_keys", json!({"name": "last", "public_key": KEY}))
        .await;
    let seen = bed.observe().await.unwrap();
    assert_eq!(seen.ssh_keys["alice"].public_key, KEY);
    assert_eq!(bed.requests("GET", "/v1/ssh_keys").await.len(), 3);
}

#[tokio::test]
async fn what_is_unknown_or_null_is_passed_over() {
    let server = json!({"id": 7, "name": null, "status": "hibernating", "server_type": null,
        "location": {"name": null, "planet": "mars"}, "created": "2026-11-21T12:00:00+00:00",
        "labels": {"fabrik.dev/cluster": "abcdefgh01234567", "fabrik.dev/role": "observer",
            "fabrik.dev/pool": "Not A Pool", "fabrik.dev/intent": ""}, "new": [{}]});
    let firewall = json!({"id": 8, "name": "demo", "labels": null, "rules": null});
    let seen = observed(json!({"servers": [server], "firewalls": [firewall]})).await;
    let seen = seen.unwrap();
    let server = seen.servers.values().next().unwrap();
    assert_eq!(
        (server.power, server.role),
        (Power::Changing, Role::Unknown)
    );
    assert_eq!((&server.pool, &server.intent), (&None, &None));
    assert_eq!((server.name.as_str(), server.location.as_str()), ("", ""));
    assert!(seen.taken["demo"].contains("without a fabrik label"));
}

#[tokio::test]
async fn a_list_without_the_list_is_not_an_empty_list() {
    for servers in [Value::Null, json!({}), json!([{"id": null}]), json!([7])] {
        let error = observed(json!({"servers": servers})).await.unwrap_err();
        assert!(matches!(error, HetznerError::Malformed { .. }), "{error}");
    }
}

/// What is made of these lists; the others are empty.
async fn observed(lists: Value) -> Result<Hetzner, HetznerError> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let answer = async move |Path(list): Path<String>| {
        let entries = lists.get(&list).cloned().unwrap_or_else(|| json!([]));
        let total = entries.as_array().map(Vec::len);
        let pagination = json!({"page": 1, "next_page": null, "total_entries": total});
        Json(json!({list: entries, "meta": {"pagination": pagination, "more": null}}))
    };
    let router = axum::Router::new().route("/v1/{list}", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, router).await });
    let client = Client::new(&endpoint, Token::new(TOKEN)).unwrap();
    let cluster: fabrik_core::id::ClusterId = "abcdefgh01234567".parse().unwrap();
    let ledger = Ledger::new(cluster.clone());
    observe(&client, &cluster, &spec(), &ledger, &BTreeSet::new()).await
}
