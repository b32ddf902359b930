//! `fabrik restore`: on a server of the control plane, when a quorum of them is lost for good.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use fabrik_core::restore::{Machine, OwnData, Peer, Reset, Said, Source, decide};
use jiff::Timestamp;

use super::{Failure, say};
use crate::restore::{Found, RestoreError, Restored, Seen, Site};
use crate::seed::typed;

#[derive(Debug, Args)]
pub struct Options {
    /// The file that `fabrik found` wrote on this server.
    #[arg(long, value_name = "FILE", default_value = "/etc/fabrik/config.toml")]
    config: PathBuf,
    /// Shows what was found and what would be done, and does nothing.
    #[arg(long)]
    plan: bool,
    /// A server that is lost for good, where Hetzner can't say so; once for each.
    #[arg(long = "lost", value_name = "NAME")]
    lost: Vec<String>,
    /// There was no other server, where nothing says who the others were.
    #[arg(long, conflicts_with = "lost")]
    no_others: bool,
    /// The snapshot to restore, in the place of this server's own data or of the newest one.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Confirms it, by the cluster's name; else you are asked.
    #[arg(long, value_name = "CLUSTER")]
    yes: Option<String>,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let said = Said {
        lost: options.lost.into_iter().collect(),
        no_others: options.no_others,
        snapshot: None,
    };
    let site = Site::open(&options.config, said, options.snapshot.as_deref())?;
    let decided = match site.look().await? {
        Found::UnderWay(journal) => {
            say(format!(
                "A restore {}, begun at {}, has come to its last steps.",
                from(&journal.from, Timestamp::now()),
                journal.begun
            ))?;
            None
        }
        Found::Before(seen) => {
            say(found(&seen).trim_end())?;
            let reset = decide(&seen.observed).map_err(RestoreError::Refused)?;
            say(plan(&reset, Timestamp::now()).trim_end())?;
            Some((seen, reset))
        }
    };
    if options.plan {
        return Ok(ExitCode::SUCCESS);
    }
    if decided.is_some() {
        confirm(site.cluster(), options.yes.as_deref())?;
    }
    let decided = decided.as_ref().map(|(seen, reset)| (&**seen, reset));
    let tell = |step: &str| eprintln!("{step} …");
    let restored = site.restore(decided, tell).await?;
    say(ended(&restored).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn found(seen: &Seen) -> String {
    let observed = &seen.observed;
    let mut text = String::from("Found:\n");
    let own = match observed.own {
        OwnData::Absent => "no data of etcd".to_owned(),
        OwnData::Present { written, .. } => {
            format!(
                "data of etcd, last written {}",
                ago(written, Timestamp::now())
            )
        }
    };
    let _ = writeln!(text, "  this server: {own}");
    for peer in &observed.peers {
        let _ = writeln!(text, "  {}: {}", peer.name, state(peer));
    }
    let mut snapshots: Vec<_> = observed.snapshots.iter().collect();
    snapshots.sort_by_key(|s| s.taken);
    match snapshots.last() {
        Some(newest) => {
            let when = ago(newest.taken, Timestamp::now());
            let count = snapshots.len();
            let _ = writeln!(
                text,
                "  snapshots: {count}, the newest taken {when}: {}",
                newest.file
            );
        }
        None => text.push_str("  snapshots: none\n"),
    }
    for note in &seen.notes {
        let _ = writeln!(text, "  {note}");
    }
    text
}

fn state(peer: &Peer) -> &'static str {
    if peer.answers {
        return "etcd answers";
    }
    match peer.machine {
        Machine::Running => "etcd does not answer; its machine runs",
        Machine::Off => "its machine is off at Hetzner",
        Machine::Gone => "its machine is gone at Hetzner",
        Machine::Unknown => "etcd does not answer; of its machine nothing is known",
    }
}

fn plan(reset: &Reset, now: Timestamp) -> String {
    let from = from(&reset.from, now);
    let mut text = format!(
        "Will stop k3s, keep a copy of etcd's folder, make this server etcd's only member {from}, and start k3s.\n"
    );
    match &reset.from {
        Source::OwnData { .. } => text.push_str(
            "Lost is what the other servers had accepted and this one had not received yet.\n",
        ),
        Source::Snapshot(snapshot) => {
            let _ = writeln!(
                text,
                "Lost is all that the cluster was told since {}: pods, secrets, volumes' claims, fabrik's ledger.",
                snapshot.taken
            );
        }
    }
    for warning in &reset.warnings {
        let _ = writeln!(text, "Note: {warning}.");
    }
    text
}

fn from(source: &Source, now: Timestamp) -> String {
    match source {
        Source::OwnData { .. } => "from its own data".to_owned(),
        Source::Snapshot(snapshot) => {
            format!("from {}, taken {}", snapshot.file, ago(snapshot.taken, now))
        }
    }
}

fn ago(then: Timestamp, now: Timestamp) -> String {
    let passed = now.duration_since(then);
    let (days, hours, minutes) = (passed.as_hours() / 24, passed.as_hours(), passed.as_mins());
    let unit =
        |count: i64, unit: &str| format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    let passed = match (days, hours, minutes) {
        (2.., _, _) => unit(days, "day"),
        (_, 2.., _) => unit(hours, "hour"),
        _ => unit(minutes.max(0), "minute"),
    };
    format!("{passed} ago ({then:.0})")
}

fn confirm(cluster: &str, yes: Option<&str>) -> Result<(), Failure> {
    let given = typed("Type the cluster's name to go on", yes)?;
    if given.as_deref() == Some(cluster) {
        return Ok(());
    }
    Err(RestoreError::NotConfirmed(cluster.to_owned()).into())
}

fn ended(restored: &Restored) -> String {
    let mut text = String::from("The cluster has one server now, and fabrik runs on it.\n");
    if !restored.removed.is_empty() {
        let _ = writeln!(text, "Deleted Nodes: {}.", restored.removed.join(", "));
    }
    let _ = writeln!(
        text,
        "What was there before is in {}, with all secrets of the cluster: remove it when you miss nothing.\n\
         Other servers join with no data of their own. Push a commit: nodes obey nothing older than what they have seen. \
         docs/restore.md says what else to look at.",
        restored.kept.display()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_as_people_say_it() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let told = |then: &str| ago(then.parse().unwrap(), now);
        assert_eq!(
            told("2026-11-30T11:59:00.7Z"),
            "0 minutes ago (2026-11-30T11:59:00Z)"
        );
        assert!(told("2026-11-30T11:58:30Z").starts_with("1 minute ago"));
        assert!(told("2026-11-30T09:00:00Z").starts_with("3 hours ago"));
        assert!(told("2026-11-20T12:00:00Z").starts_with("10 days ago"));
    }

    #[test]
    fn a_cluster_is_confirmed_by_its_name_alone() {
        assert!(confirm("demo", Some("demo")).is_ok());
        let error = confirm("demo", Some("yes")).unwrap_err().to_string();
        assert!(error.contains("--yes demo"), "{error}");
    }
}
