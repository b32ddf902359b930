//! `/certificates`: those that are uploaded, kept and given back. Nobody reads what they say.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::action::time;
use crate::call::{Answer, Call, Method, Reply};
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::{
    Meta, Resource, find, id_of, list, new_name_and_labels, require_unique_name, unrouted, update,
};

const LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);

pub struct Certificate {
    pub meta: Meta,
    /// The chain, as it was given.
    pub pem: String,
}

impl Resource for Certificate {
    const KIND: &'static str = "certificate";

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn render(&self, _: &Project) -> Value {
        json!({
            "id": self.meta.id,
            "name": self.meta.name,
            "labels": self.meta.labels,
            "type": "uploaded",
            "certificate": self.pem,
            "created": time(self.meta.created),
            "not_valid_before": time(self.meta.created),
            "not_valid_after": time(self.meta.created + LIFE),
            "domain_names": [],
            "fingerprint": null,
            "status": null,
            // Load balancers here have no HTTPS.
            "used_by": [],
        })
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    match (call.method, rest) {
        (Method::Get, []) => list(project, call, "certificates", &project.certificates, |_| {
            true
        }),
        (Method::Post, []) => create(project, call),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => {
            let id = id_of(id)?;
            update(&mut project.certificates, call, id)?;
            read(project, id).map(Reply::ok)
        }
        (Method::Delete, [id]) => {
            let id = id_of(id)?;
            find(&project.certificates, id)?;
            project.certificates.remove(&id);
            Ok(Reply::no_content())
        }
        _ => Err(unrouted(rest)),
    }
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"certificate": find(&project.certificates, id)?.render(project)}))
}

fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let (name, labels) = new_name_and_labels::<Certificate>(&mut input);
    if input.text("type").is_some_and(|kind| kind != "uploaded") {
        input.reject("type", "must be 'uploaded'");
    }
    let pem = input.required_text("certificate");
    input.require("private_key");
    input.finish()?;
    require_unique_name(&project.certificates, &name, None)?;
    let meta = Meta {
        id: project.next_id(),
        name,
        created: project.now,
        labels,
    };
    let id = meta.id;
    project.certificates.insert(id, Certificate { meta, pem });
    read(project, id).map(Reply::created)
}
