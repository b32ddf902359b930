//! `/images`: what Hetzner offers, and the project's own snapshots.

use serde_json::{Value, json};

use crate::action::{ResourceRef, time};
use crate::call::{Answer, Call, Method, Reply};
use crate::catalog::{IMAGE_DISK_GB, Image, ServerType};
use crate::error::ApiError;
use crate::labels::Labels;
use crate::listing::{Filter, page};
use crate::project::Project;
use crate::resources::{Meta, Resource, find, find_mut, id_of, require_unprotected, unrouted};

/// The copy of a server's disk.
pub struct Snapshot {
    /// Its name is empty: a snapshot has none.
    pub meta: Meta,
    pub description: String,
    /// The image that the server was made of, as far as it is known.
    pub flavor: &'static str,
    pub version: Option<&'static str>,
    pub architecture: &'static str,
    pub disk_gb: u32,
    /// Number and name of the server.
    pub created_from: (u64, String),
    /// Whether the copy was finished.
    pub complete: bool,
    pub delete_protected: bool,
}

/// What a server must know of an image.
struct Facts {
    architecture: &'static str,
    disk_gb: u32,
    available: bool,
}

impl Resource for Snapshot {
    const KIND: &'static str = "image";

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn render(&self, project: &Project) -> Value {
        let (server, name) = &self.created_from;
        json!({
            "id": self.meta.id,
            "type": "snapshot",
            "status": self.status(project),
            "name": null,
            "description": self.description,
            "image_size": self.complete.then(|| f64::from(self.disk_gb) / 10.0),
            "disk_size": self.disk_gb,
            "created": time(self.meta.created),
            "created_from": {"id": server, "name": name},
            "bound_to": null,
            "os_flavor": self.flavor,
            "os_version": self.version,
            "architecture": self.architecture,
            "rapid_deploy": false,
            "protection": {"delete": self.delete_protected},
            "deleted": null,
            "labels": self.meta.labels,
        })
    }
}

impl Snapshot {
    fn status(&self, project: &Project) -> &'static str {
        match self.complete {
            true => "available",
            false if is_being_made(project, self.meta.id) => "creating",
            false => "unavailable",
        }
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    use crate::resources::actions::{of_kind, of_resource};
    match (call.method, rest) {
        (Method::Get, []) => list(project, call),
        (Method::Get, ["actions", rest @ ..]) => of_kind(project, call, Snapshot::KIND, rest),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => put(project, call, id_of(id)?),
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        (Method::Get, [id, "actions", rest @ ..]) => {
            let id = id_of(id)?;
            require_image(project, id)?;
            of_resource(project, call, Snapshot::KIND, id, rest)
        }
        (Method::Post, [id, "actions", "change_protection"]) => {
            change_protection(project, call, id_of(id)?)
        }
        _ => Err(unrouted(rest)),
    }
}

/// The image as it is shown; nothing when it is gone.
pub fn render(project: &Project, id: u64) -> Option<Value> {
    let snapshot = project.images.get(&id).map(|image| image.render(project));
    snapshot.or_else(|| project.catalog.image(id).map(Image::render))
}

pub fn is_known(project: &Project, id: u64) -> bool {
    facts(project, id).is_some()
}

/// Refuses an image that a server of the type can't have on its disk. Hetzner's messages.
pub fn require_fitting(
    project: &Project,
    id: u64,
    server_type: &ServerType,
) -> Result<(), ApiError> {
    let facts = facts(project, id).ok_or_else(|| ApiError::not_found(Snapshot::KIND, id))?;
    let message = if facts.architecture != server_type.architecture() {
        "image has incompatible architecture"
    } else if facts.disk_gb > server_type.disk_gb {
        "image disk is bigger than server type disk"
    } else if !facts.available {
        "image is not available"
    } else {
        return Ok(());
    };
    let details = ApiError::invalid("image", message).details;
    let error = ApiError::new(422, "invalid_input", message);
    Err(ApiError { details, ..error })
}

fn facts(project: &Project, id: u64) -> Option<Facts> {
    let snapshot = project.images.get(&id).map(|image| Facts {
        architecture: image.architecture,
        disk_gb: image.disk_gb,
        available: image.complete,
    });
    snapshot.or_else(|| {
        project.catalog.image(id).map(|image| Facts {
            architecture: image.architecture,
            disk_gb: IMAGE_DISK_GB,
            available: true,
        })
    })
}

fn list(project: &Project, call: &Call) -> Answer {
    let filter = Filter::of(call)?;
    let wants = |name: &'static str, value: &str| {
        let mut wanted = call.parameters(name).peekable();
        wanted.peek().is_none() || wanted.any(|w| w == value)
    };
    let none = Labels::new();
    let systems = project.catalog.images.iter().filter(|image| {
        filter.accepts(image.name, &none)
            && wants("architecture", image.architecture)
            && wants("type", "system")
            && wants("status", "available")
    });
    let snapshots = project.images.values().filter(|image| {
        filter.accepts(&image.meta.name, &image.meta.labels)
            && wants("architecture", image.architecture)
            && wants("type", "snapshot")
            && wants("status", image.status(project))
    });
    let items = systems
        .map(Image::render)
        .chain(snapshots.map(|image| image.render(project)))
        // Only backups are bound to a server, and there are none.
        .filter(|_| call.parameter("bound_to").is_none())
        .collect();
    page(call, "images", &["id", "name", "created"], items)
}

