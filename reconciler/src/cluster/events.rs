//! Kubernetes Events: what happened, where people look for it.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::debug;

/// Writes Events on one object; a failure to do so is logged and stops nothing.
pub struct Events {
    recorder: Recorder,
    subject: ObjectReference,
}

impl Events {
    /// Events about `subject`, reported by the replica on `node`.
    pub fn new(client: Client, node: &str, subject: ObjectReference) -> Self {
        let reporter = Reporter {
            controller: "fabrik".into(),
            instance: Some(node.to_owned()),
        };
        Self {
            recorder: Recorder::new(client, reporter),
            subject,
        }
    }

    pub async fn normal(&self, reason: &str, action: &str, note: &str) {
        self.publish(EventType::Normal, reason, action, note).await;
    }

    pub async fn warning(&self, reason: &str, action: &str, note: &str) {
        self.publish(EventType::Warning, reason, action, note).await;
    }

    async fn publish(&self, type_: EventType, reason: &str, action: &str, note: &str) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shorten(note)),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &self.subject).await {
            debug!(%error, reason, "the Event was not written");
        }
    }
}

/// The API takes notes of less than 1 KiB.
fn shorten(note: &str) -> String {
    const MAX_CHARS: usize = 1000;
    if note.len() < 1024 {
        return note.to_owned();
    }
    note.chars()
        .filter(char::is_ascii)
        .take(MAX_CHARS)
        .chain(['…'])
        .collect()
}
