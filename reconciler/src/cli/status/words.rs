//! What a person reads in the place of words that programs say to one another.

use std::collections::BTreeSet;

use fabrik_core::hold::Hold;

use super::view::StatusView;
use crate::cluster::resources::RolloutStatus;

/// The sentence first; the word is what `docs/operations.md` has it by.
pub fn hold(hold: &Hold) -> String {
    format!("{hold} ({:?})", hold.reason)
}

/// What an agent says of its node. `None` where that is nothing.
pub fn of_agent(state: &str) -> Option<&str> {
    match state {
        "" | "Steady" => None,
        "Fetching" => Some("fetches another system"),
        "Staged" => Some("has another system, and does not run it yet"),
        "Accepted" => Some("is about to try another system"),
        "Applying" => Some("changes to another system"),
        "Trying" => Some("tries another system"),
        "GoingBack" => Some("goes back to the system before"),
        "Failed" => Some("could not change its system"),
        state => Some(state),
    }
}

/// How many nodes are up to date, and of how many that is not known, because nobody knows yet what they are to run.
pub fn progress(view: &StatusView, rollout: &RolloutStatus) -> String {
    let (done, total) = (rollout.done, rollout.total);
    let comes_or_goes = |state: &str| matches!(state, "joining" | "leaving");
    let systems = &view.cluster.status.systems;
    let systems = systems.iter().filter(|s| !comes_or_goes(&s.state));
    let nodes = view.nodes.iter().map(|node| &node.name);
    let all: BTreeSet<_> = systems.map(|s| &s.name).chain(nodes).collect();
    let counted = format!("{done} of {total} nodes are up to date");
    match all.len().saturating_sub(total as usize) {
        0 => counted,
        others => format!("{counted}; what the other {others} are to run is not built yet"),
    }
}
