//! The page of `fabrik status`. Pure: the same view is the same text.

use std::fmt::Write as _;

use fabrik_core::hold::{Hold, HoldReason};
use fabrik_core::id::CommitId;
use jiff::{SignedDuration, Timestamp};

use super::view::{NodeView, StatusView, UnitError, UnitView};
use super::words;
use crate::cluster::resources::{RolloutStatus, SystemStatus};

/// What a hold of all updates is about.
const ROLLOUT: &str = "rollout";

/// What is worst stands first; what is well takes one line.
pub fn render(view: &StatusView) -> String {
    let mut page = Page(String::new());
    page.paused(view);
    page.commits(view);
    page.refused(view);
    page.holds(view);
    page.pools(view);
    page.systems(view);
    page.units(view);
    page.0
}

/// How long ago, in the two largest units: `3 min 4 s`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let secs = now.duration_since(then).max(SignedDuration::ZERO).as_secs();
    let (days, hours, mins) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match (days, hours, mins) {
        (0, 0, 0) => format!("{secs} s ago"),
        (0, 0, mins) => format!("{mins} min {} s ago", secs % 60),
        (0, hours, mins) => format!("{hours} h {mins} min ago"),
        (days, hours, _) => format!("{days} d {hours} h ago"),
    }
}

struct Page(String);

impl Page {
    /// Words of others are in it, and may not steer the terminal.
    fn line(&mut self, text: impl AsRef<str>) {
        let text = text.as_ref().replace(|c: char| c.is_control(), " ");
        let _infallible = writeln!(self.0, "{text}");
    }

    /// Text under a heading, each of its lines indented.
    fn indented(&mut self, text: &str) {
        for line in text.lines() {
            self.line(format!("    {line}").trim_end());
        }
    }

    fn paused(&mut self, view: &StatusView) {
        let Some(paused) = &view.cluster.paused else {
            return;
        };
        let holds = &view.cluster.status.holds;
        let of_updates = |h: &&Hold| h.reason == HoldReason::Paused && h.about == ROLLOUT;
        let agrees = holds.iter().find(of_updates);
        self.line(match agrees {
            None => "!!! PAUSED: nothing is carried out !!!",
            Some(_) => "PAUSED: nothing is carried out",
        });
        self.line(format!(
            "    by {}, {}: {}",
            paused.by,
            ago(paused.at, view.at),
            paused.reason
        ));
        match agrees {
            None => self.line(
                "    by hand, and the repository does not say so: `paused` in [update] would hold updates",
            ),
            Some(hold) => self.line(format!("    and the repository agrees: the {hold}")),
        }
        self.line("    go on with: fabrik resume");
        self.line("");
    }

    fn commits(&mut self, view: &StatusView) {
        let status = &view.cluster.status;
        self.line(format!("cluster    {}", view.cluster.name));
        match &status.admitted_commit {
            Some(commit) => {
                let done = status.applied_commit.as_ref() == Some(commit);
                let progress = if done {
                    "carried out"
                } else {
                    "being carried out"
                };
                let subject = view.subject.iter().map(|s| format!("  {s}"));
                let subject: String = subject.collect();
                self.line(format!(
                    "in force   {}  {progress}{subject}",
                    commit.short()
                ));
            }
            None => self.line("in force   no commit yet: nothing has been admitted"),
        }
        if let Some(head) = &status.head_commit {
            self.line(format!(
                "branch at  {}{}",
                head.short(),
                standing(view, head)
            ));
        }
        if let Some(leader) = &status.leader {
            self.line(format!("leader     {leader}"));
        } else {
            let heard = view.cluster.leaderless_since;
            let heard = heard.map(|at| format!("; the last was heard of {}", ago(at, view.at)));
            self.line(format!(
                "leader     NONE: no replica of fabrik leads, so nothing happens{}",
                heard.unwrap_or_default()
            ));
        }
        if let Some(api) = &status.api {
            self.line(format!("api        {api}"));
        }
        // A refusal is told whole further down.
        let told_below = |_: &&str| status.refused.is_none();
        if let Some(message) = status
            .message
            .as_deref()
            .filter(told_below)
            .filter(|m| !m.is_empty())
        {
            self.line(format!("message    {message}"));
        }
    }

    fn refused(&mut self, view: &StatusView) {
        let Some(refused) = &view.cluster.status.refused else {
            return;
        };
        self.line("");
        self.line(format!(
            "REFUSED {}, {}; the commit in force stays",
            refused.commit.short(),
            ago(refused.at, view.at)
        ));
        for diagnostic in &refused.diagnostics {
            self.indented(&diagnostic.to_string());
        }
    }

