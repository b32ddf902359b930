//! Whether a commit that parses may take the place of the one in force.
//!
//! It depends on the commit, the last admitted commit and what can never change, and on nothing that is observed.

use crate::diagnostic::{Diagnostic, Place};
use crate::id::{ClusterName, CommitId};
use crate::ladder::{self, Refusal};
use crate::ledger::Ledger;
use crate::spec::{Foundation, K3sRelease, Spec, place_of, text_of};

const SPEC_FILE: &str = "cluster.toml";

/// A commit that asks to be admitted.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    pub commit: &'a CommitId,
    /// What the cluster was founded as, where that is known.
    pub founded: Option<&'a ClusterName>,
    /// The admitted commit is one of its ancestors (or is it). Of no meaning before the first admission.
    pub descends: bool,
    /// What its `cluster.toml` says; `None` where that is not right in itself.
    pub spec: Option<&'a Spec>,
    /// Its `cluster.toml`, for the places of faults.
    pub text: &'a str,
    /// What the admitted commit says, where it can be read; else what the ledger remembers of it has to do.
    pub in_force: Option<&'a Spec>,
}

impl Candidate<'_> {
    /// What its `cluster.toml` says there; where it is wrong elsewhere, what it says in so many words.
    fn says(&self, table: &str, key: &str, of: impl FnOnce(&Spec) -> String) -> Option<String> {
        let in_words = || text_of(self.text, table, key);
        self.spec.map(of).or_else(in_words)
    }
}

/// # Errors
/// All that speaks against it.
pub fn against(ledger: &Ledger, candidate: &Candidate<'_>) -> Result<(), Vec<Diagnostic>> {
    let mut faults = Vec::new();
    match &ledger.foundation {
        Some(old) => faults.extend(foundation(old, candidate)),
        None => faults.extend(other_name(candidate)),
    }
    faults.extend(ladder(ledger, candidate));
    faults.extend(fewer_servers(candidate));
    faults.sort();
    // It is about the commit as a whole, so it comes first.
    faults.splice(0..0, rewind(ledger, candidate));
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults)
    }
}

fn rewind(ledger: &Ledger, candidate: &Candidate<'_>) -> Option<Diagnostic> {
    let admitted = &ledger.admitted.as_ref()?.commit;
    if candidate.descends || admitted == candidate.commit {
        return None;
    }
    let new = candidate.commit;
    Some(Diagnostic {
        place: Place::file("git"),
        object: format!("commit {new}"),
        problem: format!("does not descend from {admitted}, the commit in force"),
        remedy: format!(
            "fabrik never goes back by rewinding: push a revert commit on top of {admitted}"
        ),
    })
}

/// The first commit fixes the name for ever, so it had better be the right one.
fn other_name(candidate: &Candidate<'_>) -> Option<Diagnostic> {
    let founded = candidate.founded?;
    let name = candidate.says("cluster", "name", |spec| spec.name.to_string())?;
    (name != founded.as_str()).then(|| Diagnostic {
        place: place_of(SPEC_FILE, candidate.text, "cluster", "name"),
        object: "[cluster]".to_owned(),
        problem: format!("`name` is `{name}`, and the cluster was founded as `{founded}`"),
        remedy: format!("write `name = \"{founded}\"`, or push to the cluster that is meant"),
    })
}

fn foundation(old: &Foundation, candidate: &Candidate<'_>) -> Vec<Diagnostic> {
    type Field = fn(&Foundation) -> &String;
    let fields: [(_, _, Field); 4] = [
        ("cluster", "name", |f| &f.name),
        ("network", "range", |f| &f.network_range),
        ("network", "pods", |f| &f.pods),
        ("network", "services", |f| &f.services),
    ];
    let faults = fields.into_iter().filter_map(|(table, key, field)| {
        let old = field(old);
        let new = candidate.says(table, key, |spec| field(&spec.foundation()).clone())?;
        (*old != new).then(|| Diagnostic {
            place: place_of(SPEC_FILE, candidate.text, table, key),
            object: format!("[{table}]"),
            problem: format!(
                "`{key}` can never change: the cluster was founded with `{old}`, and this is `{new}`"
            ),
            remedy: format!("write `{key} = \"{old}\"` again; another value needs a new cluster"),
        })
    });
    faults.collect()
}

fn version_in_force<'a>(ledger: &'a Ledger, in_force: Option<&'a Spec>) -> Option<&'a str> {
    let remembered = || ledger.admitted.as_ref()?.kubernetes.as_deref();
    in_force
        .map(|spec| spec.kubernetes.version.as_str())
        .or_else(remembered)
}

