//! What the machine behind a server sees: metadata, the power button, the events of its life.

mod bench;

use reqwest::Method;
use serde_json::{Value, json};

use bench::{Bench, order};

#[tokio::test]
async fn a_server_reads_its_user_data_and_metadata() {
    let bench = Bench::new().await;
    let subnet = json!({"type": "cloud", "network_zone": "eu-central", "ip_range": "10.0.1.0/24"});
    let network = json!({"name": "net", "ip_range": "10.0.0.0/16", "subnets": [subnet]});
    let network = bench.post("/v1/networks", network).await["network"]["id"].clone();
    let mut wanted = order("machine");
    wanted["user_data"] = "{\"fabrik\":1}".into();
    wanted["networks"] = json!([network]);
    wanted["location"] = "fsn1".into();
    let created = bench.post("/v1/servers", wanted).await;
    assert!(
        !created.to_string().contains("fabrik"),
        "the API does not show user data"
    );
    let (_, id) = bench.event("running", 0).await;
    let read = async |path: &str| {
        let path = format!("/_emulator/servers/{id}/hetzner/v1/{path}");
        bench
            .call(Method::GET, &path, Value::Null)
            .await
            .text()
            .await
            .unwrap()
    };
    assert_eq!(read("userdata").await, "{\"fabrik\":1}");
    assert_eq!(read("metadata/instance-id").await, id.to_string());
    assert_eq!(read("metadata/hostname").await, "machine");
    assert_eq!(read("metadata/public-ipv4").await, "127.20.1.1");
    assert_eq!(read("metadata/local-ipv4").await, "10.0.1.1");
    assert_eq!(read("metadata/region").await, "eu-central");
    assert_eq!(read("metadata/availability-zone").await, "fsn1-dc1");
    assert!(
        read("metadata/private-networks")
            .await
            .contains("subnet: 10.0.1.0/24")
    );
    assert!(
        read("metadata")
            .await
            .contains(&format!("instance-id: {id}\n"))
    );
    let state = bench.get("/_emulator/state").await;
    assert_eq!(state["servers"][0]["user_data"], "{\"fabrik\":1}");
    assert_eq!(state["networks"][0]["servers"], json!([id]));
}

#[tokio::test]
async fn a_machine_hears_the_power_button_and_halts_by_itself() {
    let bench = Bench::new().await;
    let (seq, id) = bench.running_server().await;
    // Long enough that only the machine's own word can end it.
    let slow = json!({"action_duration_ms": 3_600_000});
    bench.call(Method::PUT, "/_emulator/settings", slow).await;
    bench
        .post(&format!("/v1/servers/{id}/actions/shutdown"), json!({}))
        .await;
    let (seq, _) = bench.event("shutdown_requested", seq).await;
    bench
        .post(&format!("/_emulator/servers/{id}/halted"), Value::Null)
        .await;
    bench.event("off", seq).await;
    let server = bench.get(&format!("/v1/servers/{id}")).await;
    assert_eq!(server["server"]["status"], "off");
}

#[tokio::test]
async fn a_hung_machine_does_not_hear_the_power_button() {
    let bench = Bench::new().await;
    let (seq, id) = bench.running_server().await;
    let hung = format!("/_emulator/servers/{id}/hung");
    bench.call(Method::PUT, &hung, json!({"hung": true})).await;
    let shutdown = bench
        .post(&format!("/v1/servers/{id}/actions/shutdown"), json!({}))
        .await;
    let action = &shutdown["action"]["id"];
    bench
        .call(
            Method::POST,
            &format!("/_emulator/actions/{action}/finish"),
            Value::Null,
        )
        .await;
    let server = bench.get(&format!("/v1/servers/{id}")).await;
    assert_eq!(server["server"]["status"], "running");
    bench
        .post(&format!("/v1/servers/{id}/actions/poweroff"), json!({}))
        .await;
    bench.event("off", seq).await;
}

#[tokio::test]
async fn events_tell_a_servers_life_in_order() {
    let bench = Bench::new().await;
    let (mut seq, id) = bench.running_server().await;
    for (action, kind) in [
        ("reboot", "rebooted"),
        ("reset", "reset"),
        ("poweroff", "off"),
        ("poweron", "running"),
    ] {
        bench
            .post(&format!("/v1/servers/{id}/actions/{action}"), json!({}))
            .await;
        seq = bench.event(kind, seq).await.0;
    }
    bench
        .call(Method::DELETE, &format!("/v1/servers/{id}"), Value::Null)
        .await;
    bench.event("deleted", seq).await;
    let events = bench.get("/_emulator/events").await;
    let kinds: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "created", "running", "rebooted", "reset", "off", "running", "deleted"
        ]
    );
}

#[tokio::test]
async fn events_tell_what_becomes_of_a_disk() {
    let bench = Bench::new().await;
    let (seq, server) = bench.running_server().await;
    let path = format!("/v1/servers/{server}/actions/create_image");
    let made = bench.post(&path, json!({"type": "snapshot"})).await;
    let image = made["image"]["id"].as_u64().unwrap();
    let action = &made["action"]["id"];
    bench.event("snapshot", seq).await;
    // Whether it was over already is all the same.
    let finish = format!("/_emulator/actions/{action}/finish");
    bench.call(Method::POST, &finish, Value::Null).await;
    let mut wanted = order("copy");
    wanted["image"] = image.into();
    bench.post("/v1/servers", wanted).await;
    bench.event("created", seq).await;
    let path = format!("/v1/images/{image}");
    bench.call(Method::DELETE, &path, Value::Null).await;
    bench.event("image_deleted", seq).await;
    let events = bench.get("/_emulator/events").await;
    let events = events["events"].as_array().unwrap().iter();
    let of_images: Vec<_> = events
        .filter(|event| event["image"] == image)
        .map(|event| (&event["kind"], &event["name"]))
        .collect();
    assert_eq!(
        json!(of_images),
        json!([
            ["snapshot", "machine"],
            ["created", "copy"],
            ["image_deleted", "machine"]
        ])
    );
}

#[tokio::test]
async fn a_reset_empties_the_project_and_announces_it() {
    let bench = Bench::new().await;
    let (seq, id) = bench.running_server().await;
    bench
        .order_fault(json!({"path": "never", "kind": "reply_lost"}))
        .await;
    bench.post("/_emulator/reset", Value::Null).await;
    assert_eq!(bench.event("deleted", seq).await.1, id);
    let state = bench.get("/_emulator/state").await;
    for kind in [
        "servers",
        "networks",
        "firewalls",
        "ssh_keys",
        "placement_groups",
        "images",
        "primary_ips",
        "floating_ips",
        "load_balancers",
        "volumes",
        "actions",
    ] {
        assert_eq!(state[kind], json!([]), "{kind}");
    }
    assert_eq!(bench.get("/_emulator/faults").await["faults"], json!([]));
    bench.post("/v1/servers", order("machine")).await;
    assert_ne!(bench.event("running", seq).await.1, id);
}

#[tokio::test]
async fn a_stopped_emulator_answers_nobody() {
    let bench = Bench::new().await;
    bench.get("/v1/servers").await;
    let url = bench.emulator.endpoint();
    bench.emulator.shutdown().await;
    assert!(
        bench
            .client
            .get(format!("{url}/servers"))
            .send()
            .await
            .is_err()
    );
}
