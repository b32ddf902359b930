//! The k3s ladder as a table: from which version to which, with which nodes, and what is said.

use std::collections::BTreeMap;

use fabrik_core::ladder::{Climb, Rung, Verdict, judge};
use fabrik_core::observed::Role;
use fabrik_core::spec::K3sVersion;

/// `from → to`, then the nodes: `s` for servers and `a` for agents, numbered as they come; `pool NAME VERSION` for
/// what a pool's system brings.
const CASES: &str = include_str!("ladder/cases.txt");

#[test]
fn each_step_of_the_table_is_judged_as_it_says() {
    let mut cases = 0;
    let mut judged = String::new();
    for line in CASES.lines().filter(|l| !l.starts_with("  ")) {
        judged.push_str(line);
        judged.push('\n');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        cases += 1;
        for said in say(line) {
            judged.push_str("  ");
            judged.push_str(&said);
            judged.push('\n');
        }
    }
    if std::env::var_os("BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ladder/cases.txt");
        std::fs::write(path, &judged).expect("the table can be written");
    }
    assert!(cases >= 40, "{cases} cases");
    similar(CASES, &judged);
}

fn similar(expected: &str, judged: &str) {
    for (number, (left, right)) in (1..).zip(expected.lines().zip(judged.lines())) {
        assert_eq!(left, right, "line {number}");
    }
    assert_eq!(expected.lines().count(), judged.lines().count());
}

fn say(line: &str) -> Vec<String> {
    let (step, rest) = line.split_once(':').unwrap_or((line, ""));
    let (from, to) = step.split_once("→").expect("FROM → TO");
    let from = (from.trim() != "-").then(|| version(from.trim()));
    let mut nodes = Vec::new();
    let mut pools = BTreeMap::new();
    for word in rest.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        match word.split_whitespace().collect::<Vec<_>>()[..] {
            ["pool", name, runs] => {
                pools.insert(name.parse().expect("a pool's name"), version(runs));
            }
            [role, runs] => nodes.push(Rung {
                node: format!("{role}-{}", nodes.len() + 1)
                    .parse()
                    .expect("a name"),
                role: if role == "s" {
                    Role::Server
                } else {
                    Role::Agent
                },
                runs: version(runs),
            }),
            _ => panic!("{word}"),
        }
    }
    let to = version(to.trim());
    match judge(&Climb {
        from,
        to,
        pools: &pools,
        nodes: &nodes,
    }) {
        Verdict::Allowed => vec!["allowed".to_owned()],
        Verdict::Held(reasons) => reasons.into_iter().map(|r| format!("held: {r}")).collect(),
        Verdict::Refused(all) => all
            .into_iter()
            .map(|r| format!("refused: {}; {}", r.problem, r.remedy))
            .collect(),
    }
}

/// `36` or `36.4` for `1.36.0+k3s1` and `1.36.4+k3s1`; `36.4.2` for the second k3s release of it.
fn version(text: &str) -> K3sVersion {
    let mut parts = text.split('.').map(|p| p.parse().expect("a number"));
    K3sVersion {
        minor: parts.next().expect("a minor"),
        patch: parts.next().unwrap_or(0),
        revision: parts.next().unwrap_or(1),
    }
}
