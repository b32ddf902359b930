//! The files of `cluster-repo-template/`, which are in this binary, with answers in them.
//!
//! The template is itself a repository, with an example wherever an answer goes; so it can be read, and used without
//! `fabrik init` as well.

use std::collections::BTreeMap;

use fabrik_core::spec;

use super::answers::{Answers, Forge, Recipients};

/// Texts by path.
pub type Files = BTreeMap<&'static str, String>;

pub const RULES_FILE: &str = ".sops.yaml";
const WORKERS_FILE: &str = "nixos/pools/workers.nix";
/// What stands in the place of `[servers]` where machines are the person's.
const OWN_SERVERS: &str = r#"# The control plane: machines of yours, one, three, five or seven (fabrik's docs/own-servers.md). Their addresses among
# nodes are in [network] `range`.
# [servers.machines.attic]
# address = "192.168.1.20"          # where your laptop reaches its sshd
# host-key = "ssh-ed25519 AAAA…"    # `cat /etc/ssh/ssh_host_ed25519_key.pub`, on its own console
# disk = "/dev/disk/by-id/nvme-…"   # what installing wipes
# node-ip = "10.0.1.20"             # its address among nodes, where that is another one"#;
const DEFAULT_ZONE: &str = "eu-central";
/// The table that is left out where all in it is a default.
const NETWORK: &str = "# [network]                         # these are the defaults";

macro_rules! template {
    ($($path:literal)*) => {
        [$(($path, include_str!(concat!("../../../../cluster-repo-template/", $path)))),*]
    };
}

const FILES: [(&str, &str); 14] = template![
    ".forgejo/workflows/fabrik.yml"
    ".github/workflows/fabrik.yml"
    ".gitignore"
    ".gitlab-ci.yml"
    ".sops.yaml"
    "README.md"
    "ci/check"
    "cluster.toml"
    "flake.nix"
    "manifests/hello/hello.yaml"
    "nixos/agents.nix"
    "nixos/all.nix"
    "nixos/pools/workers.nix"
    "nixos/servers.nix"
];

/// The files that these answers ask for. Without recipients there are no rules of SOPS: then they are somebody else's. A
/// module of a pool that is not there would be refused.
pub fn files(answers: &Answers) -> Files {
    let wanted = |path: &str| match forge_of(path) {
        Some(forge) => answers.forge == forge,
        None if path == RULES_FILE => answers.recipients.is_some(),
        None => path != WORKERS_FILE || !answers.without_workers,
    };
    FILES
        .iter()
        .filter(|(path, _)| wanted(path))
        .map(|(path, text)| (*path, filled(text, answers)))
        .collect()
}

/// The recipients in a `.sops.yaml`, if it is what the template gives for them.
pub fn recipients_in(rules: &str) -> Option<Recipients> {
    let lines = rules.lines().map(str::trim_start);
    let mut lists = lines.filter_map(|line| line.strip_prefix("age: "));
    let people = lists.next()?;
    let cluster = lists.next()?.strip_suffix(people)?.strip_suffix(',')?;
    let recipients = Recipients {
        people: people.split(',').map(str::to_owned).collect(),
        cluster: cluster.to_owned(),
    };
    let (_, template) = FILES.iter().find(|(path, _)| *path == RULES_FILE)?;
    (with_recipients(template, &recipients) == rules).then_some(recipients)
}

pub fn is_executable(path: &str) -> bool {
    path == "ci/check"
}

fn forge_of(path: &str) -> Option<Forge> {
    let forges = [
        (".github/", Forge::Github),
        (".gitlab-ci.yml", Forge::Gitlab),
        (".forgejo/", Forge::Forgejo),
    ];
    let fits = |(start, forge): (&str, Forge)| path.starts_with(start).then_some(forge);
    forges.into_iter().find_map(fits)
}

