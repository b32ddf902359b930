//! Faults that a test orders: which request they hit and what they do to it.

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::call::Reply;
use crate::error::ApiError;

/// One ordered fault, as it is written and read at the control API.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Fault {
    /// `GET`, `POST`, `PUT` or `DELETE`; absent means any.
    #[serde(default)]
    pub method: Option<String>,
    /// Regular expression for the path (with `/v1`, without query).
    pub path: String,
    #[serde(flatten)]
    pub kind: Kind,
    /// How many matching requests are hit.
    #[serde(default = "one")]
    pub times: u32,
    /// How many matching requests pass unharmed before.
    #[serde(default)]
    pub skip: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// The work is done, and the connection is closed without an answer.
    ReplyLost,
    /// The work is done at once; the answer comes later.
    Delay { delay_ms: u64 },
    /// The work is not done.
    Error {
        #[serde(default = "default_status")]
        status: u16,
        #[serde(default = "default_code")]
        code: String,
        #[serde(default = "default_message")]
        message: String,
    },
    /// The last `drop` entries of the list are missing, and nothing in the answer says so.
    IncompleteList { drop: usize },
    /// The actions that the request starts will end in an error, and change nothing.
    ActionFails {
        #[serde(default = "default_action_code")]
        code: String,
        #[serde(default = "default_action_message")]
        message: String,
    },
}

#[derive(Debug, Default)]
pub struct Faults {
    ordered: Vec<(Fault, Regex)>,
}

impl Faults {
    pub fn add(&mut self, fault: Fault) -> Result<(), String> {
        let path = Regex::new(&fault.path).map_err(|error| format!("path: {error}"))?;
        if fault.times == 0 {
            return Err("times: must be at least 1".to_owned());
        }
        self.ordered.push((fault, path));
        Ok(())
    }

    pub fn clear(&mut self) {
        self.ordered.clear();
    }

    /// The faults that have not hit yet, with what is left of them.
    pub fn pending(&self) -> Vec<&Fault> {
        self.ordered.iter().map(|(fault, _)| fault).collect()
    }

    /// What happens to this request. The oldest matching fault hits; all others keep their count.
    pub fn strike(&mut self, method: &str, path: &str) -> Option<Kind> {
        let matching = |(fault, pattern): &(Fault, Regex)| {
            fault
                .method
                .as_ref()
                .is_none_or(|m| m.eq_ignore_ascii_case(method))
                && pattern.is_match(path)
        };
        let at = self.ordered.iter().position(matching)?;
        let (fault, _) = self.ordered.get_mut(at)?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        let kind = fault.kind.clone();
        fault.times -= 1;
        if fault.times == 0 {
            self.ordered.remove(at);
        }
        Some(kind)
    }
}

impl Kind {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::ReplyLost => "reply_lost",
            Self::Delay { .. } => "delay",
            Self::Error { .. } => "error",
            Self::IncompleteList { .. } => "incomplete_list",
            Self::ActionFails { .. } => "action_fails",
        }
    }

    /// The refusal that stands in for the work, if this fault is one.
    pub fn refusal(&self) -> Option<ApiError> {
        match self {
            Self::Error {
                status,
                code,
                message,
            } => Some(ApiError::new(*status, code, message)),
            _ => None,
        }
    }
}

/// Takes entries from the end of the list in `reply`, and from its total.
pub fn shorten(reply: &mut Reply, drop: usize) {
    let Some(Value::Object(body)) = &mut reply.body else {
        return;
    };
    let dropped = body.values_mut().find_map(|value| {
        let list = value.as_array_mut()?;
        let keep = list.len().saturating_sub(drop);
        let dropped = list.len() - keep;
        list.truncate(keep);
        Some(dropped)
    });
    let total = body
        .get_mut("meta")
        .and_then(|meta| meta.pointer_mut("/pagination/total_entries"));
    if let (Some(dropped), Some(total)) = (dropped, total) {
        *total = total
            .as_u64()
            .unwrap_or_default()
            .saturating_sub(dropped as u64)
            .into();
    }
}

const fn one() -> u32 {
    1
}

const fn default_status() -> u16 {
    503
}

fn default_code() -> String {
    "unavailable".to_owned()
}

fn default_message() -> String {
    "ordered fault".to_owned()
}

fn default_action_code() -> String {
    "action_failed".to_owned()
}

fn default_action_message() -> String {
    "Action failed".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fault_hits_after_it_skipped_and_as_often_as_ordered() {
        let mut faults = Faults::default();
        let order = json!({"method": "POST", "path": "^/v1/servers$", "kind": "reply_lost",
                           "times": 2, "skip": 1});
        faults.add(serde_json::from_value(order).unwrap()).unwrap();
        let mut hit = || faults.strike("POST", "/v1/servers").is_some();
        assert_eq!([hit(), hit(), hit(), hit()], [false, true, true, false]);
    }

    #[test]
    fn a_fault_spares_other_requests() {
        let mut faults = Faults::default();
        let order = json!({"method": "POST", "path": "^/v1/servers$", "kind": "reply_lost"});
        faults.add(serde_json::from_value(order).unwrap()).unwrap();
        assert_eq!(faults.strike("GET", "/v1/servers"), None);
        assert_eq!(faults.strike("POST", "/v1/servers/7/actions/reset"), None);
        assert_eq!(faults.strike("POST", "/v1/servers"), Some(Kind::ReplyLost));
    }

    #[test]
    fn an_incomplete_list_does_not_show_that_it_is() {
        let body = json!({"servers": [1, 2, 3], "meta": {"pagination": {"total_entries": 3}}});
        let mut reply = Reply::ok(body);
        shorten(&mut reply, 2);
        let expected = json!({"servers": [1], "meta": {"pagination": {"total_entries": 1}}});
        assert_eq!(reply.body, Some(expected));
    }
}
