//! The search for a secret in what was read somewhere.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use k8s_openapi::ByteString;

use crate::watch::Sample;

/// Each value as it could show: plain, in base64, escaped.
pub fn forms(values: Vec<Sample>) -> Result<Vec<Sample>> {
    let mut forms = Vec::new();
    for (name, value) in values {
        let text = serde_json::to_string(&String::from_utf8_lossy(&value))?;
        let escaped = text.trim_matches('"').as_bytes().to_vec();
        for form in BTreeSet::from([value.clone(), base64(&value)?, escaped]) {
            forms.push((name.clone(), form));
        }
    }
    Ok(forms)
}

fn base64(value: &[u8]) -> Result<Vec<u8>> {
    let encoded = serde_json::to_value(ByteString(value.to_vec()))?;
    let text = encoded.as_str().context("base64")?.trim_end_matches('=');
    // The last character may differ when more bytes follow.
    Ok(text.as_bytes()[..text.len() - 1].to_vec())
}

/// Where one of `forms` stands, with what is around it.
pub fn leaks(places: &[Sample], forms: &[Sample]) -> Vec<String> {
    let mut leaks = Vec::new();
    for (place, content) in places {
        for (name, form) in forms {
            if let Some(at) = find(content, form) {
                let around =
                    &content[at.saturating_sub(120)..(at + form.len() + 20).min(content.len())];
                leaks.push(format!(
                    "{name} in {place}: …{}…",
                    String::from_utf8_lossy(around)
                ));
            }
        }
    }
    leaks
}

/// Where `form` begins.
pub fn find(content: &[u8], form: &[u8]) -> Option<usize> {
    content
        .windows(form.len())
        .position(|window| window == form)
}
