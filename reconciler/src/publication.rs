//! Publications and retirements: what the leader signs, and what a node must check before it believes one.
//!
//! Whether a node obeys one that is genuine (its sequence, its pool, its boot) is decided elsewhere.

use fabrik_core::id::ClusterId;
use fabrik_core::system::{Publication, Retirement, SignedPublication};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::signing::{PublicKey, SigningKey};

/// Why a publication is not believed. The words complete "the publication …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error(
        "can't be checked: the public key in the configuration {problem}. Copy it from signing.pub of a server"
    )]
    NoKey { problem: &'static str },
    #[error(
        "is not signed by {expected}, the key that this node was given. Either somebody tries to publish who may not, \
         or the cluster was founded again and this node belongs to the old one: replace the node"
    )]
    NotSigned { expected: String },
    #[error(
        "can't be read: {problem}. It was made by another version of fabrik: update this node's"
    )]
    Malformed { problem: String },
    #[error("has the layout {schema}, and this fabrik knows up to {known}: update this node's")]
    NewerLayout { schema: u32, known: u32 },
    #[error("is of the cluster {found}, and this node belongs to {ours}")]
    OtherCluster { found: ClusterId, ours: ClusterId },
}

/// Signs a statement. What travels is the very text that was signed. One of a kind has none of the other kind's fields, so
/// neither passes for the other.
///
/// # Errors
/// It can't be written as JSON.
pub fn sign(key: &SigningKey, statement: &impl Serialize) -> Result<SignedPublication, String> {
    let statement = serde_json::to_string(statement).map_err(|e| e.to_string())?;
    let signature = key.sign(statement.as_bytes());
    Ok(SignedPublication {
        statement,
        signature,
    })
}

/// What a publication says, if the holder of the key says it. `public_key` is a line as in `signing.pub`.
///
/// # Errors
/// It is not signed by that key, is of another cluster, or can't be read.
pub fn verify(
    public_key: &str,
    ours: &ClusterId,
    signed: &SignedPublication,
) -> Result<Publication, Why> {
    let publication: Publication = genuine(public_key, signed, Publication::SCHEMA)?;
    of_cluster(&publication.cluster, ours).map(|()| publication)
}

/// What a retirement says, if the holder of the key says it.
///
/// # Errors
/// As for a publication.
pub fn verify_retirement(
    public_key: &str,
    ours: &ClusterId,
    signed: &SignedPublication,
) -> Result<Retirement, Why> {
    let retirement: Retirement = genuine(public_key, signed, Retirement::SCHEMA)?;
    of_cluster(&retirement.cluster, ours).map(|()| retirement)
}

fn of_cluster(found: &ClusterId, ours: &ClusterId) -> Result<(), Why> {
    if found == ours {
        return Ok(());
    }
    Err(Why::OtherCluster {
        found: found.clone(),
        ours: ours.clone(),
    })
}

fn genuine<T: DeserializeOwned>(
    public_key: &str,
    signed: &SignedPublication,
    known: u32,
) -> Result<T, Why> {
    let key: PublicKey = public_key
        .parse()
        .map_err(|problem| Why::NoKey { problem })?;
    if !key.verifies(signed.statement.as_bytes(), &signed.signature) {
        return Err(Why::NotSigned {
            expected: key.name().to_owned(),
        });
    }
    let malformed = |error: serde_json::Error| Why::Malformed {
        problem: error.to_string(),
    };
    // First the layout alone: the rest may have changed with it.
    let schema = serde_json::from_str::<Layout>(&signed.statement)
        .map_err(malformed)?
        .schema;
    if schema > known {
        return Err(Why::NewerLayout { schema, known });
    }
    serde_json::from_str(&signed.statement).map_err(malformed)
}

#[derive(serde::Deserialize)]
struct Layout {
    schema: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::tests::founded;

    const CLUSTER: &str = "abcdefgh01234567";

    fn publication() -> Publication {
        serde_json::from_value(serde_json::json!({
            "schema": 1,
            "cluster": CLUSTER,
            "pool": "workers",
            "commit": "2f3a".repeat(10),
            "sequence": 7,
            "systems": [{
                "output": "/nix/store/00000000000000000000000000000000-system",
                "derivation": "/nix/store/11111111111111111111111111111111-system.drv",
                "kubernetes": "1.36.3+k3s1",
            }],
        }))
        .unwrap()
    }

    fn ours() -> ClusterId {
        CLUSTER.parse().unwrap()
    }

    #[test]
    fn a_publication_arrives_as_it_was_signed() {
        let dir = tempfile::tempdir().unwrap();
        let (key, public) = founded(dir.path());
        let signed = sign(&key, &publication()).unwrap();
        assert_eq!(verify(&public, &ours(), &signed), Ok(publication()));
    }

    #[test]
    fn neither_kind_of_statement_passes_for_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let (key, public) = founded(dir.path());
        let retirement = Retirement {
            schema: Retirement::SCHEMA,
            cluster: ours(),
            node: "server-1".parse().unwrap(),
            boot: "00000000-0000-4000-8000-000000000001".parse().unwrap(),
            stops: true,
            not_after: None,
        };
        let signed = sign(&key, &retirement).unwrap();
        assert_eq!(verify_retirement(&public, &ours(), &signed), Ok(retirement));
        assert!(matches!(
            verify(&public, &ours(), &signed),
            Err(Why::Malformed { .. })
        ));
        let signed = sign(&key, &publication()).unwrap();
        assert!(matches!(
            verify_retirement(&public, &ours(), &signed),
            Err(Why::Malformed { .. })
        ));
        let other: ClusterId = "zbcdefgh01234567".parse().unwrap();
        assert!(verify_retirement(&public, &other, &signed).is_err());
    }

    #[test]
    fn a_changed_one_and_one_by_another_key_are_not_believed() {
        let (ours_dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (key, public) = founded(ours_dir.path());
        let (_, other) = founded(other_dir.path());
        let signed = sign(&key, &publication()).unwrap();
        let not_signed = Err(Why::NotSigned {
            expected: "fabrik-demo-1".to_owned(),
        });
        assert_eq!(verify(&other, &ours(), &signed), not_signed);
        let mut changed = signed.clone();
        changed.statement = changed.statement.replace(":7,", ":8,");
        assert_ne!(changed, signed);
        assert_eq!(verify(&public, &ours(), &changed), not_signed);
        let mut unsigned = signed.clone();
        unsigned.signature = String::new();
        assert_eq!(verify(&public, &ours(), &unsigned), not_signed);
        assert!(matches!(
            verify("no key", &ours(), &signed),
            Err(Why::NoKey { .. })
        ));
    }

    #[test]
    fn one_of_another_cluster_or_of_a_layout_to_come_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (key, public) = founded(dir.path());
        let foreign = sign(&key, &publication()).unwrap();
        let other: ClusterId = "zbcdefgh01234567".parse().unwrap();
        assert!(matches!(
            verify(&public, &other, &foreign),
            Err(Why::OtherCluster { .. })
        ));
        // A layout to come may have nothing in common with ours but its number.
        let statement = r#"{"schema": 2, "everything": "else"}"#.to_owned();
        let signature = key.sign(statement.as_bytes());
        let newer = SignedPublication {
            statement,
            signature,
        };
        let expected = Why::NewerLayout {
            schema: 2,
            known: 1,
        };
        assert_eq!(verify(&public, &ours(), &newer), Err(expected));
    }
}
