//! The test bed: real control planes, git servers, the Hetzner emulator and machines, in seconds,
//! on one machine, without containers.
//!
//! What is real: etcd, the API server, the controller manager, the scheduler, KWOK, git, sshd and
//! sops. What stands in, and is named so: the kubelet's node half ([`kubelet`]), the k3s supervisor
//! ([`supervisor`]), and Hetzner (the emulator). A bed takes everything down when it is dropped, and
//! its processes end with it even when it is killed.

mod agent;
pub mod audit;
mod balancer;
mod bed;
pub mod bench;
mod clusters;
pub mod control_plane;
pub mod demo;
mod disks;
pub mod emulator;
mod etcd;
pub mod fabrik;
pub mod fleet;
pub mod git;
mod inside;
mod join;
mod k3s;
pub mod kubeconfig;
pub mod kubelet;
pub mod laptop;
pub mod load_balancer;
pub mod machine;
mod namespaces;
pub mod parts;
pub mod pki;
pub mod process;
pub mod repository;
mod rights;
mod root_shell;
pub mod scripted;
pub mod server;
mod slot;
mod sshd;
pub mod supervisor;
mod switch;
pub mod system;
pub mod wait;

pub use bed::{Bed, Options, Transport};
pub use machine::{Machine, State};
pub use root_shell::RootShell;
pub use system::{Build, SystemChange};
