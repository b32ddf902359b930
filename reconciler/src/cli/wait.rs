//! `fabrik wait REV`: until a commit is in force and carried out, or until it can't be.

use std::io;
use std::process::ExitCode;

use clap::Args;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::id::CommitId;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::runtime::{WatchStreamExt, watcher};

use super::access::{AccessError, ClusterOptions};
use super::checkout::Checkout;
use super::status::view::ClusterView;
use super::{Failure, leader, say};

#[derive(Debug, Args)]
pub struct Options {
    /// A branch, a tag or a commit of the checkout that you are in; elsewhere a commit id or its beginning.
    rev: String,
    /// How long to wait, as `20m` or `90s`. A commit that makes servers takes as long as Hetzner and their first boot.
    #[arg(long, default_value = "20m")]
    timeout: SignedDuration,
    #[command(flatten)]
    cluster: ClusterOptions,
}

/// The shortest beginning of a commit id that is taken for one.
const MIN_PREFIX: usize = 7;

#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is no commit that this checkout knows and no commit id of {MIN_PREFIX} to 40 hex digits: fetch, or give the \
     whole id"
)]
struct UnknownRevision(String);

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let checkout = Checkout::here();
    let wanted = Wanted::of(&options.rev, checkout.as_ref())?;
    let access = options.cluster.open().await?;
    let limit = options.timeout.unsigned_abs();
    let mut last = None;
    let follow = async {
        let this = watcher::Config::default().fields(&format!("metadata.name={}", access.cluster));
        let mut changes = watcher(access.clusters(), this)
            .default_backoff()
            .applied_objects()
            .boxed();
        while let Some(change) = changes.next().await {
            let cluster = match change {
                Ok(object) => ClusterView::of(&object)?,
                Err(error) => {
                    tracing::warn!(%error, "the watch was interrupted");
                    continue;
                }
            };
            let standing = standing(&cluster, &wanted, last.as_ref(), checkout.as_ref());
            if standing != Standing::Underway {
                return Ok(standing);
            }
            last = Some(cluster);
        }
        Ok::<_, AccessError>(Standing::Underway)
    };
    let standing = match tokio::time::timeout(limit, follow).await {
        Ok(standing) => standing?,
        Err(_elapsed) => Standing::Underway,
    };
    if let (Standing::Underway, Some(last)) = (&standing, &mut last)
        && let Ok(leader) = leader::read(&access, Timestamp::now()).await
    {
        last.set_leader(leader);
    }
    Ok(report(&standing, &wanted, last.as_ref(), options.timeout)?)
}

/// The commit that is waited for: its id, or how it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted(String);

impl Wanted {
    fn of(rev: &str, checkout: Option<&Checkout>) -> Result<Self, UnknownRevision> {
        if let Some(commit) = checkout.and_then(|c| c.resolve(rev)) {
            return Ok(Self(commit.to_string()));
        }
        let is_id =
            (MIN_PREFIX..=40).contains(&rev.len()) && rev.bytes().all(|b| b.is_ascii_hexdigit());
        if is_id {
            Ok(Self(rev.to_ascii_lowercase()))
        } else {
            Err(UnknownRevision(rev.to_owned()))
        }
    }

    fn is(&self, commit: &CommitId) -> bool {
        commit.as_str().starts_with(&self.0)
    }
}

/// Where the wanted commit stands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Not decided yet, or in force and not carried out yet.
    Underway,
    Done,
    Refused(Vec<Diagnostic>),
    Superseded {
        by: CommitId,
    },
}

