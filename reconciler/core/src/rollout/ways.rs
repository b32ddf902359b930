//! Which stage may follow which. Nothing is decided by it: tests hold against it whatever they meet, and docs/states.md is
//! written from it.

use std::fmt::Write as _;

use crate::system::Phase;

/// What a ticket is at before anybody has looked.
pub const GRANTED: &str = "granted";

/// A stage, and what a leader finds a ticket at when it looks next.
#[derive(Debug)]
pub struct Way {
    pub from: &'static str,
    pub next: &'static [&'static str],
    part: Part,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The node was not told anything.
    Before,
    /// It was to be told, and that can't be seen.
    Unseen,
    /// It was told.
    Told,
    /// The ticket ends, or goes on under another number.
    Over,
}

#[rustfmt::skip]
pub const WAYS: [Way; 24] = [
    way(Part::Before, GRANTED,
        &["cordon", "drain", "hand-over", "snapshot", "try", "applying", "out-of-time", "withdrawn"]),
    way(Part::Before, "cordon", &["drain", "try", "out-of-time", "withdrawn"]),
    way(Part::Before, "drain", &["force", "hand-over", "snapshot", "try", "out-of-time", "withdrawn"]),
    way(Part::Before, "force", &["try", "out-of-time", "withdrawn"]),
    way(Part::Before, "hand-over", &["snapshot", "try", "out-of-time", "withdrawn"]),
    way(Part::Before, "snapshot", &["try", "out-of-time", "withdrawn"]),
    way(Part::Before, "try", &["applying", "unsent", "out-of-time", "withdrawn"]),
    way(Part::Before, "out-of-time", &[]),
    way(Part::Before, "withdrawn", &[]),
    way(Part::Unseen, "unsent", &["try", "applying", "unordered"]),
    way(Part::Unseen, "unordered", &["try", "withdrawn"]),
    way(Part::Told, "applying",
        &["verifying", "keep", "go-back", "going-back", "went-back", "try-again", "reset", "stuck"]),
    way(Part::Told, "verifying", &["keep", "go-back", "going-back", "try-again", "stuck"]),
    way(Part::Told, "keep", &["keeping", "done"]),
    way(Part::Told, "keeping", &["done", "went-back", "try-again", "stuck"]),
    way(Part::Told, "go-back", &["going-back"]),
    way(Part::Told, "going-back", &["went-back", "try-again", "reset", "stuck"]),
    way(Part::Told, "reset", &["going-back"]),
    way(Part::Told, "stuck", &["keep", "reset", "try-again", "released"]),
    way(Part::Over, "try-again", &[]),
    way(Part::Over, "done", &[]),
    way(Part::Over, "went-back", &[]),
    way(Part::Over, "released", &[]),
    way(Part::Over, "lost", &[]),
];

const STAGES: &str = "\
# States

Written from the code (`rollout/ways.rs` and `Phase::next`) by a test that fails when it differs:
`BLESS=1 cargo test -p fabrik-core --test states`. What each state means is said where it is defined: `rollout::Stage` and
`system::Phase`. [How a new system reaches the nodes](updates.md) has the story.

## A ticket for an update, as the leader sees it

An arrow is from what a leader found to what it, or the next one, finds when it looks again. `make sim` fails when one of
these never happens.

";

const SELDOM: &str = "
Round ends are where the ticket ends; after `try-again` it goes on under another number. From anywhere a ticket may be
`lost`. Where much happened between two looks (a request that was late, a `FabrikNode` that was deleted, another commit), a
leader may find a ticket further on, or elsewhere before or after the order. What never happens, and fails the simulation
and the tests: a node that was told is cordoned, drained or told to try again under the same number; what is over goes on
(but for `going-back`, by the clock of another leader: a reset may still come); or anything but `stuck` is `released`.
";

const PHASES: &str = "
## An order, as the node's agent goes through it

Each phase is in the journal on the disk before anything of it is begun. The agent's tests fail when something else
happens, and when one of these never does.

";

const fn way(part: Part, from: &'static str, next: &'static [&'static str]) -> Way {
    Way { from, next, part }
}

/// Whether a ticket may be at `to` that was at `from` at the last look.
pub fn leads(from: &str, to: &str) -> bool {
    let find = |stage: &str| WAYS.iter().find(|way| way.from == stage);
    let (Some(before), Some(now)) = (find(from), find(to)) else {
        return false;
    };
    let skips = match (before.part, now.part) {
        (Part::Told, Part::Before) => false,
        // By the clock of another leader a reset may still come.
        (Part::Over, part) => part == Part::Unseen || to == "going-back",
        _ => !["released", GRANTED].contains(&to),
    };
    before.next.contains(&to) || skips || to == "lost"
}

/// docs/states.md.
pub fn document() -> String {
    let stages = WAYS.iter().map(|way| (way.from, way.next.to_vec()));
    let phases = Phase::ALL.into_iter().map(|phase| {
        let next = phase.next().iter().map(|next| next.name());
        (phase.name(), next.collect())
    });
    [STAGES, &chart(stages), SELDOM, PHASES, &chart(phases)].concat()
}

fn chart<'a>(ways: impl Iterator<Item = (&'a str, Vec<&'a str>)>) -> String {
    // Mermaid takes no hyphens in the names of its nodes.
    let id = |name: &str| name.replace('-', "_");
    let mut text = String::from("```mermaid\nflowchart TD\n");
    for (from, next) in ways {
        let ends = next.is_empty();
        let (open, close) = if ends { ("([", "])") } else { ("[", "]") };
        let _infallible = writeln!(text, "  {}{open}{from}{close}", id(from));
        for to in next {
            let _infallible = writeln!(text, "  {} --> {}", id(from), id(to));
        }
    }
    text.push_str("```\n");
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_way_leads_to_another_stage_that_is_there() {
        let stages: BTreeSet<&str> = WAYS.iter().map(|way| way.from).collect();
        assert_eq!(stages.len(), WAYS.len());
        for way in &WAYS {
            let next: BTreeSet<&str> = way.next.iter().copied().collect();
            assert_eq!(next.len(), way.next.len(), "{}", way.from);
            assert!(next.is_subset(&stages), "{}", way.from);
            assert!(!next.contains(way.from), "{}", way.from);
        }
    }

    #[test]
    fn what_was_told_is_not_told_again_and_what_is_over_is_over() {
        assert!(
            leads("drain", "try") && leads("drain", "verifying"),
            "a look may skip"
        );
        assert!(leads("keep", "lost") && leads("done", "lost"));
        for (from, to) in [
            ("applying", "drain"),
            ("went-back", "try"),
            ("done", "keep"),
            ("applying", "released"),
        ] {
            assert!(!leads(from, to), "{from} → {to}");
        }
    }
}
