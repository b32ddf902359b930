//! `/ssh_keys`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use serde_json::{Value, json};

use crate::action::time;
use crate::call::{Answer, Call, Method, Reply};
use crate::error::ApiError;
use crate::input::IdOrName;
use crate::project::Project;
use crate::resources::{
    Meta, Resource, find, id_of, list, new_name_and_labels, require_unique_name, unrouted, update,
};

pub struct SshKey {
    pub meta: Meta,
    pub fingerprint: String,
    pub public_key: String,
}

impl Resource for SshKey {
    const KIND: &'static str = "ssh_key";

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
            "fingerprint": self.fingerprint,
            "public_key": self.public_key,
            "labels": self.meta.labels,
            "created": time(self.meta.created),
        })
    }
}

pub fn named<'a>(project: &'a Project, wanted: &IdOrName) -> Option<&'a SshKey> {
    project.ssh_keys.values().find(|key| match wanted {
        IdOrName::Id(id) => key.meta.id == *id,
        IdOrName::Name(name) => key.meta.name == *name,
    })
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    match (call.method, rest) {
        (Method::Get, []) => {
            let fingerprint = call.parameter("fingerprint");
            let wanted = |key: &SshKey| fingerprint.is_none_or(|f| f == key.fingerprint);
            list(project, call, "ssh_keys", &project.ssh_keys, wanted)
        }
        (Method::Post, []) => create(project, call),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => {
            let id = id_of(id)?;
            update(&mut project.ssh_keys, call, id)?;
            read(project, id).map(Reply::ok)
        }
        (Method::Delete, [id]) => {
            let id = id_of(id)?;
            find(&project.ssh_keys, id)?;
            project.ssh_keys.remove(&id);
            Ok(Reply::no_content())
        }
        _ => Err(unrouted(rest)),
    }
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"ssh_key": find(&project.ssh_keys, id)?.render(project)}))
}

fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let (name, labels) = new_name_and_labels::<SshKey>(&mut input);
    let public_key = input.required_text("public_key").trim().to_owned();
    let fingerprint = fingerprint(&public_key);
    if !public_key.is_empty() && fingerprint.is_none() {
        input.reject("public_key", "SSH key is not valid");
    }
    input.finish()?;
    let fingerprint = fingerprint.unwrap_or_default();
    require_unique_name(&project.ssh_keys, &name, None)?;
    if project
        .ssh_keys
        .values()
        .any(|key| key.fingerprint == fingerprint)
    {
        return Err(ApiError::not_unique("public_key", "SSH key not unique"));
    }
    let meta = Meta {
        id: project.next_id(),
        name,
        created: project.now,
        labels,
    };
    let id = meta.id;
    project.ssh_keys.insert(
        id,
        SshKey {
            meta,
            fingerprint,
            public_key,
        },
    );
    read(project, id).map(Reply::created)
}

/// The MD5 fingerprint of an OpenSSH public key line (RFC 4716, section 4); `None` when it is none.
fn fingerprint(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (algorithm, encoded) = (words.next()?, words.next()?);
    let blob = STANDARD.decode(encoded).ok()?;
    let (length, rest) = blob.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if rest.get(..length)? != algorithm.as_bytes() {
        return None;
    }
    let digest = Md5::digest(&blob);
    Some(
        digest
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<Vec<_>>()
            .join(":"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_what_ssh_keygen_prints() {
        // ssh-keygen -l -E md5 says the same of this key.
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk me";
        let expected = "d4:c4:51:d3:e9:cc:9c:8e:f4:27:24:6e:ee:f6:e9:0a";
        assert_eq!(fingerprint(key).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_no_key_has_no_fingerprint() {
        for text in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 !!!",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIA==",
        ] {
            assert_eq!(fingerprint(text), None, "{text}");
        }
    }
}
