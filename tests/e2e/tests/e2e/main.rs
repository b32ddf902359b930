//! One program, so that the stories play beside one another: each mostly waits, for a machine to boot or a Lease to end.

mod chaos;
mod crash;
mod destroy;
mod hetzner_faults;
mod machines;
mod nodes;
mod pushes;
mod replicas;
mod restore;
mod rolling;
mod secrets;
mod seed;
mod servers;
mod shrink;
mod standalone;
mod template;
mod tutorial;
mod verbs;
mod workers;
