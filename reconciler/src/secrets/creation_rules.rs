//! `.sops.yaml`: which files its owner wants encrypted.

use std::collections::BTreeMap;

use fabrik_core::diagnostic::{Diagnostic, Place};
use fabrik_core::manifest::is_manifest;
use regex::Regex;
use serde::Deserialize;

use super::{SecretsError, Shape, shape};
use crate::gate::SPEC_FILE;
use crate::repo::{FileKind, RepoError, Tree};

/// SOPS' own configuration file; the nearest one above a file counts.
pub const RULES_FILE: &str = ".sops.yaml";

/// The files that the nearest `.sops.yaml` above them wants encrypted (by a rule with `path_regex`) and that are not.
/// A rule without `path_regex` fits all files, `cluster.toml` too, so it demands nothing. Empty files hold no secret.
///
/// A `.sops.yaml` that can't be understood is a violation as well, and demands nothing.
///
/// # Errors
/// A file can't be read.
pub fn plaintext_violations(tree: &Tree) -> Result<Vec<Diagnostic>, SecretsError> {
    let mut violations = Vec::new();
    let rules = all_rules(tree, &mut violations)?;
    if rules.is_empty() {
        return Ok(violations);
    }
    for file in tree
        .files()
        .filter(|file| is_plain(file.kind) && !is_rules_file(&file.path))
    {
        let Some((dir, regexes, below)) = nearest(&rules, &file.path) else {
            continue;
        };
        let Some(regex) = regexes.iter().find_map(|rule| rule.decides(below)) else {
            continue;
        };
        let content = match tree.read(&file.path) {
            Err(RepoError::FileTooBig { .. }) => None,
            content => Some(content?),
        };
        let fine = content.is_some_and(|content| {
            content.is_empty()
                || matches!(shape(&file.path, &content), Shape::Sops(_))
                || (is_manifest(&file.path) && !holds_a_secret(&content))
        });
        if !fine {
            // Encrypted, nobody could read it.
            let remedy = if file.path == SPEC_FILE {
                format!("narrow that rule of {dir}{RULES_FILE}, to `path_regex: ^secrets/` for one")
            } else {
                format!(
                    "encrypt it: `sops encrypt --in-place {}`; if it was pushed before, replace the secrets in it too",
                    file.path
                )
            };
            violations.push(Diagnostic {
                place: Place::file(&file.path),
                object: file.path.clone(),
                problem: format!("is in the clear, and {dir}{RULES_FILE} wants it encrypted (path_regex: {regex})"),
                remedy,
            });
        }
    }
    Ok(violations)
}

/// The SOPS files that are not encrypted to everybody whom their rule of the nearest `.sops.yaml` names (`age`): whom it
/// was written for later can't open them, the cluster for one. Rules that name others than age's recipients, or groups of
/// keys, demand nothing.
///
/// # Errors
/// A file can't be read.
pub fn closed_to_some(tree: &Tree) -> Result<Vec<Diagnostic>, SecretsError> {
    // What is wrong with the rules themselves is told beside what is in the clear.
    let rules = all_rules(tree, &mut Vec::new())?;
    let mut closed = Vec::new();
    for file in tree.files().filter(|file| is_plain(file.kind)) {
        let Some((dir, of_dir, below)) = nearest(&rules, &file.path) else {
            continue;
        };
        let Some(rule) = of_dir.iter().find(|rule| rule.fits(below)) else {
            continue;
        };
        let content = match tree.read(&file.path) {
            Err(RepoError::FileTooBig { .. }) => continue,
            content => content?,
        };
        let Shape::Sops(sops) = shape(&file.path, &content) else {
            continue;
        };
        let lacks = |recipient: &&String| !sops.recipients.contains(recipient);
        let lacking: Vec<&str> = rule.age.iter().filter(lacks).map(String::as_str).collect();
        if !lacking.is_empty() {
            closed.push(Diagnostic {
                place: Place::file(&file.path),
                object: file.path.clone(),
                problem: format!(
                    "is not encrypted to {}, whom {dir}{RULES_FILE} names",
                    lacking.join(" and ")
                ),
                remedy: format!("encrypt it anew: `sops updatekeys {}`", file.path),
            });
        }
    }
    Ok(closed)
}

