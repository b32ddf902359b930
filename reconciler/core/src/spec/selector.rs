//! Pods that a user names in `cluster.toml`: by namespace, labels and name.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::kubernetes_syntax::{is_name, qualified_name};
use crate::observed::Pod;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pods {
    pub namespace: String,
    #[serde(default)]
    pub labels: Selector,
    #[serde(default)]
    pub name: Pattern,
}

impl Pods {
    pub fn names(&self, pod: &Pod) -> bool {
        pod.namespace == self.namespace
            && self.labels.selects(&pod.labels)
            && self.name.fits(&pod.name)
    }
}

/// A label selector as kubectl takes it, without sets: `app=shop,tier!=db,canary,!old`. An empty one selects all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

impl Selector {
    /// As the API server does (kubernetes.io, "Labels and Selectors"): `!=` also selects what lacks the key.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Is(key, value) => labels.get(key) == Some(value),
            Requirement::IsNot(key, value) => labels.get(key) != Some(value),
            Requirement::Has(key) => labels.contains_key(key),
            Requirement::HasNot(key) => !labels.contains_key(key),
        })
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').filter(|_| !text.trim().is_empty());
        let parts: Result<Vec<_>, ()> = parts.map(|part| requirement(part.trim())).collect();
        parts
            .map(Self)
            .map_err(|()| format!("`{text}` is no label selector"))
    }
}

fn requirement(text: &str) -> Result<Requirement, ()> {
    let (key, value, equal) = match (text.split_once("!="), text.split_once('=')) {
        (Some((key, value)), _) => (key, value, false),
        (None, Some((key, value))) => (key, value.strip_prefix('=').unwrap_or(value), true),
        (None, None) => {
            let (key, has) = text
                .strip_prefix('!')
                .map_or((text, true), |key| (key, false));
            qualified_name(key).map_err(drop)?;
            let key = key.to_owned();
            return Ok(if has {
                Requirement::Has(key)
            } else {
                Requirement::HasNot(key)
            });
        }
    };
    let (key, value) = (key.trim().to_owned(), value.trim().to_owned());
    qualified_name(&key).map_err(drop)?;
    if !value.is_empty() && !is_name(&value) {
        return Err(());
    }
    Ok(if equal {
        Requirement::Is(key, value)
    } else {
        Requirement::IsNot(key, value)
    })
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, requirement) in self.0.iter().enumerate() {
            f.write_str(if place == 0 { "" } else { "," })?;
            match requirement {
                Requirement::Is(key, value) => write!(f, "{key}={value}"),
                Requirement::IsNot(key, value) => write!(f, "{key}!={value}"),
                Requirement::Has(key) => f.write_str(key),
                Requirement::HasNot(key) => write!(f, "!{key}"),
            }?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Selector {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

/// A name, or how it begins: `runner-1`, `runner-*`. The default is each name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Default for Pattern {
    fn default() -> Self {
        Self("*".to_owned())
    }
}

impl Pattern {
    fn fits(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == self.0,
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        let start = text.strip_suffix('*').unwrap_or(text);
        if !text.is_empty() && start.chars().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "`{text}` is neither a pod's name nor how one begins"
            ))
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_selects_as_kubectl_s_does() {
        let labels = [("app", "shop"), ("example.com/tier", "web")];
        let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let selects = |text: &str| text.parse::<Selector>().unwrap().selects(&labels);
        for text in [
            "",
            "app=shop",
            "app==shop",
            "app = shop, example.com/tier",
            "tier!=db",
            "app!=x,!old",
        ] {
            assert!(selects(text), "{text}");
        }
        for text in ["app=x", "app=", "app!=shop", "!app", "old", "app=shop,old"] {
            assert!(!selects(text), "{text}");
        }
    }

    #[test]
    fn what_the_api_server_would_not_take_is_none() {
        for text in [
            "app in (a, b)",
            "=x",
            "a=b=c",
            "a,,b",
            "a b",
            "!",
            "app=a b",
            "!a=b",
        ] {
            assert!(text.parse::<Selector>().is_err(), "{text}");
        }
        let text = "app=shop,tier!=db,canary,!old";
        assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
    }

    #[test]
    fn a_pattern_is_a_name_or_its_beginning() {
        let fits = |pattern: &str, name: &str| pattern.parse::<Pattern>().unwrap().fits(name);
        assert!(fits("runner-1", "runner-1") && !fits("runner-1", "runner-10"));
        assert!(fits("*", "runner-1"));
        assert!(fits("runner-*", "runner-10") && !fits("runner-*", "a-runner-1"));
        for bad in ["", "a*b", "A"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}
