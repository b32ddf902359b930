//! Pods that a user names: `namespace`, `pods` (their labels) and `name`.

use super::super::reader::Table;
use super::super::{Pattern, Pods, Selector};

/// Whether labels have to say which pods of the namespace are meant; else a name may, or all of them are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    Required,
    Optional,
}

pub fn pods(table: &mut Table<'_>, labels: Labels) -> Option<Pods> {
    let namespace = table.required_string("namespace", "\"shop\"");
    let namespace = namespace.filter(|text| {
        let good = is_namespace(text.value);
        if !good {
            let problem = format!("`{}` is no namespace", text.value);
            let remedy = "use at most 63 of a-z, 0-9 and -, with a letter or a digit at both ends";
            table.fault(&text.span, problem, remedy);
        }
        good
    });
    let name = match labels {
        Labels::Required => Some(Pattern::default()),
        Labels::Optional => pattern(table),
    };
    let labels = selector(table, labels);
    Some(Pods {
        namespace: namespace?.value.to_owned(),
        labels: labels?,
        name: name?,
    })
}

fn selector(table: &mut Table<'_>, labels: Labels) -> Option<Selector> {
    let text = if labels == Labels::Required {
        table.required_string("pods", "\"app=shop\"")?
    } else {
        let Some(entry) = table.get("pods") else {
            return Some(Selector::default());
        };
        table.as_string(&entry)?
    };
    let selector = text.value.parse::<Selector>();
    let selector = selector.ok().filter(|s| *s != Selector::default());
    if selector.is_none() {
        let problem = format!("`{}` is no label selector", text.value);
        let remedy =
            "write the pods' labels as kubectl does, like `app=shop` or `app=shop,tier!=db`";
        table.fault(&text.span, problem, remedy);
    }
    selector
}

fn pattern(table: &mut Table<'_>) -> Option<Pattern> {
    let Some(entry) = table.get("name") else {
        return Some(Pattern::default());
    };
    let text = table.as_string(&entry)?;
    let pattern = text.value.parse::<Pattern>();
    if let Err(problem) = &pattern {
        let remedy = "write a pod's name, or its beginning and `*`, like `runner-*`";
        table.fault(&text.span, problem.clone(), remedy);
    }
    pattern.ok()
}

fn is_namespace(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 63
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || c == '-')
}
