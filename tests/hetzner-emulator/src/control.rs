//! The control API below `/_emulator`: what tests and the bed ask of the emulator itself.

mod settings;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::faults::Fault;
use crate::metadata;
use crate::project::Project;
use crate::resources::servers::{Rescue, Server, Status, halted, rebooted};
use crate::resources::{Resource, find, find_mut};
use crate::server::Shared;

const MAX_WAIT: Duration = Duration::from_secs(60);

type SharedState = State<Arc<Shared>>;

pub fn router() -> Router<Arc<Shared>> {
    Router::new()
        .route("/reset", post(reset))
        .route("/settings", get(settings::read).put(settings::write))
        .route(
            "/faults",
            get(read_faults).post(add_fault).delete(clear_faults),
        )
        .route("/requests", get(requests))
        .route("/state", get(state))
        .route("/events", get(events))
        .route("/actions/{id}/finish", post(finish_action))
        .route("/servers/{id}/halted", post(server_halted))
        .route("/servers/{id}/rebooted", post(server_rebooted))
        .route("/servers/{id}/hung", put(server_hung))
        .route("/servers/{id}/hetzner/v1/{*path}", get(server_metadata))
}

/// A refusal of the control API; it has the shape of the API's own.
pub struct Refused(ApiError);

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::BAD_REQUEST);
        (status, Json(self.0.body())).into_response()
    }
}

async fn reset(State(shared): SharedState) -> StatusCode {
    shared.with(crate::gate::Gate::reset);
    StatusCode::NO_CONTENT
}

async fn read_faults(State(shared): SharedState) -> Json<Value> {
    shared.with(|gate| Json(json!({"faults": gate.faults.pending()})))
}

async fn add_fault(
    State(shared): SharedState,
    Json(fault): Json<Fault>,
) -> Result<StatusCode, Refused> {
    let added = shared.with(|gate| gate.faults.add(fault));
    added.map_err(|message| ApiError::invalid("fault", message))?;
    Ok(StatusCode::CREATED)
}

async fn clear_faults(State(shared): SharedState) -> StatusCode {
    shared.with(|gate| gate.faults.clear());
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn requests(State(shared): SharedState, Query(Since { since }): Query<Since>) -> Json<Value> {
    shared.with(|gate| {
        let (journal, last) = (&gate.journal, gate.journal.last_seq());
        Json(json!({"requests": journal.since(since), "last": last}))
    })
}

async fn state(State(shared): SharedState) -> Json<Value> {
    shared.with(|gate| Json(whole_state(&gate.project)))
}

fn whole_state(project: &Project) -> Value {
    fn all<T: Resource>(
        resources: &std::collections::BTreeMap<u64, T>,
        project: &Project,
    ) -> Value {
        resources
            .values()
            .map(|resource| resource.render(project))
            .collect()
    }
    let servers: Vec<_> = project
        .servers
        .values()
        .map(|server| {
            let mut shown = server.render(project);
            shown["user_data"] = json!(server.user_data);
            shown["hung"] = json!(server.hung);
            let on = server.status == Status::Running;
            shown["boots"] = json!(on.then(|| server.boots()));
            let rescue = server.booted.as_ref().or(server.rescue.as_ref());
            shown["rescue"] = json!(rescue.map(access));
            shown
        })
        .collect();
    let actions: Vec<_> = project
        .actions
        .values()
        .map(|a| a.render(project.now))
        .collect();
    json!({
        "servers": servers,
        "images": all(&project.images, project),
        "networks": all(&project.networks, project),
        "firewalls": all(&project.firewalls, project),
        "ssh_keys": all(&project.ssh_keys, project),
        "placement_groups": all(&project.placement_groups, project),
        "primary_ips": all(&project.primary_ips, project),
        "floating_ips": all(&project.floating_ips, project),
        "load_balancers": all(&project.load_balancers, project),
        "volumes": all(&project.volumes, project),
        "certificates": all(&project.certificates, project),
        "actions": actions,
        "last_event": project.events.last_seq(),
    })
}

/// How to enter a rescue system.
fn access(rescue: &Rescue) -> Value {
    json!({"root_password": rescue.root_password, "authorized_keys": rescue.authorized_keys})
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    wait_ms: u64,
}

/// The events after `since`; when there are none, the next ones, for which it waits up to `wait_ms`.
async fn events(State(shared): SharedState, Query(wait): Query<Wait>) -> Json<Value> {
    let deadline = Instant::now() + Duration::from_millis(wait.wait_ms).min(MAX_WAIT);
    let mut last = shared.watch_events();
    // An error is the deadline, or the emulator's end: either way the answer is what there is.
    let _ = timeout_at(deadline, last.wait_for(|last| *last > wait.since)).await;
    shared.with(|gate| {
        let events = &gate.project.events;
        Json(json!({"events": events.since(wait.since), "last": events.last_seq()}))
    })
}

/// Ends a running action now. With a long action time this lets a test say when things happen.
async fn finish_action(
    State(shared): SharedState,
    Path(id): Path<u64>,
) -> Result<StatusCode, Refused> {
    if shared.with(|gate| gate.project.finish(id)) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Refused(ApiError::not_found("running action", id)))
    }
}

async fn server_halted(
    State(shared): SharedState,
    Path(id): Path<u64>,
) -> Result<StatusCode, Refused> {
    shared.with(|gate| halted(&mut gate.project, id))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn server_rebooted(
    State(shared): SharedState,
    Path(id): Path<u64>,
) -> Result<Json<Value>, Refused> {
    let boots = shared.with(|gate| rebooted(&mut gate.project, id))?;
    Ok(Json(json!({"boots": boots})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hung {
    hung: bool,
}

async fn server_hung(
    State(shared): SharedState,
    Path(id): Path<u64>,
    Json(Hung { hung }): Json<Hung>,
) -> Result<StatusCode, Refused> {
    shared.with(|gate| {
        find_mut::<Server>(&mut gate.project.servers, id).map(|server| server.hung = hung)
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// What the server reads at `http://169.254.169.254/hetzner/v1/…`.
async fn server_metadata(
    State(shared): SharedState,
    Path((id, path)): Path<(u64, String)>,
) -> Result<String, Refused> {
    shared.with(|gate| {
        let server = find(&gate.project.servers, id)?;
        let text = metadata::read(&gate.project, server, &path);
        text.ok_or_else(|| Refused(ApiError::new(404, "not_found", "not found")))
    })
}
