//! What a seed needs of Hetzner before there is a cluster: what can be had and at what price, who has which name, a temporary
//! server in rescue, and snapshots. Each thing is looked at right before it is touched, and each action is waited for.

mod action;
mod holders;
mod key;
mod machine;
mod offer;
mod snapshot;

pub use self::holders::{IMAGE_SUFFIX, cluster_called, holders, key_name, network_range};
pub use self::key::{delete_key, find_key, register_key};
pub use self::machine::{
    Machines, create_image_server, delete_image_server, enable_rescue, machines, mark_written,
    power_off, power_on, take_snapshot,
};
pub use self::offer::offer;
pub use self::snapshot::{delete_snapshot, is_being_made, paper, snapshots};
