//! fabrik: git → admitted commit → plan → Hetzner and Kubernetes → status.
//!
//! The rooms: `repo` reads git, `secrets` opens SOPS files, `hetzner` and `cluster` observe and carry out, `reconcile`
//! is the leader's loop, `report` tells what happened, `seed` brings a cluster up, `handover` and `join` bring a server its
//! secrets, `restore` brings etcd back on one that is left, `node` is the agent of every node, `cli` is the human side.
//! Decisions are in `fabrik-core`.

pub mod apply;
pub mod build;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod delivery;
pub mod gate;
pub mod handover;
pub mod hetzner;
pub mod join;
pub mod machine;
pub mod node;
pub mod publication;
pub mod reconcile;
pub mod repo;
pub mod report;
pub mod restore;
pub mod secrets;
pub mod seed;
pub mod signing;
pub mod tls;