fn require_image(project: &Project, id: u64) -> Result<Value, ApiError> {
    render(project, id).ok_or_else(|| ApiError::not_found(Snapshot::KIND, id))
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"image": require_image(project, id)?}))
}

/// Hetzner's own images can be neither changed nor deleted.
fn require_own(project: &Project, id: u64) -> Result<&Snapshot, ApiError> {
    require_image(project, id)?;
    find(&project.images, id).map_err(|_| {
        let message = "only images of type snapshot and backup can be changed";
        ApiError::new(422, "unsupported_error", message)
    })
}

fn put(project: &mut Project, call: &Call, id: u64) -> Answer {
    require_own(project, id)?;
    let mut input = call.input();
    let (description, labels) = (input.text("description"), input.labels());
    if input.text("type").is_some_and(|kind| kind != "snapshot") {
        input.reject("type", "must be 'snapshot'");
    }
    input.finish()?;
    let image = find_mut(&mut project.images, id)?;
    image.description = description.unwrap_or_else(|| std::mem::take(&mut image.description));
    image.meta.labels = labels.unwrap_or_else(|| std::mem::take(&mut image.meta.labels));
    read(project, id).map(Reply::ok)
}

fn is_being_made(project: &Project, id: u64) -> bool {
    let image = ResourceRef::image(id);
    let mut running = project.running_actions();
    running.any(|action| action.command == "create_image" && action.resources.contains(&image))
}

fn delete(project: &mut Project, id: u64) -> Answer {
    require_unprotected(Snapshot::KIND, require_own(project, id)?.delete_protected)?;
    if is_being_made(project, id) {
        return Err(ApiError::new(423, "locked", "image is locked"));
    }
    project.require_unlocked(ResourceRef::image(id))?;
    project.delete_snapshot(id);
    Ok(Reply::no_content())
}

fn change_protection(project: &mut Project, call: &Call, id: u64) -> Answer {
    require_own(project, id)?;
    project.require_unlocked(ResourceRef::image(id))?;
    let mut input = call.input();
    let delete = input.boolean("delete");
    input.finish()?;
    let subject = ResourceRef::image(id);
    let action = project.begin("change_protection", subject, &[], move |project| {
        if let Some(image) = project.images.get_mut(&id) {
            image.delete_protected = delete.unwrap_or(image.delete_protected);
        }
    });
    Ok(Reply::created(
        json!({"action": project.render_action(action)}),
    ))
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::playground::Playground;

    fn snapshot(play: &mut Playground, server: u64, version: &str) -> u64 {
        let labels = json!({"fabrik/cluster": "c1", "version": version});
        let path = format!("servers/{server}/actions/create_image");
        let made = play.post(&path, &json!({"type": "snapshot", "labels": labels}));
        play.pass(SignedDuration::from_secs(60));
        made["image"]["id"].as_u64().unwrap()
    }

    fn ids(list: &Value) -> Vec<u64> {
        let images = list["images"].as_array().unwrap().iter();
        images.map(|image| image["id"].as_u64().unwrap()).collect()
    }

    #[test]
    fn snapshots_are_found_by_type_labels_and_architecture_in_the_wished_order() {
        let mut play = Playground::new();
        let (x86, arm) = (play.server("x86", "cx23"), play.server("arm", "cax11"));
        let old = snapshot(&mut play, x86, "1");
        let other = snapshot(&mut play, arm, "1");
        let new = snapshot(&mut play, x86, "2");
        for (query, expected) in [
            ("type=snapshot", vec![old, other, new]),
            ("type=snapshot&sort=created:desc", vec![new, other, old]),
            ("label_selector=fabrik/cluster==c1", vec![old, other, new]),
            (
                "label_selector=fabrik/cluster==c1,version=1",
                vec![old, other],
            ),
            ("label_selector=version in (2,3)", vec![new]),
            ("type=snapshot&label_selector=version!=1", vec![new]),
            ("type=snapshot&label_selector=!version", vec![]),
            ("type=snapshot&architecture=arm", vec![other]),
            ("type=snapshot&status=creating", vec![]),
            ("type=backup", vec![]),
            ("type=snapshot&name=x86", vec![]),
        ] {
            let list = play.get(&format!("images?{query}&per_page=50"));
            assert_eq!(ids(&list), expected, "{query}");
        }
    }

    #[test]
    fn a_snapshot_fits_only_its_architecture_and_a_disk_of_its_size() {
        let mut play = Playground::new();
        let server = play.server("big", "cx33");
        let image = snapshot(&mut play, server, "1");
        let mut order = json!({"name": "new", "server_type": "cax21", "image": image});
        let refusal = play.refusal("servers", &order);
        assert_eq!(refusal.code, "invalid_input");
        assert_eq!(refusal.message, "image has incompatible architecture");
        order["server_type"] = "cx23".into();
        let refusal = play.refusal("servers", &order);
        assert_eq!(
            refusal.message,
            "image disk is bigger than server type disk"
        );
        order["server_type"] = "cx43".into();
        let created = play.post("servers", &order);
        assert_eq!(created["server"]["image"]["id"], image);
    }
}
