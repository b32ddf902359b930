//! `create_image`: a snapshot of a server's disk.

use serde_json::json;

use crate::action::ResourceRef;
use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::images::Snapshot;
use crate::resources::servers::Server;
use crate::resources::{Meta, Resource, find};

/// The server may be on or off. It is locked while its disk is copied.
pub fn create_image(project: &mut Project, call: &Call, id: u64) -> Answer {
    let mut input = call.input();
    let (description, labels) = (input.text("description"), input.labels());
    if input.text("type").is_some_and(|kind| kind != "snapshot") {
        input.reject("type", "must be 'snapshot': backups are not known here");
    }
    input.finish()?;
    if project.images.len() >= project.settings.snapshot_limit {
        let message = "snapshot limit exceeded";
        return Err(ApiError::limit_exceeded("snapshot_limit", message));
    }
    let image = project.next_id();
    let snapshot = copy(
        project,
        find(&project.servers, id)?,
        Meta {
            id: image,
            name: String::new(),
            created: project.now,
            labels: labels.unwrap_or_default(),
        },
        description,
    );
    project.images.insert(image, snapshot);
    project.announce_snapshot(id, image);
    let (subject, other) = (ResourceRef::server(id), ResourceRef::image(image));
    let action = project.begin("create_image", subject, &[other], move |project| {
        if let Some(image) = project.images.get_mut(&image) {
            image.complete = true;
        }
    });
    let image = find(&project.images, image)?.render(project);
    Ok(Reply::created(
        json!({"action": project.render_action(action), "image": image}),
    ))
}

fn copy(project: &Project, server: &Server, meta: Meta, description: Option<String>) -> Snapshot {
    let server_type = project.catalog.server_type(server.type_name);
    let (flavor, version) = match (
        project.catalog.image(server.image),
        project.images.get(&server.image),
    ) {
        (Some(system), _) => (system.flavor, Some(system.version)),
        (_, Some(snapshot)) => (snapshot.flavor, snapshot.version),
        _ => ("unknown", None),
    };
    Snapshot {
        description: description.unwrap_or_else(|| format!("snapshot of {}", server.meta.name)),
        flavor,
        version,
        architecture: server_type.map_or("x86", |t| t.architecture()),
        disk_gb: server_type.map_or(0, |t| t.disk_gb),
        created_from: (server.meta.id, server.meta.name.clone()),
        complete: false,
        delete_protected: false,
        meta,
    }
}