    fn holds(&mut self, view: &StatusView) {
        let holds = &view.cluster.status.holds;
        if holds.is_empty() {
            return;
        }
        self.line("");
        self.line("WAITING (docs/operations.md has what helps, by the word at the end)");
        for hold in holds {
            self.indented(&words::hold(hold));
        }
    }

    fn pools(&mut self, view: &StatusView) {
        self.line("");
        let pools = &view.cluster.status.pools;
        if pools.is_empty() {
            self.line("pools      none");
        }
        let width = pools.keys().map(String::len).max().unwrap_or_default();
        for (name, pool) in pools {
            let moving = [(pool.joining, "joining"), (pool.leaving, "leaving")]
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!(", {count} {what}"));
            self.line(format!(
                "pool       {name:width$}  {} of {} ready{}",
                pool.ready,
                pool.wanted,
                moving.collect::<String>()
            ));
            // Those with a system have a line of their own.
            let told = |node: &&NodeView| {
                let mut systems = view.cluster.status.systems.iter();
                systems.all(|s| s.name != node.name)
            };
            for node in view.nodes.iter().filter(|n| n.pool == *name).filter(told) {
                self.node(node);
            }
        }
    }

    /// A line for each node that has a system to run, and how far they all are.
    fn systems(&mut self, view: &StatusView) {
        let status = &view.cluster.status;
        let Some(rollout) = &status.rollout else {
            return;
        };
        self.line("");
        self.line(format!(
            "rollout    {}{}",
            words::progress(view, rollout),
            outlook(view, rollout)
        ));
        let width = |of: fn(&SystemStatus) -> usize| status.systems.iter().map(of).max();
        let names = width(|n| n.name.len()).unwrap_or_default();
        let states = width(|n| n.state.len()).unwrap_or_default();
        for node in &status.systems {
            let since = ago(node.since, view.at);
            let since = since.strip_suffix(" ago").unwrap_or(&since);
            let runs = node.system.as_deref().unwrap_or("(unknown)");
            let wants = node.wants.iter().map(|w| format!(", is to run {w}"));
            let wants: String = wants.collect();
            let (name, state) = (&node.name, &node.state);
            self.line(format!(
                "node       {name:names$}  {state:states$}  for {since}, runs {runs}{wants}"
            ));
            if let Some(message) = &node.message {
                self.indented(message);
            }
        }
    }

    /// A node that has something to say.
    fn node(&mut self, node: &NodeView) {
        let state = node.state.as_deref().and_then(words::of_agent);
        let message = node.message.as_deref().filter(|m| !m.is_empty());
        let words: Vec<&str> = state.into_iter().chain(message).collect();
        if !words.is_empty() {
            self.indented(&format!("{}: {}", node.name, words.join(", ")));
        }
    }

    fn units(&mut self, view: &StatusView) {
        self.line("");
        let ready = view.units.iter().filter(|u| u.ready).count();
        self.line(format!("units      {ready} of {} ready", view.units.len()));
        for unit in view
            .units
            .iter()
            .filter(|u| !u.ready || !u.errors.is_empty())
        {
            self.unit(unit);
        }
    }

    fn unit(&mut self, unit: &UnitView) {
        self.line(format!(
            "  {}: {} of {} objects ready",
            unit.name, unit.ready_objects, unit.objects
        ));
        if let Some(message) = unit.message.as_deref().filter(|_| unit.errors.is_empty()) {
            self.indented(message);
        }
        for error in &unit.errors {
            self.indented(&sentence(error));
        }
    }
}

/// What is left of a rollout and when it ends, or that it stands still.
fn outlook(view: &StatusView, rollout: &RolloutStatus) -> String {
    let Some(summary) = &rollout.summary else {
        return String::new();
    };
    let stops = |h: &&Hold| h.about == ROLLOUT || h.about == "everything";
    match (view.cluster.status.holds.iter().find(stops), rollout.ends) {
        (Some(hold), _) => format!("; STANDS STILL ({:?}), left are {summary}", hold.reason),
        (None, Some(ends)) => format!("; {summary}, until {}", ends.strftime("%F %H:%M UTC")),
        (None, None) => format!("; {summary}"),
    }
}

/// Why the branch's head is not the commit in force, in a few words.
fn standing(view: &StatusView, head: &CommitId) -> &'static str {
    let status = &view.cluster.status;
    if status.admitted_commit.as_ref() == Some(head) {
        ""
    } else if status.refused.as_ref().is_some_and(|r| r.commit == *head) {
        "  REFUSED, see below"
    } else {
        "  being checked"
    }
}

