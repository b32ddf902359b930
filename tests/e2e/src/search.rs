//! The search for a secret in what was read somewhere, and what is read for it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use fabrik_bed::Bed;
use k8s_openapi::ByteString;
use serde_json::Value;

use crate::watch::{Sample, unpacked};

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

/// What fabrik writes into the cluster, and what it publishes.
pub fn in_the_cluster(bed: &Bed) -> Result<Vec<Sample>> {
    let kinds =
        "fabrikclusters,fabrikunits,fabriknodes,fabrikledgers,configmaps,events,leases,nodes";
    let objects = bed.kubectl(&[
        "get",
        kinds,
        "--all-namespaces",
        "--show-managed-fields",
        "-o",
        "json",
    ])?;
    let published = [
        "get",
        "configmap",
        "--namespace=fabrik-system",
        "-o",
        "json",
    ];
    let published = bed.kubectl(&[&published[..], &["fabrik-observed"]].concat())?;
    let published: Value = serde_json::from_str(&published)?;
    let packed = published["binaryData"]
        .as_object()
        .and_then(|data| data.values().next());
    let packed: ByteString = serde_json::from_value(packed.context("no observation")?.clone())?;
    Ok(vec![
        ("objects".to_owned(), objects.into_bytes()),
        ("fabrik-observed".to_owned(), unpacked(&packed.0)?),
    ])
}

/// What the emulator shows, without what belongs to new servers.
pub fn without_user_data(emulator: &Value) -> Vec<u8> {
    fn strip(value: &mut Value) {
        if let Some(fields) = value.as_object_mut() {
            fields.remove("user_data");
            fields.values_mut().for_each(strip);
        } else if let Some(items) = value.as_array_mut() {
            items.iter_mut().for_each(strip);
        }
    }
    let mut emulator = emulator.clone();
    strip(&mut emulator);
    emulator.to_string().into_bytes()
}
