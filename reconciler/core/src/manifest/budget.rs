//! How much memory the manifests of one commit may take. What a push sends may grow: by aliases, by many documents, by one
//! file in many places.

use serde_json::Value;

use crate::diagnostic::Diagnostic;

/// Enough for some 50 MB of ordinary manifests.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// What a key takes beside its letters.
const KEY_BYTES: usize = 48;

/// What is left. One for all files of a commit.
#[derive(Debug)]
pub struct Budget {
    bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self::of(MAX_BYTES)
    }
}

impl Budget {
    pub fn of(bytes: usize) -> Self {
        Self { bytes }
    }

    /// Nothing more is read.
    pub fn is_spent(&self) -> bool {
        self.bytes == 0
    }

    pub(super) fn spend_on_value(&mut self, value: &Value) {
        self.spend(size_of_value(value));
    }

    pub(super) fn spend_on_faults(&mut self, faults: &[Diagnostic]) {
        let size = |fault: &Diagnostic| {
            let texts = [
                &fault.place.file,
                &fault.object,
                &fault.problem,
                &fault.remedy,
            ];
            size_of::<Diagnostic>() + texts.map(String::len).iter().sum::<usize>()
        };
        self.spend(faults.iter().map(size).sum());
    }

    fn spend(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

fn size_of_value(value: &Value) -> usize {
    let inside = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size_of_value).sum(),
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| KEY_BYTES + key.len() + size_of_value(value))
            .sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Source, parse};

    const CONFIG: &str = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

    fn read(text: &str, budget: &mut Budget) -> (usize, Vec<String>) {
        let source = Source {
            file: "manifests/a/a.yaml",
            text,
            encrypted: None,
        };
        let (objects, faults) = parse(&source, budget);
        let faults = faults.iter().map(ToString::to_string).collect();
        (objects.len(), faults)
    }

    #[test]
    fn documents_share_what_there_is_and_so_do_files() {
        let mut budget = Budget::of(1000);
        let (objects, faults) = read(&CONFIG.repeat(1000), &mut budget);
        assert!(objects < 10, "{objects}");
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].contains("take more memory than fabrik gives them"),
            "{faults:?}"
        );
        assert_eq!(read(CONFIG, &mut budget), (0, Vec::new()), "said once");
    }

    #[test]
    fn faults_are_paid_for_as_well() {
        let mut budget = Budget::of(5000);
        let (_, faults) = read(&"---\nx\n".repeat(1000), &mut budget);
        assert!(faults.len() < 50, "{}", faults.len());
        let mut budget = Budget::of(5000);
        let list = format!("kind: List\nitems: [{}]\n", "x,".repeat(1000));
        let (_, faults) = read(&list, &mut budget);
        assert!(faults.len() < 50, "{}", faults.len());
    }

    #[test]
    fn ordinary_manifests_cost_a_few_times_their_length() {
        let text = CONFIG.repeat(1000);
        let mut budget = Budget::default();
        assert_eq!(read(&text, &mut budget), (1000, Vec::new()));
        assert!(MAX_BYTES - budget.bytes < 8 * text.len());
    }
}
