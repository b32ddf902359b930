//! The control API and what HTTP adds to the API, seen from outside.

use std::time::{Duration, Instant};

use hetzner_emulator::{Emulator, Options};
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-that-must-not-be-shown";

struct Bench {
    emulator: Emulator,
    client: Client,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Options {
            action_duration: Duration::from_millis(20),
            ..Options::default()
        })
        .await
    }

    async fn with(options: Options) -> Self {
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let emulator = Emulator::start(options).await.unwrap();
        Self {
            emulator,
            client: Client::new(),
        }
    }

    async fn try_call(&self, method: Method, path: &str, body: Value) -> reqwest::Result<Response> {
        let request = self
            .client
            .request(method, format!("{}{path}", self.emulator.url()));
        let request = request.bearer_auth(TOKEN);
        if body.is_null() {
            request.send().await
        } else {
            request.json(&body).send().await
        }
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> Response {
        self.try_call(method, path, body).await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.call(Method::GET, path, Value::Null).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.json().await.unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let response = self.call(Method::POST, path, body).await;
        assert!(
            response.status().is_success(),
            "{path}: {}",
            response.text().await.unwrap()
        );
        response.json().await.unwrap_or_default()
    }

    async fn order_fault(&self, fault: Value) {
        self.post("/_emulator/faults", fault).await;
    }

    async fn server_names(&self) -> Vec<String> {
        let list = self.get("/v1/servers").await;
        let servers = list["servers"].as_array().unwrap().iter();
        servers
            .map(|server| server["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits for the next event of this kind after `since`; its number and its server.
    async fn event(&self, kind: &str, mut since: u64) -> (u64, u64) {
        loop {
            let path = format!("/_emulator/events?since={since}&wait_ms=10000");
            let found = self.get(&path).await;
            let events = found["events"].as_array().unwrap();
            assert!(!events.is_empty(), "no {kind} event after {since}");
            for event in events {
                since = event["seq"].as_u64().unwrap();
                if event["kind"] == kind {
                    return (since, event["server"].as_u64().unwrap());
                }
            }
        }
    }

    async fn running_server(&self) -> (u64, u64) {
        self.post("/v1/servers", order("machine")).await;
        self.event("running", 0).await
    }
}

fn order(name: &str) -> Value {
    json!({"name": name, "server_type": "cx23", "image": "debian-12"})
}

#[tokio::test]
async fn a_lost_reply_leaves_the_work_done() {
    let bench = Bench::new().await;
    bench
        .order_fault(json!({"method": "POST", "path": "^/v1/servers$", "kind": "reply_lost"}))
        .await;
    let error = bench
        .try_call(Method::POST, "/v1/servers", order("lost"))
        .await
        .unwrap_err();
    assert!(error.is_request(), "{error:?}");
    assert_eq!(bench.server_names().await, ["lost"]);
    assert_eq!(bench.get("/_emulator/faults").await, json!({"faults": []}));
    bench.post("/v1/servers", order("answered")).await;
}

#[tokio::test]
async fn an_ordered_error_prevents_the_work() {
    let bench = Bench::new().await;
    let fault = json!({"method": "POST", "path": "^/v1/servers$", "kind": "error",
        "status": 500, "code": "server_error", "message": "oops", "skip": 1});
    bench.order_fault(fault).await;
    bench.post("/v1/servers", order("first")).await;
    let response = bench
        .call(Method::POST, "/v1/servers", order("second"))
        .await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        body,
        json!({"error": {"code": "server_error", "message": "oops", "details": null}})
    );
    assert_eq!(bench.server_names().await, ["first"]);
}

#[tokio::test]
async fn a_delayed_answer_comes_late_although_the_work_is_done() {
    let bench = Bench::new().await;
    let delay = Duration::from_millis(300);
    bench
        .order_fault(json!({"path": "^/v1/servers$", "kind": "delay", "delay_ms": 300}))
        .await;
    let begun = Instant::now();
    bench.post("/v1/servers", order("late")).await;
    assert!(begun.elapsed() >= delay);
    assert_eq!(bench.server_names().await, ["late"]);
}

#[tokio::test]
async fn an_incomplete_list_looks_complete() {
    let bench = Bench::new().await;
    for name in ["a", "b", "c"] {
        bench.post("/v1/servers", order(name)).await;
    }
    let fault = json!({"method": "GET", "path": "^/v1/servers$", "kind": "incomplete_list",
        "drop": 2});
    bench.order_fault(fault).await;
    let list = bench.get("/v1/servers").await;
    assert_eq!(list["servers"].as_array().unwrap().len(), 1);
    assert_eq!(list["meta"]["pagination"]["total_entries"], 1);
    assert_eq!(bench.server_names().await.len(), 3);
}

#[tokio::test]
async fn an_action_that_is_bound_to_fail_changes_nothing() {
    let bench = Bench::new().await;
    let (seq, id) = bench.running_server().await;
    bench
        .order_fault(json!({"path": "/actions/poweroff$", "kind": "action_fails"}))
        .await;
    let poweroff = format!("/v1/servers/{id}/actions/poweroff");
    let action = bench.post(&poweroff, json!({})).await["action"]["id"].clone();
    let finish = format!("/_emulator/actions/{action}/finish");
    // By hand or by its time: it has ended after this.
    bench.call(Method::POST, &finish, Value::Null).await;
    let action = bench.get(&format!("/v1/actions/{action}")).await["action"].clone();
    assert_eq!(action["status"], "error");
    assert_eq!(action["error"]["code"], "action_failed");
    let server = bench.get(&format!("/v1/servers/{id}")).await;
    assert_eq!(server["server"]["status"], "running");
    bench.post(&poweroff, json!({})).await;
    assert_eq!(bench.event("off", seq).await.1, id);
}

#[tokio::test]
async fn a_wrong_fault_is_refused() {
    let bench = Bench::new().await;
    for fault in [
        json!({"path": "(", "kind": "reply_lost"}),
        json!({"path": "x", "kind": "reply_lost", "times": 0}),
        json!({"path": "x", "kind": "earthquake"}),
        json!({"path": "x", "kind": "delay"}),
    ] {
        let response = bench
            .call(Method::POST, "/_emulator/faults", fault.clone())
            .await;
        assert!(response.status().is_client_error(), "{fault}");
    }
}

#[tokio::test]
async fn the_journal_tells_tokens_apart_and_names_none() {
    let bench = Bench::new().await;
    bench.get("/v1/servers?name=x").await;
    bench.post("/v1/servers", order("a")).await;
    let other = bench
        .client
        .get(format!("{}/v1/servers", bench.emulator.url()));
    other.bearer_auth("another").send().await.unwrap();
    let journal = bench.get("/_emulator/requests").await;
    assert!(!journal.to_string().contains(TOKEN));
    let shown: Vec<_> = journal["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            json!([
                r["seq"],
                r["method"],
                r["path"],
                r["status"],
                r["token"],
                r["body"]
            ])
        })
        .collect();
    assert_eq!(
        shown,
        [
            json!([1, "GET", "/v1/servers?name=x", 200, 0, null]),
            json!([2, "POST", "/v1/servers", 201, 0, order("a")]),
            json!([3, "GET", "/v1/servers", 200, 1, null]),
        ]
    );
    assert_eq!(
        bench.get("/_emulator/requests?since=3").await["requests"],
        json!([])
    );
}