/// Each answer in the place of its example. The name goes first: what is put in later may contain anything.
fn filled(text: &str, answers: &Answers) -> String {
    let list = |words: &[String]| toml::Value::from(words.to_vec()).to_string();
    let key = toml::Value::from(answers.ssh_key.as_str());
    let mut filled = if answers.own {
        without_hetzner(text)
    } else {
        text.to_owned()
    };
    let mut put = |example: &str, answer: &str| filled = filled.replace(example, answer);
    put("my-cluster", answers.name.as_str());
    put("count = 2", &format!("count = {}", answers.workers));
    put(r#"["cx33", "cx43"]"#, &list(&answers.server_types));
    put(r#"["fsn1", "nbg1"]"#, &list(&answers.locations));
    let line = format!("{} = {key}", owner(&answers.ssh_key));
    put(r#"you = "ssh-ed25519 AAAA… you""#, &line);
    put("github:OWNER/fabrik", &answers.fabrik_flake);
    let zone = answers.locations.first().and_then(|it| spec::zone_of(it));
    if let Some(zone) = zone.filter(|zone| *zone != DEFAULT_ZONE) {
        put(NETWORK, &format!("[network]\nzone = \"{zone}\""));
    }
    match &answers.recipients {
        Some(recipients) => with_recipients(&filled, recipients),
        None => filled,
    }
}

/// Blank lines part what is of one table from what is of another.
fn without_hetzner(text: &str) -> String {
    let is_made_there =
        |part: &&str| !part.contains("\n[hetzner]\n") && !part.contains("\n[pools.workers]\n");
    let parts = text.split("\n\n").filter(is_made_there);
    let parts = parts.map(|part| {
        if part.contains("\n# [servers]\n") {
            OWN_SERVERS
        } else {
            part
        }
    });
    let text = parts.collect::<Vec<_>>().join("\n\n");
    text.replace(" on Hetzner Cloud", "")
}

fn with_recipients(text: &str, recipients: &Recipients) -> String {
    let text = text.replace("age1cluster", &recipients.cluster);
    text.replace("age1you", &recipients.people.join(","))
}

/// Who an SSH key belongs to, by its comment, in letters that TOML takes as a key without quotes.
fn owner(ssh_key: &str) -> &str {
    let comment = ssh_key.split_whitespace().nth(2).unwrap_or_default();
    let name = comment.split('@').next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let fits = (1..=63).contains(&name.len()) && name.chars().all(plain);
    let edges = name.trim_matches(['-', '_']) == name;
    if fits && edges { name } else { "you" }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::super::answers::tests::answers;
    use super::*;

    #[test]
    fn what_is_in_the_folder_is_in_the_binary_with_its_mode() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-repo-template");
        let mut found = Vec::new();
        let mut dirs = vec![root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path: PathBuf = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap();
                assert_eq!(mode & 0o100 != 0, is_executable(path), "{path}");
                found.push(path.to_owned());
            }
        }
        found.sort();
        assert_eq!(found, FILES.map(|(path, _)| path));
    }

    #[test]
    fn each_answer_finds_its_example_and_no_example_is_left() {
        let answers = answers();
        let files = files(&answers);
        let spec = spec::parse("cluster.toml", &files["cluster.toml"]).unwrap();
        let pool = spec.pools.values().next().unwrap();
        assert_eq!((spec.name.as_str(), pool.count), ("demo", 3));
        assert_eq!(pool.server_types, ["cx53"]);
        assert_eq!(pool.locations, ["hel1", "nbg1"]);
        assert_eq!(spec.ssh_keys["alice"], answers.ssh_key);
        assert!(
            files["flake.nix"].contains("fabrik.url = \"git+https://git.example.com/fabrik\";")
        );
        let rules = &files[".sops.yaml"];
        assert!(
            rules.contains("^secrets/age\\.key$\n    age: age1me,age1her\n"),
            "{rules}"
        );
        assert_eq!(rules.matches("age: age1theirs,age1me,age1her\n").count(), 2);
        for (path, text) in &files {
            for example in [
                "my-cluster",
                "OWNER",
                "AAAA…",
                "age1you",
                "age1cluster",
                "cx43",
            ] {
                assert!(!text.contains(example), "{path} still has {example}");
            }
        }
    }

    #[test]
    fn a_cluster_beyond_europe_has_its_network_there() {
        for (location, zone) in [("ash", "us-east"), ("fsn1", "eu-central")] {
            let mut answers = answers();
            answers.locations = vec![location.to_owned()];
            answers.server_types = vec!["ccx13".to_owned()];
            let spec = spec::parse("cluster.toml", &files(&answers)["cluster.toml"]).unwrap();
            assert_eq!(spec.network.zone, zone);
        }
    }

    #[test]
    fn a_cluster_of_own_machines_has_nothing_at_hetzner() {
        let mut answers = answers();
        (answers.own, answers.without_workers) = (true, true);
        let files = files(&answers);
        let text = &files["cluster.toml"];
        let spec = spec::parse("cluster.toml", text).unwrap();
        assert!(spec.hetzner.is_none() && spec.pools.is_empty(), "{text}");
        assert_eq!(spec.ssh_keys["alice"], answers.ssh_key);
        assert!(text.contains("\n# [servers.machines.attic]\n") && text.contains("\n# [update]"));
        assert!(!files["README.md"].contains("on Hetzner Cloud"));
    }

    #[test]
    fn there_is_one_workflow_for_the_forge_and_no_rules_without_recipients() {
        let mut answers = answers();
        let workflow = |path: &&str| forge_of(path).is_some();
        for (forge, expected) in [
            (Forge::Github, vec![".github/workflows/fabrik.yml"]),
            (Forge::Gitlab, vec![".gitlab-ci.yml"]),
            (Forge::Forgejo, vec![".forgejo/workflows/fabrik.yml"]),
            (Forge::None, vec![]),
        ] {
            answers.forge = forge;
            let files = files(&answers);
            assert_eq!(
                files.keys().copied().filter(workflow).collect::<Vec<_>>(),
                expected
            );
        }
        answers.recipients = None;
        assert!(!files(&answers).contains_key(RULES_FILE));
    }

    #[test]
    fn a_module_of_the_pool_workers_is_there_where_that_pool_is() {
        let mut answers = answers();
        assert!(files(&answers).contains_key(WORKERS_FILE));
        answers.without_workers = true;
        assert!(!files(&answers).contains_key(WORKERS_FILE));
    }

    #[test]
    fn the_template_s_own_rules_are_known_by_their_recipients_and_no_others_are() {
        let answers = answers();
        let rules = &files(&answers)[RULES_FILE];
        assert_eq!(recipients_in(rules), answers.recipients);
        for other in [
            String::new(),
            rules.replacen("age1me", "age1him", 1),
            rules.replacen("# ", "#", 1),
            format!("{rules}\n"),
        ] {
            assert_eq!(recipients_in(&other), None, "{other}");
        }
    }

    #[test]
    fn an_ssh_key_is_called_after_its_owner_where_that_is_a_name() {
        for (key, name) in [
            ("ssh-ed25519 AAAA alice@laptop", "alice"),
            ("ssh-ed25519 AAAA", "you"),
            ("ssh-ed25519 AAAA a.b@c", "you"),
            ("ssh-ed25519 AAAA -a", "you"),
        ] {
            assert_eq!(owner(key), name, "{key}");
        }
    }
}
