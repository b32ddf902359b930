//! The last requests to the API, for tests that ask what a client did.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

const MAX_ENTRIES: usize = 10_000;

#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub seq: u64,
    pub time: Timestamp,
    pub method: String,
    /// With the query.
    pub path: String,
    /// The `Host` that was asked: clients with an address each can be told apart.
    pub host: Option<String>,
    /// What was or would have been answered.
    pub status: u16,
    /// The fault that hit the request.
    pub fault: Option<&'static str>,
    /// Of a write whose body was JSON.
    pub body: Option<Value>,
    /// Which of the known tokens (in the order of the settings, then of their first use) was shown.
    pub token: Option<usize>,
}

#[derive(Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
    last_seq: u64,
}

impl Journal {
    /// Appends the entry under the next number.
    pub fn push(&mut self, entry: Entry) {
        self.last_seq += 1;
        self.entries.push_back(Entry {
            seq: self.last_seq,
            ..entry
        });
        if self.entries.len() > MAX_ENTRIES {
            self.entries.pop_front();
        }
    }

    pub fn since(&self, seq: u64) -> Vec<&Entry> {
        self.entries
            .iter()
            .filter(|entry| entry.seq > seq)
            .collect()
    }

    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}