#[tokio::test]
async fn only_the_tokens_of_the_settings_are_accepted() {
    let options = Options {
        tokens: vec![TOKEN.to_owned()],
        ..Options::default()
    };
    let bench = Bench::with(options).await;
    bench.get("/v1/servers").await;
    bench
        .call(
            Method::PUT,
            "/_emulator/settings",
            json!({"tokens": ["rotated"]}),
        )
        .await;
    let response = bench.call(Method::GET, "/v1/servers", Value::Null).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    bench
        .call(Method::PUT, "/_emulator/settings", json!({"tokens": null}))
        .await;
    bench.get("/v1/servers").await;
    let nobody = bench
        .client
        .get(format!("{}/v1/servers", bench.emulator.url()));
    assert_eq!(
        nobody.send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn headers_say_what_is_left_of_the_budget_and_where_the_next_page_is() {
    let bench = Bench::new().await;
    let change = json!({"rate_limit": {"limit": 10, "refill_per_second": 0}});
    bench.call(Method::PUT, "/_emulator/settings", change).await;
    let response = bench
        .call(Method::GET, "/v1/locations?per_page=2&page=2", Value::Null)
        .await;
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (header("ratelimit-limit"), header("ratelimit-remaining")),
        ("10".into(), "9".into())
    );
    assert!(header("ratelimit-reset").parse::<i64>().is_ok());
    assert!(
        header("x-correlation-id")
            .chars()
            .all(|c| c.is_ascii_hexdigit())
    );
    let link = |rel, page| {
        let path = "/v1/locations?per_page=2&page=";
        format!("<{}{path}{page}>; rel=\"{rel}\"", bench.emulator.url())
    };
    assert_eq!(
        header("link"),
        [link("prev", 1), link("next", 3), link("last", 3)].join(", ")
    );
}

#[tokio::test]
async fn errors_of_the_protocol_have_the_shape_of_the_api() {
    let bench = Bench::new().await;
    let url = format!("{}/v1/servers", bench.emulator.url());
    let broken = bench
        .client
        .post(url)
        .bearer_auth(TOKEN)
        .body("{")
        .send()
        .await
        .unwrap();
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    assert_eq!(broken.headers()["content-type"], "application/json");
    assert_eq!(
        broken.json::<Value>().await.unwrap()["error"]["code"],
        "json_error"
    );
    for (method, path, status, code) in [
        (Method::GET, "/v1/nonsense", 404, "not_found"),
        (Method::GET, "/elsewhere", 404, "not_found"),
        (Method::PUT, "/v1/servers", 405, "method_not_allowed"),
        (
            Method::GET,
            "/v1/datacenters",
            410,
            "deprecated_api_endpoint",
        ),
        (Method::GET, "/v1/servers/none", 422, "invalid_input"),
    ] {
        let response = bench.call(method, path, Value::Null).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(
            response.json::<Value>().await.unwrap()["error"]["code"],
            code,
            "{path}"
        );
    }
}

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