/// S4, as far as the commits and what they began tell. A minor that no server was told to start is not on the ladder yet:
/// it is taken back as it came, and no rung to go on from.
fn ladder(ledger: &Ledger, candidate: &Candidate<'_>) -> Option<Diagnostic> {
    let in_force: K3sRelease = version_in_force(ledger, candidate.in_force)?.parse().ok()?;
    let begun = ledger.begun_minor.filter(|minor| *minor < in_force.minor());
    let from = begun.map_or(in_force, K3sRelease::Minor);
    let to = candidate.says("kubernetes", "version", |s| s.kubernetes.version.clone())?;
    step(from, &to, candidate.text)
}

/// What speaks against another version of Kubernetes by the file before and the one after alone, where nobody can be asked
/// what is in force and what nodes run.
pub fn upgrade(before: &Spec, after: &Spec, text: &str) -> Option<Diagnostic> {
    let from = before.kubernetes.version.parse().ok()?;
    step(from, &after.kubernetes.version, text)
}

fn step(from: K3sRelease, to: &str, text: &str) -> Option<Diagnostic> {
    let Refusal { problem, remedy } = ladder::refuse_step(from, to.parse().ok()?)?;
    Some(Diagnostic {
        place: place_of(SPEC_FILE, text, "kubernetes", "version"),
        object: "[kubernetes]".to_owned(),
        problem: format!("`version` {problem}"),
        remedy,
    })
}