fn sentence(error: &UnitError) -> String {
    match error {
        UnitError::Sentence(text) => text.clone(),
        UnitError::Parts {
            object,
            place,
            message,
            remedy,
        } => {
            let place = place.iter().map(|p| format!("{p}: ")).collect::<String>();
            let remedy = remedy.iter().filter(|r| !r.is_empty());
            let remedy = remedy.map(|r| format!("\n  → {r}")).collect::<String>();
            format!("{place}{object}: {message}{remedy}")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::status::view::ClusterView;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn a_cluster_that_is_well_fits_in_a_few_lines() {
        let view = view(
            json!({}),
            json!({
                "admittedCommit": A, "appliedCommit": A, "headCommit": A, "leader": "server-1",
                "pools": {"workers": {"wanted": 2, "ready": 2}},
            }),
        );
        let expected = "\
cluster    demo
in force   aaaaaaaa  carried out  Add a worker
branch at  aaaaaaaa
leader     server-1

pool       workers  2 of 2 ready

units      0 of 0 ready
";
        assert_eq!(render(&view), expected);
    }

    #[test]
    fn a_bad_night_is_told_whole() {
        let mut view = view(
            json!({"paused": {"by": "ada@laptop", "reason": "looking into etcd", "at": "2026-11-21T01:00:00Z"}}),
            json!({
                "admittedCommit": A, "headCommit": B,
                "refused": {"commit": B, "at": "2026-11-21T02:58:56Z", "diagnostics": [
                    {"place": {"file": "cluster.toml", "line": 3, "column": 9}, "object": "pool workers",
                     "problem": "`count` is 2000", "remedy": "write at most 1000"},
                    {"place": {"file": "manifests/web/app.yaml"}, "object": "Deployment web/shop",
                     "problem": "no name", "remedy": "give it metadata.name"}]},
                "holds": [{"about": "node demo-workers-k3x9qd", "reason": "DrainBlocked",
                    "message": "PodDisruptionBudget web/shop lets no pod go"}],
                "pools": {"workers": {"wanted": 1, "ready": 1, "leaving": 1}},
            }),
        );
        view.cluster.leaderless_since = Some("2026-11-21T02:59:00Z".parse().unwrap());
        view.nodes.push(NodeView {
            name: "demo-workers-k3x9qd".to_owned(),
            pool: "workers".to_owned(),
            server: Some(42),
            state: Some("draining".to_owned()),
            message: Some("2 pods left".to_owned()),
        });
        view.units.push(UnitView {
            name: "web".to_owned(),
            ready: false,
            objects: 3,
            ready_objects: 2,
            errors: vec![UnitError::Parts {
                object: "Service web/shop".to_owned(),
                place: Some("manifests/web/app.yaml:9".to_owned()),
                message: "spec.ports is required".to_owned(),
                remedy: Some("add a port".to_owned()),
            }],
            message: None,
        });
        let expected = "\
!!! PAUSED: nothing is carried out !!!
    by ada@laptop, 2 h 0 min ago: looking into etcd
    by hand, and the repository does not say so: `paused` in [update] would hold updates
    go on with: fabrik resume

cluster    demo
in force   aaaaaaaa  being carried out  Add a worker
branch at  bbbbbbbb  REFUSED, see below
leader     NONE: no replica of fabrik leads, so nothing happens; the last was heard of 1 min 0 s ago

REFUSED bbbbbbbb, 1 min 4 s ago; the commit in force stays
    cluster.toml:3:9: pool workers: `count` is 2000
      → write at most 1000
    manifests/web/app.yaml: Deployment web/shop: no name
      → give it metadata.name

WAITING (docs/operations.md has what helps, by the word at the end)
    node demo-workers-k3x9qd: PodDisruptionBudget web/shop lets no pod go (DrainBlocked)

pool       workers  1 of 1 ready, 1 leaving
    demo-workers-k3x9qd: draining, 2 pods left

units      0 of 1 ready
  web: 2 of 3 objects ready
    manifests/web/app.yaml:9: Service web/shop: spec.ports is required
      → add a port
";
        assert_eq!(render(&view), expected);
    }

    #[test]
    fn each_node_has_a_line_while_systems_roll() {
        let view = view(
            json!({}),
            json!({
                "admittedCommit": A, "appliedCommit": A, "headCommit": A, "leader": "server-1",
                "pools": {"workers": {"wanted": 1, "ready": 1}},
                "rollout": {"done": 1, "total": 2, "summary": "1 agent of pool workers, about a minute",
                    "ends": "2026-11-21T03:01:10Z"},
                "systems": [
                    {"name": "server-1", "pool": "servers", "state": "up to date",
                     "since": "2026-11-21T00:58:00Z", "system": "0123456-nixos"},
                    {"name": "demo-workers-k3x9qd", "pool": "workers", "state": "waiting",
                     "since": "2026-11-21T02:59:30Z", "wants": "89abcde-nixos", "message": "waits for the maintenance window"}],
            }),
        );
        let page = render(&view);
        let expected = "\
rollout    1 of 2 nodes are up to date; 1 agent of pool workers, about a minute, until 2026-11-21 03:01 UTC
node       server-1             up to date  for 2 h 2 min, runs 0123456-nixos
node       demo-workers-k3x9qd  waiting     for 30 s, runs (unknown), is to run 89abcde-nixos
    waits for the maintenance window
";
        assert!(page.contains(expected), "{page}");
    }

    #[test]
    fn nodes_of_which_nobody_knows_what_they_are_to_run_are_counted_apart() {
        let mut view = view(
            json!({}),
            json!({"rollout": {"done": 1, "total": 1}, "pools": {"workers": {"wanted": 2, "ready": 2}}, "systems": [
                {"name": "server-1", "pool": "servers", "state": "up to date", "since": "2026-11-21T00:58:00Z"},
                {"name": "server-2", "pool": "servers", "state": "joining", "since": "2026-11-21T00:58:00Z"}]}),
        );
        let node = |name: &str, state: &str| NodeView {
            name: name.to_owned(),
            pool: "workers".to_owned(),
            server: None,
            state: Some(state.to_owned()),
            message: None,
        };
        view.nodes = vec![
            node("server-1", "Steady"),
            node("a", "Steady"),
            node("b", "Fetching"),
        ];
        let page = render(&view);
        let expected =
            "1 of 1 nodes are up to date; what the other 2 are to run is not built yet\n";
        assert!(page.contains(expected), "{page}");
        assert!(page.contains("    b: fetches another system\n"), "{page}");
        assert!(!page.contains("Steady") && !page.contains("a: "), "{page}");
    }

    #[test]
    fn a_pause_by_hand_is_loud_until_the_repository_agrees() {
        let paused =
            json!({"paused": {"by": "ada", "reason": "etcd", "at": "2026-11-21T01:00:00Z"}});
        let page = |holds| {
            let status = json!({"holds": holds, "rollout":
                {"done": 0, "total": 1, "summary": "1 agent of pool workers, about a minute"}});
            render(&view(paused.clone(), status))
        };
        let by_hand = json!({"about": "everything", "reason": "Paused", "message": "paused: etcd"});
        let loud = page(json!([by_hand]));
        assert!(loud.starts_with("!!! PAUSED"), "{loud}");
        assert!(loud.contains("the repository does not say so"), "{loud}");
        let told = "0 of 1 nodes are up to date; STANDS STILL (Paused), left are 1 agent";
        assert!(loud.contains(told), "{loud}");
        let in_git = json!({"about": "rollout", "reason": "Paused", "message": "is paused in cluster.toml: etcd"});
        let agreed = page(json!([by_hand, in_git]));
        let expected = "\
PAUSED: nothing is carried out
    by ada, 2 h 0 min ago: etcd
    and the repository agrees: the rollout: is paused in cluster.toml: etcd
";
        assert!(agreed.starts_with(expected), "{agreed}");
    }

    #[test]
    fn a_cluster_without_any_commit_says_so() {
        let page = render(&view(json!({}), json!(null)));
        assert!(page.contains("in force   no commit yet"), "{page}");
        assert!(page.contains("pools      none"), "{page}");
    }

    #[test]
    fn times_are_told_in_two_units() {
        let now: Timestamp = "2026-11-21T03:00:00Z".parse().unwrap();
        let told = |then: &str| ago(then.parse().unwrap(), now);
        assert_eq!(told("2026-11-21T02:59:30Z"), "30 s ago");
        assert_eq!(told("2026-11-21T00:58:00Z"), "2 h 2 min ago");
        assert_eq!(told("2026-11-18T00:58:00Z"), "3 d 2 h ago");
        assert_eq!(told("2026-11-21T03:00:09Z"), "0 s ago", "clocks differ");
    }

    #[allow(clippy::needless_pass_by_value, reason = "callers write json!(…)")]
    fn view(spec: serde_json::Value, status: serde_json::Value) -> StatusView {
        let object = serde_json::from_value(json!({
            "apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikCluster",
            "metadata": {"name": "demo"}, "spec": spec, "status": status,
        }))
        .unwrap();
        StatusView {
            at: "2026-11-21T03:00:00Z".parse().unwrap(),
            subject: Some("Add a worker".to_owned()),
            cluster: ClusterView::of(&object).unwrap(),
            units: Vec::new(),
            nodes: Vec::new(),
        }
    }
}
