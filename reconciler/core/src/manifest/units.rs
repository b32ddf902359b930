//! Objects by unit, and what must hold among all objects of a commit.

use std::collections::BTreeMap;

use serde_json::Value;

use super::scope::{Scope, Scopes};
use super::{FOLDER, Object, own};
use crate::desired::ObjectKey;
use crate::diagnostic::{Diagnostic, Place};
use crate::id::UnitName;

const DEFAULT_NAMESPACE: &str = "default";

/// Objects in the order of their places.
pub type Units = BTreeMap<UnitName, Vec<Object>>;

/// The unit that a file under `manifests/` belongs to.
pub fn unit_of(path: &str) -> Result<UnitName, Diagnostic> {
    let fault = |problem: String, remedy: &str| Diagnostic {
        place: Place::file(path),
        object: path.to_owned(),
        problem,
        remedy: remedy.to_owned(),
    };
    let inner = path.strip_prefix(FOLDER).unwrap_or(path);
    let Some((folder, _)) = inner.split_once('/') else {
        return Err(fault(
            "is directly in `manifests/` and belongs to no unit".to_owned(),
            "move it into a folder like `manifests/web/`: each folder there is a unit",
        ));
    };
    folder.parse().map_err(|invalid| {
        fault(
            format!("its folder is a unit, and can't be called so: {invalid}"),
            "use at most 63 of a-z, 0-9 and -, beginning with a letter",
        )
    })
}

/// Sorts objects into units and completes their namespaces.
pub fn units(objects: Vec<Object>) -> (Units, Vec<Diagnostic>) {
    let scopes = Scopes::of(&objects);
    let mut units = Units::new();
    let mut faults = Vec::new();
    let mut first: BTreeMap<ObjectKey, Place> = BTreeMap::new();
    let mut bad_files: BTreeMap<String, Diagnostic> = BTreeMap::new();
    for mut object in objects {
        complete_namespace(&mut object, &scopes);
        if let Some((problem, remedy)) = own::objection(&object.key) {
            faults.push(fault(&object, problem.to_owned(), remedy));
        }
        if let Some(other) = first.get(&object.key) {
            faults.push(fault(
                &object,
                format!("is defined a second time; the first is at {other}"),
                "keep one of them",
            ));
        }
        first
            .entry(object.key.clone())
            .or_insert_with(|| object.place.clone());
        match unit_of(&object.place.file) {
            Ok(unit) => units.entry(unit).or_default().push(object),
            Err(fault) => {
                bad_files.insert(object.place.file, fault);
            }
        }
    }
    faults.extend(bad_files.into_values());
    faults.sort();
    (units, faults)
}

fn fault(object: &Object, problem: String, remedy: &str) -> Diagnostic {
    let ObjectKey {
        kind,
        namespace,
        name,
        ..
    } = &object.key;
    let object_name = if namespace.is_empty() {
        format!("{kind} {name}")
    } else {
        format!("{kind} {namespace}/{name}")
    };
    Diagnostic {
        place: object.place.clone(),
        object: object_name,
        problem,
        remedy: remedy.to_owned(),
    }
}

/// As kubectl does: what lives in no namespace loses one that it was given, what lives in one and names none is in
/// `default`.
fn complete_namespace(object: &mut Object, scopes: &Scopes) {
    let metadata = object
        .value
        .get_mut("metadata")
        .and_then(Value::as_object_mut);
    let Some(metadata) = metadata else { return };
    match scopes.get(&object.key.group, &object.key.kind) {
        Some(Scope::Cluster) => object.key.namespace.clear(),
        Some(Scope::Namespaced) if object.key.namespace.is_empty() => {
            DEFAULT_NAMESPACE.clone_into(&mut object.key.namespace);
        }
        _ => {}
    }
    if object.key.namespace.is_empty() {
        metadata.remove("namespace");
    } else {
        metadata.insert("namespace".to_owned(), object.key.namespace.clone().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Budget, Source, parse};

    const KINDS: &str = "apiVersion: v1
kind: ConfigMap
metadata: {name: plain}
---
apiVersion: v1
kind: Node
metadata: {name: node, namespace: x}
---
apiVersion: example.com/v1
kind: Inside
metadata: {name: inside}
---
apiVersion: example.com/v1
kind: Outside
metadata: {name: outside, namespace: x}
---
apiVersion: elsewhere.com/v1
kind: Unknown
metadata: {name: said, namespace: x}
---
apiVersion: elsewhere.com/v1
kind: Unknown
metadata: {name: unsaid}
";

    fn definition(kind: &str, scope: &str) -> String {
        let name = kind.to_lowercase();
        format!(
            "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {name}}}\n\
             spec: {{group: example.com, names: {{kind: {kind}}}, scope: {scope}}}\n"
        )
    }

    #[test]
    fn namespaces_are_completed_by_what_the_kind_is_known_to_be() {
        let text = format!(
            "{KINDS}{}{}",
            definition("Inside", "Namespaced"),
            definition("Outside", "Cluster")
        );
        let source = Source {
            file: "manifests/web/deep/a.yaml",
            text: &text,
            encrypted: None,
        };
        let (objects, faults) = parse(&source, &mut Budget::default());
        assert_eq!(faults, []);
        let (units, faults) = units(objects);
        assert_eq!(faults, []);
        let web = &units[&"web".parse().unwrap()];
        let namespaces: Vec<_> = web
            .iter()
            .map(|o| (o.key.name.as_str(), o.key.namespace.as_str()))
            .collect();
        assert_eq!(
            namespaces[..6],
            [
                ("plain", "default"),
                ("node", ""),
                ("inside", "default"),
                ("outside", ""),
                ("said", "x"),
                ("unsaid", "")
            ]
        );
        for object in web {
            let written = object.value["metadata"].get("namespace");
            let written = written.map_or("", |n| n.as_str().unwrap());
            assert_eq!(written, object.key.namespace, "{object:?}");
        }
    }

    #[test]
    fn a_path_names_its_unit() {
        assert_eq!(
            unit_of("manifests/web/deep/a.yaml"),
            Ok("web".parse().unwrap())
        );
        assert!(unit_of("manifests/a.yaml").is_err());
        assert!(unit_of("manifests/Web/a.yaml").is_err());
    }
}
