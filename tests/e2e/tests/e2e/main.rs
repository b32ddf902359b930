//! One program, so that the stories play beside one another: each mostly waits, for a machine to boot or a Lease to end.

mod chaos;
mod crash;
mod destroy;
mod endpoint;
mod forgery;
mod hetzner_faults;
mod leader;
mod machines;
mod manifests;
mod node_secrets;
mod nonsense;
mod plan;
mod restore;
mod rolling;
mod secrets;
mod seed;
mod servers;
mod shrink;
mod split;
mod standalone;
mod template;
mod tutorial;
mod unreadable;
mod verbs;
mod workers;
