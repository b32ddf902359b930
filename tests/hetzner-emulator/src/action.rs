//! An action: work that Hetzner does in the background.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::project::Change;

/// What an action works on, as the `resources` of an action name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceRef {
    pub kind: &'static str,
    pub id: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Running,
    Success,
    Error,
}

pub struct Action {
    pub id: u64,
    pub command: &'static str,
    pub status: Status,
    pub started: Timestamp,
    /// When the work begins; later than `started` for one that waits for another action.
    pub begins: Timestamp,
    pub ends: Timestamp,
    pub finished: Option<Timestamp>,
    /// The first is the subject, which is locked while the action runs.
    pub resources: Vec<ResourceRef>,
    pub change: Option<Change>,
    /// Set when the action is bound to fail; its change is then never made.
    pub failure: Option<ApiError>,
}

impl ResourceRef {
    pub const fn server(id: u64) -> Self {
        Self { kind: "server", id }
    }

    pub const fn network(id: u64) -> Self {
        Self {
            kind: "network",
            id,
        }
    }

    pub const fn image(id: u64) -> Self {
        Self { kind: "image", id }
    }

    pub const fn primary_ip(id: u64) -> Self {
        Self {
            kind: "primary_ip",
            id,
        }
    }

    pub const fn floating_ip(id: u64) -> Self {
        Self {
            kind: "floating_ip",
            id,
        }
    }

    pub const fn load_balancer(id: u64) -> Self {
        Self {
            kind: "load_balancer",
            id,
        }
    }

    pub const fn volume(id: u64) -> Self {
        Self { kind: "volume", id }
    }

    pub const fn firewall(id: u64) -> Self {
        Self {
            kind: "firewall",
            id,
        }
    }
}

impl Action {
    /// Ends the action; what comes back is the change to make.
    pub fn end(&mut self, at: Timestamp) -> Option<Change> {
        self.finished = Some(at);
        let change = self.change.take();
        if self.failure.is_some() {
            self.status = Status::Error;
            return None;
        }
        self.status = Status::Success;
        change
    }

    pub fn render(&self, now: Timestamp) -> Value {
        let failure = self
            .failure
            .as_ref()
            .filter(|_| self.status == Status::Error);
        let resources: Vec<_> = self
            .resources
            .iter()
            .map(|r| json!({"id": r.id, "type": r.kind}))
            .collect();
        json!({
            "id": self.id,
            "command": self.command,
            "status": self.status.as_str(),
            "progress": self.progress(now),
            "started": time(self.started),
            "finished": self.finished.map(time),
            "resources": resources,
            "error": failure.map(|e| json!({"code": e.code, "message": e.message})),
        })
    }

    /// Percent done.
    fn progress(&self, now: Timestamp) -> i64 {
        if self.status != Status::Running {
            return 100;
        }
        let whole = (self.ends.as_millisecond() - self.begins.as_millisecond()).max(1);
        let done = now.as_millisecond() - self.begins.as_millisecond();
        (done * 100 / whole).clamp(0, 99)
    }
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Success => "success",
            Self::Error => "error",
        }
    }
}

/// A time as the API writes it: whole seconds, UTC.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
