//! The control API and what HTTP adds to the API, seen from outside.

mod bench;

use std::time::{Duration, Instant};

use hetzner_emulator::Options;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use bench::{Bench, TOKEN, order};

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
