//! The resources of the API, one file each, and what they have in common.

pub mod actions;
pub mod catalog;
pub mod certificates;
pub mod firewalls;
pub mod floating_ips;
pub mod images;
pub mod load_balancers;
pub mod networks;
pub mod placement_groups;
pub mod pricing;
pub mod primary_ips;
pub mod servers;
pub mod ssh_keys;
pub mod volumes;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use crate::call::{Answer, Call};
use crate::error::ApiError;
use crate::input::Input;
use crate::labels::Labels;
use crate::listing::{Filter, page};
use crate::project::Project;

const MAX_NAME_CHARS: usize = 255;

/// What every resource has.
pub struct Meta {
    pub id: u64,
    pub name: String,
    pub created: Timestamp,
    pub labels: Labels,
}

pub trait Resource {
    /// The resource's name in messages and in `resources[].type`.
    const KIND: &'static str;

    fn meta(&self) -> &Meta;
    fn meta_mut(&mut self) -> &mut Meta;
    fn render(&self, project: &Project) -> Value;

    /// What is wrong with a name for such a resource.
    fn name_error(name: &str) -> Option<&'static str> {
        (name.is_empty() || name.len() > MAX_NAME_CHARS).then_some("must have 1 to 255 characters")
    }
}

/// Answers a call below a resource's path by the API's modules.
pub fn dispatch(project: &mut Project, call: &Call) -> Answer {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["actions", rest @ ..] => actions::route(project, call, rest),
        ["servers", rest @ ..] => servers::route(project, call, rest),
        ["networks", rest @ ..] => networks::route(project, call, rest),
        ["firewalls", rest @ ..] => firewalls::route(project, call, rest),
        ["ssh_keys", rest @ ..] => ssh_keys::route(project, call, rest),
        ["placement_groups", rest @ ..] => placement_groups::route(project, call, rest),
        ["primary_ips", rest @ ..] => primary_ips::route(project, call, rest),
        ["floating_ips", rest @ ..] => floating_ips::route(project, call, rest),
        ["load_balancers", rest @ ..] => load_balancers::route(project, call, rest),
        ["volumes", rest @ ..] => volumes::route(project, call, rest),
        ["certificates", rest @ ..] => certificates::route(project, call, rest),
        ["server_types", rest @ ..] => catalog::server_types(project, call, rest),
        ["load_balancer_types", rest @ ..] => catalog::load_balancer_types(project, call, rest),
        ["pricing", rest @ ..] => pricing::route(project, call, rest),
        ["locations", rest @ ..] => catalog::locations(project, call, rest),
        ["images", rest @ ..] => images::route(project, call, rest),
        // Since 2026-10-01 (changelog 2026-06-02-datacenters-deprecated).
        ["datacenters", ..] => Err(ApiError::new(
            410,
            "deprecated_api_endpoint",
            "datacenters are no longer part of the API",
        )),
        _ => Err(ApiError::no_such_route()),
    }
}

/// The number in a path.
pub fn id_of(text: &str) -> Result<u64, ApiError> {
    text.parse()
        .map_err(|_| ApiError::invalid("id", format!("'{text}' is not an ID")))
}

/// A call that no arm of a resource's routes took: 405 where the path exists, else 404.
pub fn unrouted(rest: &[&str]) -> ApiError {
    if rest.len() < 2 {
        ApiError::method_not_allowed()
    } else {
        ApiError::no_such_route()
    }
}

pub fn find<T: Resource>(resources: &BTreeMap<u64, T>, id: u64) -> Result<&T, ApiError> {
    resources
        .get(&id)
        .ok_or_else(|| ApiError::not_found(T::KIND, id))
}

pub fn find_mut<T: Resource>(
    resources: &mut BTreeMap<u64, T>,
    id: u64,
) -> Result<&mut T, ApiError> {
    resources
        .get_mut(&id)
        .ok_or_else(|| ApiError::not_found(T::KIND, id))
}

/// The list of a resource, narrowed by name, labels and `wanted`.
pub fn list<T: Resource>(
    project: &Project,
    call: &Call,
    key: &str,
    resources: &BTreeMap<u64, T>,
    wanted: impl Fn(&T) -> bool,
) -> Answer {
    let filter = Filter::of(call)?;
    let items = resources
        .values()
        .filter(|r| filter.accepts(&r.meta().name, &r.meta().labels) && wanted(r))
        .map(|r| r.render(project))
        .collect();
    page(call, key, &["id", "name", "created"], items)
}

/// Name and labels of a new resource, checked; errors go to `input`.
pub fn new_name_and_labels<T: Resource>(input: &mut Input) -> (String, Labels) {
    let name = input.required_text("name");
    if input.value("name").is_some_and(Value::is_string)
        && let Some(error) = T::name_error(&name)
    {
        input.reject("name", error);
    }
    (name, input.labels().unwrap_or_default())
}

/// Refuses a name that another resource of the kind has.
pub fn require_unique_name<T: Resource>(
    resources: &BTreeMap<u64, T>,
    name: &str,
    except: Option<u64>,
) -> Result<(), ApiError> {
    let taken = |r: &T| r.meta().name == name && Some(r.meta().id) != except;
    if resources.values().any(taken) {
        let message = match T::KIND {
            "server" => "server name is already used",
            _ => "name is already used",
        };
        return Err(ApiError::not_unique("name", message));
    }
    Ok(())
}

/// Takes `name` and `labels` of a PUT.
pub fn update<T: Resource>(
    resources: &mut BTreeMap<u64, T>,
    call: &Call,
    id: u64,
) -> Result<(), ApiError> {
    find(resources, id)?;
    let mut input = call.input();
    let name = input.text("name");
    if let Some(error) = name.as_deref().and_then(T::name_error) {
        input.reject("name", error);
    }
    let labels = input.labels();
    input.finish()?;
    if let Some(name) = &name {
        require_unique_name(resources, name, Some(id))?;
    }
    let meta = find_mut(resources, id)?.meta_mut();
    meta.name = name.unwrap_or_else(|| std::mem::take(&mut meta.name));
    meta.labels = labels.unwrap_or_else(|| std::mem::take(&mut meta.labels));
    Ok(())
}

/// Refuses what the delete protection forbids.
pub fn require_unprotected(kind: &str, protected: bool) -> Result<(), ApiError> {
    if protected {
        return Err(ApiError::new(
            423,
            "protected",
            format!("{kind} is delete protected"),
        ));
    }
    Ok(())
}
