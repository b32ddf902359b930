//! The page of `fabrik plan`. Pure: the same plan is the same text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use fabrik_core::id::CommitId;
use fabrik_core::plan::{ManifestVerb, Plan, Planned};
use jiff::Timestamp;

use crate::cli::status::render::ago;
use crate::cli::status::words;
use crate::report::observed::Truncation;

/// How many pods that block are named; `--output json` has them all.
const MAX_BLOCKERS: usize = 20;

/// What a plan was made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub now: Timestamp,
    /// When the cluster looked like that.
    pub observed_at: Timestamp,
    pub in_force: Option<CommitId>,
    pub truncated: Vec<Truncation>,
    /// Encrypted manifests that no key here opens and that do not show their objects' names.
    pub unread: Vec<String>,
    /// What else is not in the plan, in sentences.
    pub notes: Vec<String>,
    /// The plan is of files as they are, not of a commit.
    pub in_directory: bool,
}

/// Servers first, then manifests, then what stands in the way, then how much the plan can be trusted.
pub fn render_plan(plan: &Plan, facts: &Facts) -> String {
    let mut page = String::new();
    let changes = [effects(plan), manifests(plan)].concat();
    if changes.is_empty() && plan.rollout.is_none() {
        line(
            &mut page,
            if facts.notes.is_empty() {
                "Nothing to do: the cluster is as this commit wants it."
            } else {
                "Nothing to do but what is not known of systems, see below."
            },
        );
    } else if !changes.is_empty() {
        let what = if facts.in_directory {
            "This directory"
        } else {
            plan.commit.short()
        };
        line(&mut page, format!("{what} will:"));
        for change in changes {
            line(&mut page, format!("  {change}"));
        }
    }
    if let Some(rollout) = &plan.rollout {
        line(
            &mut page,
            format!("The nodes take their systems: {rollout}."),
        );
    }
    if !plan.blockers.is_empty() {
        line(
            &mut page,
            "Keeps nodes from being drained, as things are now:",
        );
        for blocker in plan.blockers.iter().take(MAX_BLOCKERS) {
            line(&mut page, format!("  {blocker}"));
        }
        let more = plan.blockers.len().saturating_sub(MAX_BLOCKERS);
        if more > 0 {
            line(&mut page, format!("  and {more} more pods"));
        }
    }
    if !plan.holds.is_empty() {
        line(&mut page, "Waiting, as things are now:");
        for hold in &plan.holds {
            line(&mut page, format!("  {}", words::hold(hold)));
        }
    }
    line(&mut page, "");
    let seen = ago(facts.observed_at, facts.now);
    let in_force = facts.in_force.as_ref().map_or("no commit", CommitId::short);
    line(
        &mut page,
        format!("Planned on the cluster as it was {seen}, with {in_force} in force."),
    );
    for left_out in &facts.truncated {
        line(
            &mut page,
            format!("Left out of that observation: {}", consequence(*left_out)),
        );
    }
    if !facts.unread.is_empty() {
        let unread = facts.unread.join(", ");
        line(
            &mut page,
            format!("Not opened, and planned as if they were absent: {unread}"),
        );
    }
    for note in &facts.notes {
        line(&mut page, note);
    }
    page
}

fn line(page: &mut String, text: impl AsRef<str>) {
    let _infallible = writeln!(page, "{}", text.as_ref());
}

/// A sentence for all servers that arrive or leave in the same way, and one for each other effect.
fn effects(plan: &Plan) -> Vec<String> {
    let with = |verb: &str| {
        let effects = plan.effects.iter().filter(|e| e.verb == verb);
        effects.map(|e| e.target.as_str()).collect::<BTreeSet<_>>()
    };
    let (arriving, leaving) = (with("create-server"), with("delete-server"));
    let mut groups: BTreeMap<(usize, String), Vec<&str>> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for effect in &plan.effects {
        let target = effect.target.as_str();
        let sentence = match effect.verb.as_str() {
            "create-server" => format!("create{} ({})", in_pool(effect), effect.detail),
            // Told by the sentence about the server's arrival or departure.
            "label-node" if arriving.contains(target) => continue,
            "cordon" | "evict" | "power-off" | "delete-node" if leaving.contains(target) => {
                continue;
            }
            "delete-server" => format!(
                "drain and delete{}{}",
                in_pool(effect),
                because(plan, effect)
            ),
            verb => format!("{}{}", verb.replace('-', " "), in_pool(effect)),
        };
        let place = order
            .iter()
            .position(|s| *s == sentence)
            .unwrap_or_else(|| {
                order.push(sentence.clone());
                order.len() - 1
            });
        groups.entry((place, sentence)).or_default().push(target);
    }
    groups
        .into_iter()
        .map(|((_, sentence), targets)| {
            let count = if targets.len() > 1 {
                format!("{} × ", targets.len())
            } else {
                String::new()
            };
            format!("{count}{sentence}: {}", targets.join(", "))
        })
        .collect()
}

