//! Pods that a user names: `namespace`, `pods` (their labels) and `name`.

use super::super::reader::Table;
use super::super::{Pods, Selector};

/// A namespace, and what else tells which pods of it are meant. Where `labels` are required they have to say so.
pub fn pods(table: &mut Table<'_>, labels_required: bool) -> Option<Pods> {
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
    let labels = labels(table, labels_required);
    Some(Pods {
        namespace: namespace?.value.to_owned(),
        labels: labels?,
        name: None,
    })
}

fn labels(table: &mut Table<'_>, required: bool) -> Option<Selector> {
    let text = if required {
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

fn is_namespace(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 63
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || c == '-')
}