/// `before` is the cluster as it was last seen: a commit that was in force then and is no longer was superseded.
fn standing(
    cluster: &ClusterView,
    wanted: &Wanted,
    before: Option<&ClusterView>,
    checkout: Option<&Checkout>,
) -> Standing {
    let status = &cluster.status;
    let was_applied = status.applied_commit.as_ref().is_some_and(|c| wanted.is(c));
    if was_applied && cluster.in_force().is_none_or(|c| wanted.is(c)) {
        return Standing::Done;
    }
    if let Some(refused) = status.refused.as_ref().filter(|r| wanted.is(&r.commit)) {
        return Standing::Refused(refused.diagnostics.clone());
    }
    // The tip of the branch is judged first, also where it is an older commit.
    let is_tip = status.head_commit.as_ref().is_some_and(|c| wanted.is(c));
    let Some(in_force) = cluster.in_force().filter(|c| !wanted.is(c) && !is_tip) else {
        return Standing::Underway;
    };
    let was_in_force = before
        .and_then(ClusterView::in_force)
        .is_some_and(|c| wanted.is(c));
    let is_older = || {
        let ours: CommitId = wanted.0.parse().ok()?;
        checkout?.descends(in_force, &ours)
    };
    if was_applied || was_in_force || is_older() == Some(true) {
        Standing::Superseded {
            by: in_force.clone(),
        }
    } else {
        Standing::Underway
    }
}

fn report(
    standing: &Standing,
    wanted: &Wanted,
    last: Option<&ClusterView>,
    waited: SignedDuration,
) -> io::Result<ExitCode> {
    let short: String = wanted.0.chars().take(8).collect();
    match standing {
        Standing::Done => {
            say(format_args!("{short} is in force and carried out."))?;
            return Ok(ExitCode::SUCCESS);
        }
        Standing::Refused(diagnostics) => {
            eprintln!("{short} was refused; the commit in force stays:");
            for diagnostic in diagnostics {
                eprintln!("{diagnostic}");
            }
        }
        Standing::Superseded { by } => {
            eprintln!(
                "{short} is not in force: {by}, which comes after it, is. Wait for {by}, or revert commits to go back.",
                by = by.short()
            );
        }
        Standing::Underway => {
            eprintln!("{short} is not carried out after {waited:#}.");
            eprintln!("{}", whereabouts(wanted, last));
        }
    }
    Ok(ExitCode::FAILURE)
}

