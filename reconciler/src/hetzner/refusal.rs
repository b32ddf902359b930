//! What it means when Hetzner refuses: its code first, the HTTP status where there is none. No IO.

use jiff::{SignedDuration, Timestamp};
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::budget::Budget;
use super::error::{FieldError, HetznerError, RequestId};
use super::token::Token;
use super::wire;

const MAX_MESSAGE_CHARS: usize = 500;

/// An answer that is no success.
pub struct Refusal<'a> {
    /// Completes "could not …".
    pub what: String,
    pub status: StatusCode,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
    pub id: RequestId,
}

impl Refusal<'_> {
    /// The error to show. `token` is left out of Hetzner's words, should they hold it.
    pub fn meaning(self, token: &Token) -> HetznerError {
        let Self {
            what, status, id, ..
        } = self;
        let refusal = serde_json::from_slice::<wire::Refusal>(self.body).map(|r| r.error);
        let refusal = refusal.unwrap_or_default();
        let code = presentable(&refusal.code, token);
        let message = if refusal.message.is_empty() {
            format!("HTTP {}", status.as_u16())
        } else {
            presentable(&refusal.message, token)
        };
        match (code.as_str(), status.as_u16()) {
            ("unauthorized" | "token_readonly" | "forbidden", _) | ("", 401 | 403) => {
                HetznerError::Unauthorized { what, message, id }
            }
            ("rate_limit_exceeded", _) | ("", 429) => HetznerError::RateLimited {
                what,
                until: one_request_back(self.headers),
                id,
            },
            ("not_found", _) => HetznerError::NotFound { what, message, id },
            ("resource_unavailable" | "placement_error", _) => HetznerError::OutOfStock {
                what,
                tried: String::new(),
                message,
                id,
            },
            ("resource_limit_exceeded", _) => HetznerError::QuotaExceeded {
                what,
                message: with_limits(message, &refusal.details, token),
                id,
            },
            ("locked" | "conflict", _) => HetznerError::Locked { what, message, id },
            ("protected", _) => HetznerError::Protected { what, message, id },
            ("maintenance" | "bad_gateway" | "unavailable" | "timeout", _) | (_, 502..=504) => {
                HetznerError::Unreachable {
                    what,
                    problem: message,
                    id,
                }
            }
            // A proxy or a wrong endpoint; Hetzner's own refusals have a code. A 404 of theirs proves nothing.
            ("", _) => HetznerError::Malformed {
                what,
                problem: format!("HTTP {} without an error of Hetzner's", status.as_u16()),
                id,
            },
            _ => HetznerError::Refused {
                what,
                fields: fields(&refusal.details, token),
                code,
                message,
                id,
            },
        }
    }
}

/// Hetzner's own words on one line, not too many of them, without the token.
pub fn presentable(text: &str, token: &Token) -> String {
    let line: Vec<_> = text.split_whitespace().collect();
    let line = token.redact(&line.join(" "));
    line.chars()
        .filter(|c| !c.is_control())
        .take(MAX_MESSAGE_CHARS)
        .collect()
}

fn fields(details: &Value, token: &Token) -> Vec<FieldError> {
    let text = |v: &Value| v.as_str().map(|s| presentable(s, token));
    let fields = details["fields"].as_array().into_iter().flatten();
    fields
        .filter_map(|field| {
            let messages = field["messages"].as_array().into_iter().flatten();
            Some(FieldError {
                name: text(&field["name"])?,
                messages: messages.filter_map(text).collect(),
            })
        })
        .collect()
}

/// What Hetzner says, and which limits it names.
fn with_limits(message: String, details: &Value, token: &Token) -> String {
    let limits = details["limits"].as_array().into_iter().flatten();
    let names = limits.filter_map(|limit| limit["name"].as_str());
    let names: Vec<String> = names.map(|name| presentable(name, token)).collect();
    if names.is_empty() {
        message
    } else {
        format!("{message}: {}", names.join(", "))
    }
}

/// When at least one more request will be answered.
fn one_request_back(headers: &HeaderMap) -> Timestamp {
    let now = Timestamp::now();
    let wait = Budget::of(headers, now).map_or(SignedDuration::from_secs(1), |b| b.refill());
    now.saturating_add(wait).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(status: u16, body: &str) -> HetznerError {
        let refusal = Refusal {
            what: "create server `a`".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            headers: &HeaderMap::new(),
            body: body.as_bytes(),
            id: RequestId::default(),
        };
        refusal.meaning(&Token::new("planted"))
    }

    #[test]
    fn the_code_counts_before_the_status() {
        let cases = [
            (401, "unauthorized", "Unauthorized"),
            (403, "token_readonly", "Unauthorized"),
            (429, "rate_limit_exceeded", "RateLimited"),
            (404, "not_found", "NotFound"),
            (412, "resource_unavailable", "OutOfStock"),
            (422, "placement_error", "OutOfStock"),
            (403, "resource_limit_exceeded", "QuotaExceeded"),
            (423, "locked", "Locked"),
            (409, "conflict", "Locked"),
            (403, "protected", "Protected"),
            (503, "maintenance", "Unreachable"),
            (409, "uniqueness_error", "Refused"),
            (418, "a_code_of_tomorrow", "Refused"),
        ];
        for (status, code, wanted) in cases {
            let body =
                format!(r#"{{"error": {{"code": "{code}", "message": "m", "details": null}}}}"#);
            assert_eq!(meaning(status, &body).reason(), wanted, "{status} {code}");
        }
    }

    #[test]
    fn a_limit_is_told_by_its_name() {
        let body = r#"{"error": {"code": "resource_limit_exceeded", "message": "no more",
            "details": {"limits": [{"name": "server_limit"}, {}]}}}"#;
        let said = meaning(403, body).to_string();
        assert!(
            said.contains("limit is reached (no more: server_limit)"),
            "{said}"
        );
    }

    #[test]
    fn a_404_that_is_not_hetzners_proves_nothing() {
        let cases = [
            (401, "Unauthorized"),
            (429, "RateLimited"),
            (404, "Malformed"),
            (500, "Malformed"),
            (502, "Unreachable"),
        ];
        for (status, wanted) in cases {
            for body in [
                "",
                "<html>",
                "null",
                r#"{"error": null}"#,
                r#"{"error": {"code": null}}"#,
            ] {
                assert_eq!(meaning(status, body).reason(), wanted, "{status} {body}");
            }
        }
    }

    #[test]
    fn hetzners_words_are_cut_and_hold_no_token() {
        let long = format!("the\\ntoken planted\\u0007 {}", "x".repeat(1000));
        let body = format!(
            r#"{{"error": {{"code": "planted", "message": "{long}", "details":
                {{"fields": [{{"name": "a", "messages": ["b planted", 7]}}, 3]}}}}}}"#
        );
        let shown = meaning(400, &body);
        let HetznerError::Refused {
            code,
            message,
            fields,
            ..
        } = &shown
        else {
            panic!("{shown}")
        };
        assert_eq!(
            (code.as_str(), message.chars().count()),
            ("…", MAX_MESSAGE_CHARS)
        );
        assert!(message.starts_with("the token … x"), "{message}");
        assert_eq!(fields.len(), 1);
        assert_eq!(fields[0].messages, ["b …"]);
    }
}
