//! Every decision that fabrik makes, and nothing else.
//!
//! A function here takes what was read and observed and returns what should be done. This crate can't do IO: its
//! dependencies hold no async runtime, no network, no file system, no clock and no randomness (`tests/io_free.rs`
//! keeps it so). Time arrives as an argument.

pub mod admit;
pub mod adopt;
pub mod agent;
pub mod apply;
pub mod arrival;
pub mod departure;
pub mod desired;
pub mod destroy;
pub mod diagnostic;
pub mod disruption;
pub mod drain;
pub mod effect;
pub mod endpoint;
pub mod guard;
mod hex;
pub mod hold;
pub mod id;
pub mod image;
pub mod infrastructure;
pub mod join;
pub mod ladder;
pub mod ledger;
pub mod machines;
pub mod manifest;
pub mod mark;
mod merge;
pub mod names;
pub mod observed;
pub mod plan;
pub mod pool;
pub mod price;
pub mod quorum;
pub mod restore;
pub mod rollout;
pub mod secrets;
pub mod seed;
pub mod servers;
pub mod spec;
pub mod step;
pub mod system;
pub mod window;

pub use hex::hex;
