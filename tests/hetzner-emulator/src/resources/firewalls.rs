//! `/firewalls`: the resource itself. Rules are in [`rules`], its actions in [`actions`].

mod actions;
mod rules;

use serde_json::{Value, json};

use crate::action::{ResourceRef, time};
use crate::call::{Answer, Call, Method, Reply};
use crate::error::ApiError;
use crate::input::Input;
use crate::labels::Selector;
use crate::project::Project;
use crate::resources::servers::Server;
use crate::resources::{
    Meta, Resource, find, id_of, list, new_name_and_labels, require_unique_name, unrouted, update,
};

pub struct Firewall {
    pub meta: Meta,
    /// As they are shown.
    pub rules: Vec<Value>,
    pub applied_to: Vec<Target>,
}

/// What a firewall is applied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Server(u64),
    Label { text: String, selector: Selector },
}

impl Firewall {
    pub fn covers(&self, server: &Server) -> bool {
        self.applied_to.iter().any(|target| target.covers(server))
    }

    /// Whether an action that brings the rules to the server runs.
    pub fn is_pending_on(&self, project: &Project, server: u64) -> bool {
        let (firewall, server) = (
            ResourceRef::firewall(self.meta.id),
            ResourceRef::server(server),
        );
        project.running_actions().any(|action| {
            action.command == "apply_firewall"
                && action.resources.contains(&firewall)
                && action.resources.contains(&server)
        })
    }

    pub fn cover_server(&mut self, server: u64) {
        if !self.applied_to.contains(&Target::Server(server)) {
            self.applied_to.push(Target::Server(server));
        }
    }

    pub fn forget_server(&mut self, server: u64) {
        self.applied_to
            .retain(|target| *target != Target::Server(server));
    }
}

impl Target {
    pub fn covers(&self, server: &Server) -> bool {
        match self {
            Self::Server(id) => *id == server.meta.id,
            Self::Label { selector, .. } => selector.matches(&server.meta.labels),
        }
    }

    fn render(&self, project: &Project) -> Value {
        match self {
            Self::Server(id) => json!({"type": "server", "server": {"id": id}}),
            Self::Label { text, .. } => {
                let covered: Vec<_> = project
                    .servers
                    .values()
                    .filter(|server| self.covers(server))
                    .map(|server| json!({"type": "server", "server": {"id": server.meta.id}}))
                    .collect();
                json!({
                    "type": "label_selector",
                    "label_selector": {"selector": text},
                    "applied_to_resources": covered,
                })
            }
        }
    }

    /// Reads one entry of `apply_to` or `remove_from`.
    fn read(value: &Value) -> Result<Self, String> {
        match value["type"].as_str() {
            Some("server") => {
                let id = value["server"]["id"]
                    .as_u64()
                    .ok_or("a server needs an id")?;
                Ok(Self::Server(id))
            }
            Some("label_selector") => {
                let text = value["label_selector"]["selector"].as_str();
                let text = text.ok_or("a label_selector needs a selector")?;
                Ok(Self::Label {
                    text: text.to_owned(),
                    selector: Selector::parse(text)?,
                })
            }
            _ => Err("type must be 'server' or 'label_selector'".to_owned()),
        }
    }
}

impl Resource for Firewall {
    const KIND: &'static str = "firewall";

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    fn render(&self, project: &Project) -> Value {
        let applied_to: Vec<_> = self.applied_to.iter().map(|t| t.render(project)).collect();
        json!({
            "id": self.meta.id,
            "name": self.meta.name,
            "labels": self.meta.labels,
            "created": time(self.meta.created),
            "rules": self.rules,
            "applied_to": applied_to,
        })
    }
}

pub fn route(project: &mut Project, call: &Call, rest: &[&str]) -> Answer {
    use crate::resources::actions::{of_kind, of_resource};
    match (call.method, rest) {
        (Method::Get, []) => list(project, call, "firewalls", &project.firewalls, |_| true),
        (Method::Post, []) => create(project, call),
        (Method::Get, ["actions", rest @ ..]) => of_kind(project, call, Firewall::KIND, rest),
        (Method::Get, [id]) => read(project, id_of(id)?).map(Reply::ok),
        (Method::Put, [id]) => {
            let id = id_of(id)?;
            update(&mut project.firewalls, call, id)?;
            read(project, id).map(Reply::ok)
        }
        (Method::Delete, [id]) => delete(project, id_of(id)?),
        (Method::Get, [id, "actions", rest @ ..]) => {
            let id = id_of(id)?;
            find(&project.firewalls, id)?;
            of_resource(project, call, Firewall::KIND, id, rest)
        }
        (Method::Post, [id, "actions", action]) => {
            actions::perform(project, call, id_of(id)?, action)
        }
        _ => Err(unrouted(rest)),
    }
}

fn read(project: &Project, id: u64) -> Result<Value, ApiError> {
    Ok(json!({"firewall": find(&project.firewalls, id)?.render(project)}))
}

fn create(project: &mut Project, call: &Call) -> Answer {
    let mut input = call.input();
    let (name, labels) = new_name_and_labels::<Firewall>(&mut input);
    let rules = rules::of_body(&mut input);
    let targets = targets_of_body(&mut input, "apply_to");
    input.finish()?;
    require_unique_name(&project.firewalls, &name, None)?;
    actions::require_applicable(project, None, &targets)?;

    let meta = Meta {
        id: project.next_id(),
        name,
        created: project.now,
        labels,
    };
    let id = meta.id;
    project.firewalls.insert(
        id,
        Firewall {
            meta,
            rules,
            applied_to: targets.clone(),
        },
    );
    let mut actions = vec![actions::settle_rules(project, id)];
    actions.extend(actions::reach(project, id, &targets));
    let firewall = find(&project.firewalls, id)?.render(project);
    Ok(Reply::created(
        json!({"firewall": firewall, "actions": project.render_actions(&actions)}),
    ))
}

fn targets_of_body(input: &mut Input, field: &str) -> Vec<Target> {
    let mut targets = Vec::new();
    for value in input.list(field) {
        match Target::read(value) {
            Ok(target) => targets.push(target),
            Err(message) => input.reject(field, message),
        }
    }
    targets
}

fn delete(project: &mut Project, id: u64) -> Answer {
    if !find(&project.firewalls, id)?.applied_to.is_empty() {
        let message = format!("firewall with ID {id} is still in use");
        return Err(ApiError::operation("resource_in_use", message));
    }
    project.require_unlocked(ResourceRef::firewall(id))?;
    project.firewalls.remove(&id);
    Ok(Reply::no_content())
}
