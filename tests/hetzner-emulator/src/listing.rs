//! What all lists have in common: filters by name and label, sorting, pages.

use std::cmp::Ordering;

use serde_json::{Value, json};

use crate::call::{Answer, Call, Reply};
use crate::error::ApiError;
use crate::labels::{Labels, Selector};

const DEFAULT_PER_PAGE: usize = 25;
const MAX_PER_PAGE: usize = 50;

/// The filters that every list with names and labels understands.
pub struct Filter<'a> {
    name: Option<&'a str>,
    selector: Option<Selector>,
}

impl<'a> Filter<'a> {
    pub fn of(call: &'a Call) -> Result<Self, ApiError> {
        let selector = call
            .parameter("label_selector")
            .map(Selector::parse)
            .transpose()
            .map_err(|message| ApiError::invalid("label_selector", message))?;
        Ok(Self {
            name: call.parameter("name"),
            selector,
        })
    }

    pub fn accepts(&self, name: &str, labels: &Labels) -> bool {
        self.name.is_none_or(|wanted| wanted == name)
            && self
                .selector
                .as_ref()
                .is_none_or(|selector| selector.matches(labels))
    }
}

/// Sorts `items` by the call's `sort` parameters (of those that `sortable` names) and cuts the page
/// that the call wants.
pub fn page(call: &Call, key: &str, sortable: &[&str], mut items: Vec<Value>) -> Answer {
    sort(call, sortable, &mut items)?;
    let number = positive(call, "page", 1, usize::MAX)?;
    let per_page = positive(call, "per_page", DEFAULT_PER_PAGE, MAX_PER_PAGE)?;

    let total = items.len();
    let last = total.div_ceil(per_page).max(1);
    let previous = (number > 1).then(|| number - 1);
    let next = (number < last).then(|| number + 1);
    let shown: Vec<_> = items
        .into_iter()
        .skip((number - 1).saturating_mul(per_page))
        .take(per_page)
        .collect();
    let links = [("prev", previous), ("next", next), ("last", Some(last))];
    Ok(Reply {
        links: links
            .into_iter()
            .filter_map(|(rel, page)| Some((rel, page?)))
            .collect(),
        ..Reply::ok(json!({
            key: shown,
            "meta": {"pagination": {
                "page": number,
                "per_page": per_page,
                "previous_page": previous,
                "next_page": next,
                "last_page": last,
                "total_entries": total,
            }},
        }))
    })
}

fn sort(call: &Call, sortable: &[&str], items: &mut [Value]) -> Result<(), ApiError> {
    let mut keys = Vec::new();
    for text in call.parameters("sort") {
        let (key, descending) = match text.split_once(':') {
            None => (text, false),
            Some((key, "asc")) => (key, false),
            Some((key, "desc")) => (key, true),
            Some(_) => return Err(ApiError::invalid("sort", format!("'{text}' is not valid"))),
        };
        if !sortable.contains(&key) {
            return Err(ApiError::invalid(
                "sort",
                format!("cannot be sorted by '{key}'"),
            ));
        }
        keys.push((key, descending));
    }
    items.sort_by(|a, b| {
        keys.iter()
            .fold(Ordering::Equal, |order, (key, descending)| {
                let by_key = compare(&a[*key], &b[*key]);
                order.then(if *descending {
                    by_key.reverse()
                } else {
                    by_key
                })
            })
    });
    Ok(())
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a.as_u64(), b.as_u64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_str().cmp(&b.as_str()),
    }
}

fn positive(
    call: &Call,
    name: &'static str,
    default: usize,
    max: usize,
) -> Result<usize, ApiError> {
    let Some(text) = call.parameter(name) else {
        return Ok(default);
    };
    match text.parse() {
        Ok(number) if (1..=max).contains(&number) => Ok(number),
        _ => Err(ApiError::invalid(
            name,
            format!("'{text}' is not between 1 and {max}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::call::Method;

    fn call(query: &[(&str, &str)]) -> Call {
        Call {
            method: Method::Get,
            path: Vec::new(),
            query: query
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            body: Map::new(),
        }
    }

    fn numbered(count: u64) -> Vec<Value> {
        (1..=count)
            .map(|id| json!({"id": id, "name": format!("n{}", id % 2)}))
            .collect()
    }

    #[test]
    fn a_page_has_25_entries_unless_told_otherwise_and_never_more_than_50() {
        let reply = page(&call(&[]), "things", &[], numbered(60)).unwrap();
        let body = reply.body.unwrap();
        assert_eq!(body["things"].as_array().unwrap().len(), 25);
        assert_eq!(
            body["meta"]["pagination"],
            json!({"page": 1, "per_page": 25, "previous_page": null, "next_page": 2,
                   "last_page": 3, "total_entries": 60})
        );
        assert_eq!(reply.links, [("next", 2), ("last", 3)]);
        let error = page(&call(&[("per_page", "51")]), "things", &[], numbered(60)).unwrap_err();
        assert_eq!(error.code, "invalid_input");
    }

    #[test]
    fn a_page_after_the_last_is_empty() {
        let body = page(&call(&[("page", "9")]), "things", &[], numbered(3))
            .unwrap()
            .body
            .unwrap();
        assert_eq!(body["things"], json!([]));
        assert_eq!(body["meta"]["pagination"]["next_page"], Value::Null);
    }

    #[test]
    fn several_sort_keys_apply_in_their_order() {
        let sorted = call(&[("sort", "name:desc"), ("sort", "id:desc")]);
        let body = page(&sorted, "things", &["id", "name"], numbered(4))
            .unwrap()
            .body
            .unwrap();
        let ids: Vec<_> = body["things"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["id"].as_u64().unwrap())
            .collect();
        assert_eq!(ids, [3, 1, 4, 2]);
        assert!(page(&call(&[("sort", "colour")]), "things", &["id"], Vec::new()).is_err());
    }
}
