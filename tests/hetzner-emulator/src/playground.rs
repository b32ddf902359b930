//! A project to play with in unit tests: calls without HTTP, and time that passes at a word.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::address_pool::AddressPool;
use crate::call::{Answer, Call, Method};
use crate::error::ApiError;
use crate::project::Project;
use crate::resources::dispatch;
use crate::settings::Settings;

pub struct Playground {
    pub project: Project,
}

impl Playground {
    pub fn new() -> Self {
        let pool = AddressPool::new("127.20.1.0/24".parse().unwrap());
        let project = Project::new(pool, Settings::default(), Timestamp::UNIX_EPOCH);
        Self { project }
    }

    pub fn pass(&mut self, time: SignedDuration) {
        let now = self.project.now + time;
        self.project.settle(now);
    }

    /// The call's answer; its actions have ended.
    pub fn call(&mut self, method: Method, path: &str, body: &Value) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let call = Call {
            method,
            path: path.split('/').map(str::to_owned).collect(),
            query: pairs.map(|(k, v)| (k.into(), v.into())).collect(),
            body: body.as_object().cloned().unwrap_or_default(),
        };
        let answer = dispatch(&mut self.project, &call);
        self.pass(SignedDuration::from_secs(1));
        answer
    }

    pub fn get(&mut self, path: &str) -> Value {
        let reply = self.call(Method::Get, path, &Value::Null);
        reply.unwrap().body.unwrap()
    }

    pub fn post(&mut self, path: &str, body: &Value) -> Value {
        let reply = self.call(Method::Post, path, body);
        reply.unwrap().body.unwrap()
    }

    pub fn refusal(&mut self, path: &str, body: &Value) -> ApiError {
        self.call(Method::Post, path, body).unwrap_err()
    }

    /// The number of a new server that runs.
    pub fn server(&mut self, name: &str, server_type: &str) -> u64 {
        let order = json!({"name": name, "server_type": server_type, "image": "debian-12"});
        let created = self.post("servers", &order);
        created["server"]["id"].as_u64().unwrap()
    }
}