/// Whether a manifest has an object of kind Secret. A rule for manifests is there for those (`encrypted_regex: ^(data|
/// stringData)$` is how people write it), and not for the Deployment beside them.
fn holds_a_secret(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    let is_secret = |line: &str| {
        let (key, value) = line.split_once(':').unwrap_or_default();
        let bare = |s: &str| {
            s.trim_matches([' ', '"', '\'', ',', '-', '{', '}'])
                .to_owned()
        };
        bare(key) == "kind" && bare(value.split('#').next().unwrap_or_default()) == "Secret"
    };
    text.split(['\n', ',', '{']).any(is_secret)
}

#[derive(Deserialize)]
struct RulesFile {
    #[serde(default)]
    creation_rules: Option<Vec<CreationRule>>,
}

#[derive(Deserialize)]
struct CreationRule {
    #[serde(default)]
    path_regex: Option<String>,
    #[serde(default)]
    age: Option<Recipients>,
    #[serde(default)]
    key_groups: Option<Vec<serde::de::IgnoredAny>>,
}

impl CreationRule {
    /// SOPS looks at no `age` beside groups of keys (`getKeyGroupsFromCreationRule` in its `config/config.go`).
    fn age(self) -> Vec<String> {
        let has_groups = self.key_groups.is_some_and(|groups| !groups.is_empty());
        let age = self.age.filter(|_| !has_groups);
        age.map(Recipients::each).unwrap_or_default()
    }
}

/// One text with commas, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Recipients {
    Text(String),
    List(Vec<String>),
}

impl Recipients {
    fn each(self) -> Vec<String> {
        let texts = match self {
            Self::Text(text) => vec![text],
            Self::List(texts) => texts,
        };
        let each = texts.iter().flat_map(|text| text.split(','));
        let each = each.map(|recipient| recipient.trim().to_owned());
        each.filter(|recipient| !recipient.is_empty()).collect()
    }
}

/// A rule in its place: the first that fits a file decides.
struct Rule {
    /// Without one it fits all files, and demands that none be encrypted.
    path: Option<Regex>,
    age: Vec<String>,
}

impl Rule {
    fn fits(&self, path: &str) -> bool {
        self.path.as_ref().is_none_or(|regex| regex.is_match(path))
    }

    /// `Some` when this rule demands the file.
    fn decides(&self, path: &str) -> Option<&str> {
        let regex = self.path.as_ref()?;
        regex.is_match(path).then(|| regex.as_str())
    }
}

fn all_rules(
    tree: &Tree,
    faults: &mut Vec<Diagnostic>,
) -> Result<BTreeMap<String, Vec<Rule>>, SecretsError> {
    let mut all = BTreeMap::new();
    for file in tree
        .files()
        .filter(|file| is_plain(file.kind) && is_rules_file(&file.path))
    {
        let dir = file.path.strip_suffix(RULES_FILE).unwrap_or_default();
        let rules = tree.read(&file.path).map_err(SecretsError::from);
        match rules.and_then(|content| rules_of(&file.path, &content)) {
            Ok(rules) => {
                all.insert(dir.to_owned(), rules);
            }
            Err(error) => faults.push(error.into_diagnostic()?),
        }
    }
    Ok(all)
}

fn rules_of(path: &str, content: &[u8]) -> Result<Vec<Rule>, SecretsError> {
    let wrong = |problem: String| SecretsError::Rules {
        path: path.to_owned(),
        problem,
    };
    let text = std::str::from_utf8(content).map_err(|_| wrong("is not UTF-8".to_owned()))?;
    let file: RulesFile = serde_saphyr::from_str(text).map_err(|error| {
        let told = error.without_snippet().to_string();
        wrong(format!("is not what sops reads: {told}"))
    })?;
    let rules = file.creation_rules.unwrap_or_default();
    // What comes after a rule that fits all files is never looked at by SOPS.
    let mut in_force = Vec::new();
    for rule in rules {
        let regex = rule.path_regex.clone().filter(|regex| !regex.is_empty());
        let age = rule.age();
        let Some(regex) = regex else {
            in_force.push(Rule { path: None, age });
            break;
        };
        let compiled = Regex::new(&regex)
            .map_err(|_| wrong(format!("path_regex: `{regex}` is not a regular expression")))?;
        in_force.push(Rule {
            path: Some(compiled),
            age,
        });
    }
    Ok(in_force)
}

