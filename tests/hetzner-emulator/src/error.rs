//! What the API answers when it refuses: HTTP status, error code, message and details, as the
//! official description lists them.

use serde_json::{Value, json};

/// A refusal. It becomes the body `{"error":{"code","message","details"}}`.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub details: Value,
}

/// One field of the request that is wrong, and all that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    pub name: String,
    pub messages: Vec<String>,
}

impl ApiError {
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            details: Value::Null,
        }
    }

    pub fn not_found(kind: &str, id: impl std::fmt::Display) -> Self {
        Self::new(404, "not_found", format!("{kind} with ID '{id}' not found"))
    }

    pub fn no_such_route() -> Self {
        Self::new(404, "not_found", "page not found")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(405, "method_not_allowed", "method not allowed")
    }

    /// `invalid_input` for one field.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::invalid_fields(&[FieldError {
            name: field.to_owned(),
            messages: vec![message.into()],
        }])
    }

    pub fn invalid_fields(fields: &[FieldError]) -> Self {
        let names: Vec<_> = fields.iter().map(|f| format!("'{}'", f.name)).collect();
        let plural = if names.len() == 1 { "field" } else { "fields" };
        let fields: Vec<_> = fields
            .iter()
            .map(|f| json!({"name": f.name, "messages": f.messages}))
            .collect();
        Self {
            details: json!({"fields": fields}),
            ..Self::new(
                422,
                "invalid_input",
                format!("invalid input in {plural} {}", names.join(", ")),
            )
        }
    }

    pub fn not_unique(field: &str, message: impl Into<String>) -> Self {
        Self {
            details: json!({"fields": [{"name": field}]}),
            ..Self::new(409, "uniqueness_error", message)
        }
    }

    pub fn limit_exceeded(limit: &str, message: impl Into<String>) -> Self {
        Self {
            details: json!({"limits": [{"name": limit}]}),
            ..Self::new(403, "resource_limit_exceeded", message)
        }
    }

    /// A code that only one operation knows. The official texts name the codes, not the HTTP status;
    /// 422 is what is documented for the one that has a status (`must_be_unassigned`).
    pub fn operation(code: &str, message: impl Into<String>) -> Self {
        Self::new(422, code, message)
    }

    pub fn body(&self) -> Value {
        json!({"error": {"code": self.code, "message": self.message, "details": self.details}})
    }
}
