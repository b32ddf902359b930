//! One program, so that the beds stand beside one another.

mod control_plane;
mod disks;
mod empty;
mod git_servers;
mod side_by_side;
mod ssh;
mod systems;