/// Where a commit stands that was not carried out in time.
fn whereabouts(wanted: &Wanted, last: Option<&ClusterView>) -> String {
    let Some(cluster) = last else {
        return "The cluster did not answer.".to_owned();
    };
    let status = &cluster.status;
    if status.leader.is_none() {
        let heard = cluster.leaderless_since;
        let heard = heard.map(|at| format!(" The last was heard of at {at:.0}."));
        return format!(
            "No replica of fabrik leads, so nothing is fetched or carried out.{} On each control-plane node: \
             journalctl -u fabrik",
            heard.unwrap_or_default()
        );
    }
    if cluster.paused.is_some() {
        return "The cluster is PAUSED: `fabrik resume` lets it go on.".to_owned();
    }
    if !cluster.in_force().is_some_and(|c| wanted.is(c)) {
        return match &status.head_commit {
            Some(head) if wanted.is(head) => "It was fetched and is being checked.".to_owned(),
            Some(head) => format!(
                "fabrik has not seen it: the branch is at {}. Was it pushed?",
                head.short()
            ),
            None => "fabrik has fetched nothing yet.".to_owned(),
        };
    }
    let holds: Vec<String> = status.holds.iter().map(ToString::to_string).collect();
    if holds.is_empty() {
        "It is in force and being carried out; `fabrik status` shows how far.".to_owned()
    } else {
        format!("It is in force, and this waits:\n  {}", holds.join("\n  "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OLD: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const OURS: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
    const NEXT: &str = "cccccccccccccccccccccccccccccccccccccccc";

    #[test]
    fn a_commit_is_done_when_it_is_carried_out_and_not_before() {
        let wanted = Wanted("bbbbbbb".to_owned());
        let fetched =
            cluster(json!({"admittedCommit": OLD, "appliedCommit": OLD, "headCommit": OURS}));
        assert_eq!(standing(&fetched, &wanted, None, None), Standing::Underway);
        let in_force = cluster(json!({"admittedCommit": OURS, "appliedCommit": OLD}));
        assert_eq!(
            standing(&in_force, &wanted, Some(&fetched), None),
            Standing::Underway
        );
        let done = cluster(json!({"admittedCommit": OURS, "appliedCommit": OURS}));
        assert_eq!(
            standing(&done, &wanted, Some(&in_force), None),
            Standing::Done
        );
    }

    #[test]
    fn a_commit_that_lost_its_turn_is_superseded() {
        let wanted = Wanted(OURS.to_owned());
        let in_force = cluster(json!({"admittedCommit": OURS}));
        let next = cluster(json!({"admittedCommit": NEXT}));
        let by = NEXT.parse().unwrap();
        assert_eq!(
            standing(&next, &wanted, Some(&in_force), None),
            Standing::Superseded { by }
        );
        assert_eq!(
            standing(&next, &wanted, None, None),
            Standing::Underway,
            "it may come yet"
        );
    }

    #[test]
    fn a_rewound_tip_is_waited_for_until_it_is_judged() {
        let wanted = Wanted(OURS.to_owned());
        let in_force = cluster(json!({"admittedCommit": OURS, "headCommit": OURS}));
        let rewound = cluster(json!({"admittedCommit": NEXT, "headCommit": OURS}));
        assert_eq!(
            standing(&rewound, &wanted, Some(&in_force), None),
            Standing::Underway
        );
    }

    #[test]
    fn a_refused_commit_is_refused_with_its_reasons() {
        let refused = cluster(json!({"admittedCommit": OLD, "refused": {
            "commit": OURS, "at": "2026-11-21T03:00:00Z", "diagnostics": [
                {"place": {"file": "cluster.toml"}, "object": "the file", "problem": "is missing", "remedy": "add it"}]}}));
        let Standing::Refused(diagnostics) =
            standing(&refused, &Wanted(OURS.to_owned()), None, None)
        else {
            panic!("not refused");
        };
        assert_eq!(diagnostics.len(), 1);
    }

    #[test]
    fn what_is_in_the_way_is_said_after_the_timeout() {
        let wanted = Wanted(OURS.to_owned());
        let says = |mut status: serde_json::Value| {
            status["leader"] = json!("server-1");
            whereabouts(&wanted, Some(&cluster(status)))
        };
        let leaderless = whereabouts(&wanted, Some(&cluster(json!({"headCommit": OLD}))));
        assert!(
            leaderless.contains("No replica of fabrik leads"),
            "{leaderless}"
        );
        assert!(says(json!({"headCommit": OLD})).contains("Was it pushed?"));
        assert!(says(json!({"headCommit": OURS})).contains("being checked"));
        let held = json!({"admittedCommit": OURS, "holds": [
            {"about": "pool workers", "reason": "Budget", "message": "one node is down already"}]});
        assert!(says(held).contains("pool workers: one node is down already"));
    }

    #[test]
    fn only_what_can_be_a_commit_is_waited_for() {
        assert_eq!(
            Wanted::of("ABCDEF1", None).unwrap(),
            Wanted("abcdef1".to_owned())
        );
        assert!(Wanted::of("abc", None).is_err());
        assert!(
            Wanted::of("main", None)
                .unwrap_err()
                .to_string()
                .contains("`main`")
        );
    }

    #[allow(clippy::needless_pass_by_value, reason = "callers write json!(…)")]
    fn cluster(status: serde_json::Value) -> ClusterView {
        let object = serde_json::from_value(json!({
            "apiVersion": "fabrik.dev/v1alpha1", "kind": "FabrikCluster",
            "metadata": {"name": "demo"}, "spec": {}, "status": status,
        }))
        .unwrap();
        ClusterView::of(&object).unwrap()
    }
}
