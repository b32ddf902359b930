//! The node's own side: `fabrik agent`, and what it does to the NixOS machine that it runs on.
//!
//! Nothing here decides: what comes next is said by `fabrik_core::agent`, whether a node may go down by the leader. It
//! holds no token of the cloud and no key of the repository; it speaks with the kubelet's own certificate.

pub mod activate;
pub mod agent;
pub mod api;
pub mod boot;
pub mod closure;
pub mod config;
pub mod error;
pub mod front;
pub mod host_key;
pub mod identify;
pub mod identity;
pub mod look;
pub mod programs;
pub mod run;
pub mod secrets;
pub mod stage;
pub mod state;
pub mod unit;

pub use agent::Agent;
pub use config::AgentConfig;
pub use error::NodeError;