fn in_pool(effect: &Planned) -> String {
    effect
        .pool
        .iter()
        .map(|pool| format!(" in pool {pool}"))
        .collect()
}

/// Why a node leaves: any of its effects says it.
fn because(plan: &Plan, leaving: &Planned) -> String {
    let mut reasons = plan
        .effects
        .iter()
        .filter(|e| e.target == leaving.target && !e.detail.is_empty());
    reasons
        .next()
        .map(|e| format!(" ({})", e.detail))
        .unwrap_or_default()
}

fn manifests(plan: &Plan) -> Vec<String> {
    let lines = plan.manifests.iter().map(|change| {
        let sign = match change.verb {
            ManifestVerb::Create => "+ create",
            ManifestVerb::Update => "~ update",
            ManifestVerb::Move => "> move to this unit",
            ManifestVerb::Prune => "- prune",
        };
        format!("{sign} {} (unit {})", change.object, change.unit)
    });
    lines.collect()
}

fn consequence(left_out: Truncation) -> &'static str {
    match left_out {
        Truncation::History => {
            "the last hour's changes, so hourly limits may hold more than is said here."
        }
        Truncation::Digests => "digests, so unchanged objects are listed as updates.",
        Truncation::Inventories => "inventories, so nothing is known about manifests.",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn servers_are_told_together_and_manifests_one_by_one() {
        let plan = plan(
            json!([
                {"verb": "create-network", "target": "demo"},
                {"verb": "create-server", "target": "demo-workers-a", "pool": "workers", "detail": "cx33 in fsn1"},
                {"verb": "label-node", "target": "demo-workers-a", "pool": "workers"},
                {"verb": "create-server", "target": "demo-workers-b", "pool": "workers", "detail": "cx33 in fsn1"},
                {"verb": "label-node", "target": "demo-workers-b", "pool": "workers"},
                {"verb": "label-node", "target": "demo-old-x", "pool": "old"},
                {"verb": "cordon", "target": "demo-old-z", "pool": "old", "detail": "the pool has more nodes than its count"},
                {"verb": "delete-server", "target": "demo-old-z", "pool": "old"},
            ]),
            json!([
                {"unit": "web", "object": "Deployment.apps/web/shop", "verb": "create"},
                {"unit": "web", "object": "Service/web/shop", "verb": "update"},
                {"unit": "web", "object": "ConfigMap/web/old", "verb": "prune"},
            ]),
            json!([{"about": "pool old", "reason": "Budget", "message": "one node is down already"}]),
        );
        let expected = "\
bbbbbbbb will:
  create network: demo
  2 × create in pool workers (cx33 in fsn1): demo-workers-a, demo-workers-b
  label node in pool old: demo-old-x
  drain and delete in pool old (the pool has more nodes than its count): demo-old-z
  + create Deployment.apps/web/shop (unit web)
  ~ update Service/web/shop (unit web)
  - prune ConfigMap/web/old (unit web)
Waiting, as things are now:
  pool old: one node is down already (Budget)

Planned on the cluster as it was 12 s ago, with aaaaaaaa in force.
";
        assert_eq!(render_plan(&plan, &facts(Vec::new())), expected);
    }

    #[test]
    fn pods_that_will_block_a_drain_are_named_beforehand() {
        let mut plan = plan(json!([]), json!([]), json!([]));
        let blocker = |number: usize| {
            let blocker = json!({"node": "w-1", "namespace": "web", "pod": format!("shop-{number}"),
                "budget": "shop", "why": "it needs 5 healthy pods and has 5"});
            serde_json::from_value(blocker).unwrap()
        };
        plan.blockers = (0..22).map(blocker).collect();
        let page = render_plan(&plan, &facts(Vec::new()));
        let named = "  pod web/shop-0 blocks node w-1 because of PodDisruptionBudget web/shop: it needs 5 healthy pods and has 5\n";
        assert!(page.contains(named), "{page}");
        assert!(page.contains("  and 2 more pods\n"), "{page}");
    }

    #[test]
    fn nothing_to_do_is_said_and_so_is_what_the_plan_can_not_know() {
        let page = render_plan(
            &plan(json!([]), json!([]), json!([])),
            &facts(vec![Truncation::Digests]),
        );
        assert!(page.starts_with("Nothing to do"), "{page}");
        assert!(
            page.contains("unchanged objects are listed as updates"),
            "{page}"
        );
    }

    #[allow(clippy::needless_pass_by_value, reason = "callers write json!(…)")]
    fn plan(effects: Value, manifests: Value, holds: Value) -> Plan {
        let commit = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
        serde_json::from_value(
            json!({"commit": commit, "effects": effects, "manifests": manifests, "holds": holds}),
        )
        .unwrap()
    }

    fn facts(truncated: Vec<Truncation>) -> Facts {
        Facts {
            now: "2026-11-21T12:00:12Z".parse().unwrap(),
            observed_at: "2026-11-21T12:00:00Z".parse().unwrap(),
            in_force: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".parse().ok(),
            truncated,
            unread: Vec::new(),
            notes: Vec::new(),
            in_directory: false,
        }
    }
}