/// The folder of the nearest rules above a file, these, and the path that they see.
fn nearest<'a>(
    rules: &'a BTreeMap<String, Vec<Rule>>,
    path: &'a str,
) -> Option<(&'a str, &'a [Rule], &'a str)> {
    let above = rules
        .iter()
        .filter(|(dir, _)| path.starts_with(dir.as_str()));
    above.max_by_key(|(dir, _)| dir.len()).map(|(dir, rules)| {
        let below = path.get(dir.len()..).unwrap_or_default();
        (dir.as_str(), rules.as_slice(), below)
    })
}

fn is_rules_file(path: &str) -> bool {
    path == RULES_FILE || path.ends_with("/.sops.yaml")
}

fn is_plain(kind: FileKind) -> bool {
    matches!(kind, FileKind::Plain | FileKind::Executable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(files: &[(&str, &str)]) -> Result<Vec<String>, SecretsError> {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let found = plaintext_violations(&Tree::of_directory(dir.path()).unwrap())?;
        Ok(found
            .into_iter()
            .map(|diagnostic| diagnostic.place.file)
            .collect())
    }

    const RULES: &str = "creation_rules:\n  - path_regex: secrets/.*\\.yaml$\n  - age: age1x\n";

    #[test]
    fn a_file_that_a_rule_wants_encrypted_may_not_be_in_the_clear() {
        let found = violations(&[
            (".sops.yaml", RULES),
            ("secrets/a.yaml", "token: x\n"),
            ("secrets/README.md", "read me\n"),
            ("secrets/empty.yaml", ""),
            ("cluster.toml", "[cluster]\n"),
        ]);
        assert_eq!(found.unwrap(), ["secrets/a.yaml"]);
    }

    #[test]
    fn the_nearest_rules_count_and_see_the_path_from_their_own_place() {
        let inner = "creation_rules:\n  - path_regex: ^only/\n";
        let found = violations(&[
            (".sops.yaml", RULES),
            ("team/.sops.yaml", inner),
            ("team/secrets/a.yaml", "x: y\n"),
            ("team/only/b.txt", "x\n"),
        ]);
        assert_eq!(found.unwrap(), ["team/only/b.txt"]);
    }

    #[test]
    fn rules_that_make_no_sense_are_a_violation_and_no_rules_demand_nothing() {
        assert!(violations(&[("a.yaml", "x: y\n")]).unwrap().is_empty());
        let bad = violations(&[(".sops.yaml", "creation_rules:\n  - path_regex: '('\n")]);
        assert_eq!(bad.unwrap(), [".sops.yaml"]);
    }

    #[test]
    fn what_a_rule_demands_of_recipients_is_what_sops_takes_from_it() {
        let age = |rule: &str| {
            let text = format!("creation_rules:\n  - {rule}\n");
            rules_of(RULES_FILE, text.as_bytes()).unwrap()[0]
                .age
                .clone()
        };
        assert_eq!(age("age: 'age1x, age1y'"), ["age1x", "age1y"]);
        assert_eq!(age("age: [age1x]"), ["age1x"]);
        assert_eq!(age("{age: age1x, key_groups: []}"), ["age1x"]);
        let groups = age("{age: age1x, key_groups: [{age: [age1y]}]}");
        assert!(groups.is_empty(), "{groups:?}");
    }

    #[test]
    fn a_manifest_that_holds_a_secret_is_told_from_its_neighbours() {
        for secret in [
            "kind: Secret\n",
            "a: 1\n---\nkind: \"Secret\" # mine\n",
            "{\"kind\": \"Secret\"}",
            "- kind: Secret\n",
        ] {
            assert!(holds_a_secret(secret.as_bytes()), "{secret}");
        }
        for other in [
            "kind: Deployment\n",
            "kind: SecretStore\n",
            "  secret:\n    secretName: kind\n",
        ] {
            assert!(!holds_a_secret(other.as_bytes()), "{other}");
        }
    }
}
