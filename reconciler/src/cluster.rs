//! Kubernetes: what is there (`nodes`, `ledger`), who leads (`lease`), and the few things that are done to Nodes.
//!
//! Nothing here decides; manifests are applied elsewhere. What changes something names its object by UID or resource
//! version, so that another object of the same name is never hit.

pub mod admins;
pub mod connect;
pub mod credentials;
pub mod error;
pub mod etcd;
pub mod events;
pub mod found;
pub mod founding;
pub mod lease;
pub mod ledger;
pub mod nodes;
pub mod resources;
pub mod tokens;
pub mod triggers;
pub mod user_data;
pub mod wishes;

pub use connect::Clients;
pub use error::ClusterError;
pub use found::{FoundError, FoundOptions, Founded, found};
pub use ledger::{LedgerError, LedgerStore};
