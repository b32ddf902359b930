use fabrik_core::apply::Allowance;
use fabrik_core::diagnostic::Place;
use fabrik_core::manifest::Object;
use fabrik_core::spec::Limits;
use http::{Request, Response, StatusCode};
use kube::client::Body;
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use super::super::failure::Failure;
use super::*;

/// An API server that has nothing, or does not even answer so.
fn client(status: StatusCode) -> Client {
    let service = tower::service_fn(move |_: Request<Body>| async move {
        let reason = status.canonical_reason().unwrap().replace(' ', "");
        let body = json!({"kind": "Status", "code": status.as_u16(), "reason": reason});
        let mut response = Response::new(Body::from(body.to_string().into_bytes()));
        *response.status_mut() = status;
        Ok::<_, std::convert::Infallible>(response)
    });
    Client::new(service, "default")
}

fn wanted(names: &[&str]) -> Arc<Wanted> {
    let object = |name: &&str| Object {
        key: format!("ConfigMap/web/{name}").try_into().unwrap(),
        api_version: "v1".into(),
        value: json!({}),
        place: Place::file("manifests/web/a.yaml"),
        digest: "1".into(),
        encrypted: false,
    };
    let objects = names.iter().map(object).collect();
    Arc::new(Wanted {
        commit: "1".repeat(40).parse().unwrap(),
        units: [("web".parse().unwrap(), objects)].into(),
        limits: Limits::default(),
        paused: None,
    })
}

fn run(status: StatusCode, wanted: &Arc<Wanted>) -> Run {
    let client = client(status);
    let (watches, _) = Watches::start(client.clone());
    let grant: PruneGrant = Arc::new(|_| Box::pin(async { Ok(Allowance::default()) }));
    let engine = Engine::new(client, grant);
    Run::new(engine, Arc::clone(wanted), watches, Arc::new(|| Ok(())))
}

#[tokio::test]
async fn a_question_that_a_new_commit_cuts_short_is_asked_again() {
    let wanted = wanted(&["a", "b", "c"]);
    let mut run = run(StatusCode::NOT_FOUND, &wanted);
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"));
    let kind = Kind {
        resource,
        namespaced: true,
    };
    run.kinds.insert((String::new(), "ConfigMap".into()), kind);
    run.stale = run.tracks.keys().cloned().collect();
    let (sender, commands) = watch::channel(Arc::clone(&wanted));
    sender.send_replace(Arc::clone(&wanted));
    run.ask_health(&commands).await;
    assert_eq!(run.stale.len(), 2, "one has its answer");
    let mut commands = commands;
    commands.mark_unchanged();
    run.ask_health(&commands).await;
    assert!(run.stale.is_empty());
}

#[tokio::test]
async fn nothing_is_hurried_while_the_inventories_can_not_be_read() {
    let wanted = wanted(&["a"]);
    let mut run = run(StatusCode::SERVICE_UNAVAILABLE, &wanted);
    let (_sender, commands) = watch::channel(Arc::clone(&wanted));
    let long_ago = Instant::now().checked_sub(Duration::from_secs(60));
    for track in run.tracks.values_mut() {
        let namespace = "web".to_owned();
        let failure = Failure::NamespaceMissing { namespace };
        track.fail(failure, long_ago.unwrap());
    }
    run.pass(&commands).await;
    assert!(!run.idle().is_zero());
    assert_eq!(run.troubles.len(), 1, "{:?}", run.troubles);
}
