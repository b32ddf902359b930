//! What happened to servers, in order, for those who run machines behind the emulator.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::Serialize;

/// Older events than these are dropped.
const MAX_EVENTS: usize = 10_000;

#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// Counts from 1, without gaps.
    pub seq: u64,
    pub time: Timestamp,
    pub kind: EventKind,
    pub server: u64,
    pub name: String,
    pub ipv4: Option<Ipv4Addr>,
    /// What the machine boots, where it boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boots: Option<Boots>,
    /// Of `snapshot` the image that is made, of `created` the one that the disk is made of, of `image_deleted` the one that
    /// is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Boots {
    Disk,
    Rescue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// The server exists; it is not on yet.
    Created,
    /// Power came on.
    Running,
    /// Somebody pressed the power button: a healthy machine shuts itself down.
    ShutdownRequested,
    /// Power went off.
    Off,
    /// A healthy machine rebooted in order.
    Rebooted,
    /// Power was cut and came back.
    Reset,
    /// A snapshot of the disk as it is now is being made.
    Snapshot,
    /// A snapshot of this server's disk was deleted; the server may be gone since long.
    ImageDeleted,
    Deleted,
}

impl EventKind {
    pub const fn is_boot(self) -> bool {
        matches!(self, Self::Running | Self::Rebooted | Self::Reset)
    }
}

#[derive(Debug, Default)]
pub struct EventLog {
    events: VecDeque<Event>,
    last_seq: u64,
}

impl EventLog {
    /// Appends the event under the next number.
    pub fn push(&mut self, event: Event) {
        self.last_seq += 1;
        self.events.push_back(Event {
            seq: self.last_seq,
            ..event
        });
        if self.events.len() > MAX_EVENTS {
            self.events.pop_front();
        }
    }

    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub fn since(&self, seq: u64) -> Vec<Event> {
        self.events
            .iter()
            .filter(|event| event.seq > seq)
            .cloned()
            .collect()
    }
}