/// A server that goes takes its copy of etcd's data along: a number that was mistyped must not be enough.
fn fewer_servers(candidate: &Candidate<'_>) -> Option<Diagnostic> {
    let new = candidate.spec?.servers.as_ref()?;
    let old = candidate.in_force?.servers.as_ref()?;
    (new.count < old.count && !new.may_shrink).then(|| Diagnostic {
        place: place_of(SPEC_FILE, candidate.text, "servers", "count"),
        object: "[servers]".to_owned(),
        problem: format!(
            "`count` = {} takes servers away that are in force ({})",
            new.count, old.count
        ),
        remedy: format!(
            "write `count = {}` again, or `may-shrink = true` beside the smaller one",
            old.count
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Admitted, Change};
    use crate::spec;

    const TEXT: &str = r#"[cluster]
name = "demo"
[kubernetes]
version = "1.36.3+k3s1"
[hetzner]
token = { file = "secrets/hetzner.yaml", key = "token" }
[network]
pods = "10.42.0.0/16"
"#;

    /// The ledger after `TEXT` was admitted as commit aaaa….
    fn ledger() -> Ledger {
        Ledger {
            admitted: Some(Admitted {
                commit: commit('a'),
                at: jiff::Timestamp::UNIX_EPOCH,
                kubernetes: Some("1.36.3+k3s1".to_owned()),
            }),
            foundation: Some(spec::parse(SPEC_FILE, TEXT).unwrap().foundation()),
            ..empty()
        }
    }

    fn empty() -> Ledger {
        Ledger::new("abcdefgh01234567".parse().unwrap())
    }

    fn founded() -> ClusterName {
        "demo".parse().unwrap()
    }

    fn commit(digit: char) -> CommitId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn judged(text: &str, descends: bool) -> Vec<String> {
        let (old, new) = (spec::parse(SPEC_FILE, TEXT), spec::parse(SPEC_FILE, text));
        let candidate = Candidate {
            commit: &commit('b'),
            founded: Some(&founded()),
            descends,
            spec: new.as_ref().ok(),
            text,
            in_force: old.as_ref().ok(),
        };
        let faults = against(&ledger(), &candidate).err().unwrap_or_default();
        faults.iter().map(ToString::to_string).collect()
    }

    fn with(old: &str, new: &str) -> Vec<String> {
        assert!(TEXT.contains(old));
        judged(&TEXT.replace(old, new), true)
    }

    #[test]
    fn a_descendant_that_keeps_the_foundation_is_let_in() {
        assert_eq!(judged(TEXT, true), Vec::<String>::new());
    }

    #[test]
    fn a_version_is_measured_by_the_file_before_where_nobody_can_be_asked() {
        let spec = |text: &str| spec::parse(SPEC_FILE, text).unwrap();
        let told = |to: &str| {
            let text = TEXT.replace("1.36.3+k3s1", to);
            upgrade(&spec(TEXT), &spec(&text), &text).map(|fault| fault.problem)
        };
        assert_eq!((told("1.37"), told("1.36.1+k3s1")), (None, None));
        let skips = "`version` skips from 1.36.3+k3s1 to 1.38";
        assert_eq!(told("1.38").as_deref(), Some(skips));
        let back = "`version` goes back from 1.36.3+k3s1 to 1.35";
        assert_eq!(told("1.35").as_deref(), Some(back));
    }

    #[test]
    fn the_first_commit_must_bear_the_name_that_was_founded() {
        let judged = |text: &str| {
            let spec = spec::parse(SPEC_FILE, text).unwrap();
            let candidate = Candidate {
                commit: &commit('b'),
                founded: Some(&founded()),
                descends: true,
                spec: Some(&spec),
                text,
                in_force: None,
            };
            let faults = against(&empty(), &candidate).err().unwrap_or_default();
            faults.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(judged(&TEXT.replace("1.36.3", "1.30.1")), [""; 0]);
        assert_eq!(
            judged(&TEXT.replace("demo", "other")),
            [
                "cluster.toml:2:8: [cluster]: `name` is `other`, and the cluster was founded as `demo`\n  → write `name = \"demo\"`, or push to the cluster that is meant"
            ]
        );
    }

    #[test]
    fn a_minor_that_no_server_has_begun_is_taken_back_and_not_gone_on_from() {
        let mut ledger = ledger();
        let next = TEXT.replace("1.36.3", "1.37.0");
        let admit = Change::Admit {
            commit: commit('b'),
            foundation: spec::parse(SPEC_FILE, &next).unwrap().foundation(),
            kubernetes: "1.37.0+k3s1".to_owned(),
        };
        ledger.apply(&admit, jiff::Timestamp::UNIX_EPOCH);
        let in_force = spec::parse(SPEC_FILE, &next).unwrap();
        let judged = |ledger: &Ledger, version: &str| {
            let text = TEXT.replace("1.36.3", version);
            let candidate = Candidate {
                commit: &commit('c'),
                founded: Some(&founded()),
                descends: true,
                spec: Some(&spec::parse(SPEC_FILE, &text).unwrap()),
                text: &text,
                in_force: Some(&in_force),
            };
            let faults = against(ledger, &candidate).err().unwrap_or_default();
            let problems = faults.into_iter().map(|fault| fault.problem);
            problems.collect::<Vec<_>>().join("; ")
        };
        assert_eq!(judged(&ledger, "1.36.3"), "");
        assert_eq!(
            judged(&ledger, "1.38.0"),
            "`version` skips from 1.36 to 1.38.0+k3s1"
        );
        ledger.begun_minor = Some(37);
        assert_eq!(
            judged(&ledger, "1.36.3"),
            "`version` goes back from 1.37.0+k3s1 to 1.36.3+k3s1"
        );
        assert_eq!(judged(&ledger, "1.38.0"), "");
    }

    #[test]
    fn fewer_servers_take_a_word() {
        let servers = |lines: &str| {
            let servers = "server-types = [\"cx33\"]\nlocations = [\"fsn1\"]";
            format!("{TEXT}[servers]\n{servers}\n{lines}\n")
        };
        let old = spec::parse(SPEC_FILE, &servers("count = 5")).unwrap();
        let judged = |lines: &str| {
            let text = servers(lines);
            let spec = spec::parse(SPEC_FILE, &text).unwrap();
            let candidate = Candidate {
                commit: &commit('b'),
                founded: Some(&founded()),
                descends: true,
                spec: Some(&spec),
                text: &text,
                in_force: Some(&old),
            };
            let faults = against(&ledger(), &candidate).err().unwrap_or_default();
            faults.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            judged("count = 3"),
            [
                "cluster.toml:12:9: [servers]: `count` = 3 takes servers away that are in force (5)\n  → write `count = 5` again, or `may-shrink = true` beside the smaller one"
            ]
        );
        assert_eq!(judged("count = 3\nmay-shrink = true"), [""; 0]);
        assert_eq!(judged("count = 7"), [""; 0]);
    }

    #[test]
    fn the_commit_in_force_itself_is_no_rewind() {
        let candidate = Candidate {
            commit: &commit('a'),
            founded: Some(&founded()),
            descends: false,
            spec: None,
            text: "",
            in_force: None,
        };
        assert_eq!(against(&ledger(), &candidate), Ok(()));
    }

    #[test]
    fn a_rewind_is_told_also_where_the_spec_can_not_be_read() {
        let told = judged("[cluster", false);
        assert_eq!(
            told,
            [
                "git: commit bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb: does not descend from \
              aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, the commit in force\n  → fabrik never goes back by \
              rewinding: push a revert commit on top of aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            ]
        );
    }

    #[test]
    fn each_part_of_the_foundation_stays_and_each_change_is_told() {
        let text = TEXT
            .replace("demo", "other")
            .replace("pods = \"10.42.0.0/16\"", "services = \"10.44.0.0/16\"\nrange = \"10.8.0.0/16\"\nnodes = \"10.8.1.0/24\"\npods = \"10.45.0.0/16\"");
        assert_eq!(
            judged(&text, true),
            [
                "cluster.toml:2:8: [cluster]: `name` can never change: the cluster was founded with `demo`, and this is `other`\n  → write `name = \"demo\"` again; another value needs a new cluster",
                "cluster.toml:8:12: [network]: `services` can never change: the cluster was founded with `10.43.0.0/16`, and this is `10.44.0.0/16`\n  → write `services = \"10.43.0.0/16\"` again; another value needs a new cluster",
                "cluster.toml:9:9: [network]: `range` can never change: the cluster was founded with `10.0.0.0/16`, and this is `10.8.0.0/16`\n  → write `range = \"10.0.0.0/16\"` again; another value needs a new cluster",
                "cluster.toml:11:8: [network]: `pods` can never change: the cluster was founded with `10.42.0.0/16`, and this is `10.45.0.0/16`\n  → write `pods = \"10.42.0.0/16\"` again; another value needs a new cluster",
            ]
        );
    }

    #[test]
    fn what_can_never_change_is_told_beside_what_is_wrong_elsewhere() {
        let text = TEXT.replace("demo", "other").replace("1.36.3", "1.30.1");
        let right = judged(&text, true);
        assert_eq!(right.len(), 2, "{right:?}");
        assert_eq!(judged(&format!("{text}[pols.a]\n"), true), right);
        assert_eq!(judged(&format!("{text}range = 7\n"), true), right);
    }

    #[test]
    fn what_can_still_be_judged_is_judged_where_the_commit_in_force_can_not_be_read() {
        let judged = |text: &str, ledger: &Ledger| {
            let spec = spec::parse(SPEC_FILE, text).unwrap();
            let candidate = Candidate {
                commit: &commit('b'),
                founded: Some(&founded()),
                descends: true,
                spec: Some(&spec),
                text,
                in_force: None,
            };
            against(ledger, &candidate).err().unwrap_or_default()
        };
        assert_eq!(judged(TEXT, &ledger()), []);
        for version in ["1.35.9+k3s1", "1.38.0+k3s1"] {
            let faults = judged(&TEXT.replace("1.36.3+k3s1", version), &ledger());
            assert_eq!(faults.len(), 1, "{version}: {faults:?}");
            assert!(faults[0].problem.contains("1.36.3+k3s1"), "{faults:?}");
        }
        assert_eq!(judged(&TEXT.replace("demo", "other"), &ledger()).len(), 1);
        let mut older = ledger();
        older.admitted.as_mut().unwrap().kubernetes = None;
        let unknown = TEXT.replace("1.36.3+k3s1", "1.38.0+k3s1");
        assert_eq!(judged(&unknown, &older), []);
    }

    #[test]
    fn kubernetes_climbs_one_minor_at_a_time_and_never_down() {
        for fine in ["1.36.3+k3s2", "1.36.1+k3s1", "1.37.0+k3s1"] {
            assert_eq!(with("1.36.3+k3s1", fine), Vec::<String>::new(), "{fine}");
        }
        assert_eq!(
            with("1.36.3+k3s1", "1.35.9+k3s1"),
            [
                "cluster.toml:4:11: [kubernetes]: `version` goes back from 1.36.3+k3s1 to 1.35.9+k3s1\n  → stay on 1.36 or go on from it: Kubernetes can't go back a minor version"
            ]
        );
        assert_eq!(
            with("1.36.3+k3s1", "1.38.0+k3s1"),
            [
                "cluster.toml:4:11: [kubernetes]: `version` skips from 1.36.3+k3s1 to 1.38.0+k3s1\n  → go 1.36 → 1.37 → 1.38 instead, one push each: Kubernetes takes one minor version at a time"
            ]
        );
    }

    #[test]
    fn a_minor_may_follow_a_release_and_is_called_as_it_is_written() {
        for fine in ["1.36", "1.37"] {
            assert_eq!(with("1.36.3+k3s1", fine), Vec::<String>::new(), "{fine}");
        }
        let down = with("1.36.3+k3s1", "1.35");
        assert!(
            down[0].contains("goes back from 1.36.3+k3s1 to 1.35\n"),
            "{down:?}"
        );
        let far = with("1.36.3+k3s1", "1.38");
        assert!(
            far[0].contains("skips from 1.36.3+k3s1 to 1.38\n"),
            "{far:?}"
        );
    }
}
