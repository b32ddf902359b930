//! Schemas of what the core defines, as the API server is told about them.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::node::MAX_SAID_CHARS;

/// The shape of a core `Diagnostic`: the core knows nothing of JSON Schema.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its schema is used, it is never made")]
pub(super) struct DiagnosticSchema {
    place: PlaceSchema,
    object: String,
    problem: String,
    remedy: String,
}

#[derive(JsonSchema)]
#[allow(dead_code, reason = "its schema is used, it is never made")]
pub(super) struct PlaceSchema {
    file: String,
    line: Option<u32>,
    column: Option<u32>,
}

#[derive(JsonSchema)]
#[allow(dead_code, reason = "its schema is used, it is never made")]
pub(super) struct HoldSchema {
    about: String,
    reason: String,
    message: String,
}

#[derive(JsonSchema)]
#[allow(dead_code, reason = "its schema is used, it is never made")]
pub(super) struct SignedPublicationSchema {
    statement: String,
    signature: String,
}

/// What the core defines, and another version of fabrik may define with more fields: the API server keeps it as it is.
pub(super) struct AnyObject;

impl JsonSchema for AnyObject {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "AnyObject".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }
}

/// The same, of a node that may say only so much.
pub(super) struct ReportSchema;

impl JsonSchema for ReportSchema {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Report".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "activity": {
                    "type": "object",
                    "nullable": true,
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": { "message": { "type": "string", "maxLength": MAX_SAID_CHARS } },
                },
            },
        })
    }
}

pub(super) struct MomentSchema;

impl JsonSchema for MomentSchema {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}
