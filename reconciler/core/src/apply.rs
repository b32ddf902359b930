//! Decisions about manifests: what changes, in which order, what may be pruned, whose field it is, what is healthy.
//!
//! Nothing here talks to an API server; live objects arrive as JSON and leave as verdicts.

mod changes;
mod conflict;
mod health;
mod order;
mod prune;

pub use changes::{PENDING, changes};
pub use conflict::{Conflict, Owner, Verdict, verdict};
pub use health::{Health, has_health, health};
pub use order::{Stage, stage};
pub use prune::{
    Allowance, Candidate, Pruning, allowance, is_protected, prune, throttled, waiting, waits_for,
};
