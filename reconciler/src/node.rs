//! The node's own side: what `fabrik agent` does to the NixOS machine that it runs on.
//!
//! Nothing here decides when: the ticket, the drain and the verdict come from elsewhere.

pub mod boot;
