//! Deliveries: the secrets of one node as they lie ready for it, and what it must check before it believes one.
//!
//! The values are encrypted to the age key that the node made, and all of it is signed with the cluster's key: who may
//! write a Secret of Kubernetes can neither read them nor put others in their place.

use std::collections::BTreeMap;
use std::io::Read as _;

use fabrik_core::id::{AgeRecipient, ClusterId, NodeName, SecretName, SecretsDigest};
use fabrik_core::spec::FileMode;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::secrets::Secret;
use crate::signing::{PublicKey, SigningKey};

/// The version of the layout.
const SCHEMA: u32 = 1;
/// Begins what is signed: publications and what Nix signs begin otherwise.
const CONTEXT: &[u8] = b"fabrik-node-secrets\n";

/// What a node is to have: all of it, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub digest: SecretsDigest,
    /// Of the commit. A node takes none that is older than what it has.
    pub sequence: u64,
    pub files: BTreeMap<SecretName, SecretFile>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    pub value: Secret,
    pub mode: FileMode,
    pub owner: String,
    pub group: String,
}

/// Whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Addressee<'a> {
    pub cluster: &'a ClusterId,
    pub node: &'a NodeName,
}

/// A delivery as it travels. Anybody may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    pub ciphertext: Vec<u8>,
    pub signature: String,
}

/// Why none could be made.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(
        "`{recipient}`, which was recorded for it, is no age recipient ({problem}): replace the node"
    )]
    NoRecipient {
        recipient: AgeRecipient,
        problem: &'static str,
    },
    #[error("its secrets can't be encrypted: {0}")]
    Encryption(#[from] age::EncryptError),
    #[error("its secrets can't be written down: {0}")]
    Json(#[from] serde_json::Error),
}

/// Why one is not believed. The words complete "the secrets that lie ready …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error(
        "can't be checked: the public key in the configuration {problem}. Copy it from signing.pub of a server"
    )]
    NoKey { problem: &'static str },
    #[error(
        "are not signed by {expected}, the key that this node was given: somebody has changed them. Delete that Secret: the \
         leader writes it anew"
    )]
    NotSigned { expected: String },
    #[error("are encrypted to another key than this node's: {problem}")]
    NotForUs { problem: String },
    #[error("are of {found}, and this is {ours}")]
    OtherNode { found: String, ours: String },
    #[error("have the layout {schema}, and this fabrik knows up to {known}: update this node's")]
    NewerLayout { schema: u32, known: u32 },
    #[error("can't be read: {problem}")]
    Malformed { problem: String },
    #[error("are of the commit with the number {found}, and those here of a later one, {ours}")]
    Older { found: u64, ours: u64 },
}

/// The first line of the plaintext. The values follow it, one after the other and in this order.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    schema: u32,
    cluster: ClusterId,
    node: NodeName,
    digest: SecretsDigest,
    sequence: u64,
    files: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: SecretName,
    bytes: usize,
    mode: FileMode,
    owner: String,
    group: String,
}

/// Encrypts to `recipient`, and signs.
///
/// # Errors
/// The recipient is none.
pub fn seal(
    key: &SigningKey,
    recipient: &AgeRecipient,
    to: Addressee<'_>,
    delivery: &Delivery,
) -> Result<Sealed, SealError> {
    let whom: age::x25519::Recipient =
        recipient
            .as_str()
            .parse()
            .map_err(|problem| SealError::NoRecipient {
                recipient: recipient.clone(),
                problem,
            })?;
    let plaintext = write(to, delivery)?;
    let ciphertext = age::encrypt(&whom, &plaintext)?;
    let signature = key.sign(&signed(&ciphertext));
    Ok(Sealed {
        ciphertext,
        signature,
    })
}

/// What a delivery holds, if the holder of the cluster's key has made it for this node.
///
/// # Errors
/// Something else.
pub fn open(
    public_key: &str,
    identity: &age::x25519::Identity,
    to: Addressee<'_>,
    sealed: &Sealed,
) -> Result<Delivery, Why> {
    let key: PublicKey = public_key
        .parse()
        .map_err(|problem| Why::NoKey { problem })?;
    if !key.verifies(&signed(&sealed.ciphertext), &sealed.signature) {
        return Err(Why::NotSigned {
            expected: key.name().to_owned(),
        });
    }
    let plaintext = decrypt(identity, &sealed.ciphertext)?;
    read(to, &plaintext)
}

fn signed(ciphertext: &[u8]) -> Vec<u8> {
    [CONTEXT, ciphertext].concat()
}

/// Into a buffer that never moves: a moved one leaves its bytes behind in memory.
fn write(to: Addressee<'_>, delivery: &Delivery) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let files = delivery.files.iter().map(|(name, file)| Entry {
        name: name.clone(),
        bytes: file.value.expose().len(),
        mode: file.mode,
        owner: file.owner.clone(),
        group: file.group.clone(),
    });
    let header = serde_json::to_vec(&Header {
        schema: SCHEMA,
        cluster: to.cluster.clone(),
        node: to.node.clone(),
        digest: delivery.digest.clone(),
        sequence: delivery.sequence,
        files: files.collect(),
    })?;
    let values = delivery.files.values().map(|file| file.value.expose());
    let bytes: usize = values.clone().map(<[u8]>::len).sum();
    let mut text = Zeroizing::new(Vec::with_capacity(header.len() + 1 + bytes));
    text.extend(header);
    text.push(b'\n');
    values.for_each(|value| text.extend(value));
    Ok(text)
}

fn decrypt(identity: &age::x25519::Identity, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, Why> {
    let not_for_us = |error: age::DecryptError| Why::NotForUs {
        problem: error.to_string(),
    };
    let malformed = |error: std::io::Error| Why::Malformed {
        problem: error.to_string(),
    };
    let decryptor = age::Decryptor::new(ciphertext).map_err(not_for_us)?;
    let keys = std::iter::once(identity as &dyn age::Identity);
    let mut reader = decryptor.decrypt(keys).map_err(not_for_us)?;
    // Longer than what is in it.
    let mut plaintext = Zeroizing::new(vec![0_u8; ciphertext.len()]);
    let mut length = 0;
    loop {
        match reader.read(&mut plaintext[length..]).map_err(malformed)? {
            0 => break,
            more => length += more,
        }
    }
    plaintext.truncate(length);
    Ok(plaintext)
}

fn read(to: Addressee<'_>, plaintext: &[u8]) -> Result<Delivery, Why> {
    let malformed = |problem: String| Why::Malformed { problem };
    let end = plaintext.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| malformed("it has no first line".to_owned()))?;
    let (header, values) = (&plaintext[..end], &plaintext[end + 1..]);
    // First the layout alone: the rest may have changed with it.
    let layout: Layout = serde_json::from_slice(header).map_err(|e| malformed(e.to_string()))?;
    if layout.schema > SCHEMA {
        return Err(Why::NewerLayout {
            schema: layout.schema,
            known: SCHEMA,
        });
    }
    let header: Header = serde_json::from_slice(header).map_err(|e| malformed(e.to_string()))?;
    if header.cluster != *to.cluster || header.node != *to.node {
        return Err(Why::OtherNode {
            found: format!("node {} of cluster {}", header.node, header.cluster),
            ours: format!("node {} of cluster {}", to.node, to.cluster),
        });
    }
    let mut files = BTreeMap::new();
    let mut rest = values;
    for entry in header.files {
        let cut_off = || malformed(format!("{} is cut off", entry.name));
        let (value, others) = rest.split_at_checked(entry.bytes).ok_or_else(cut_off)?;
        rest = others;
        let file = SecretFile {
            value: Secret::new(value.to_vec()),
            mode: entry.mode,
            owner: entry.owner,
            group: entry.group,
        };
        files.insert(entry.name, file);
    }
    Ok(Delivery {
        digest: header.digest,
        sequence: header.sequence,
        files,
    })
}

#[derive(Deserialize)]
struct Layout {
    schema: u32,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::signing::tests::founded;

    pub fn delivery(sequence: u64, files: &[(&str, &str, &str)]) -> Delivery {
        let file = |(name, value, mode): &(&str, &str, &str)| {
            let file = SecretFile {
                value: Secret::new(value.as_bytes().to_vec()),
                mode: mode.parse().unwrap(),
                owner: "root".to_owned(),
                group: "root".to_owned(),
            };
            (name.parse().unwrap(), file)
        };
        Delivery {
            digest: format!("{sequence:064x}").parse().unwrap(),
            sequence,
            files: files.iter().map(file).collect(),
        }
    }

    pub fn recipient(identity: &age::x25519::Identity) -> AgeRecipient {
        identity.to_public().to_string().parse().unwrap()
    }

    #[test]
    fn what_was_sealed_for_a_node_opens_there_and_shows_nothing_before() {
        let dir = tempfile::tempdir().unwrap();
        let (key, public) = founded(dir.path());
        let (ours, other) = (
            age::x25519::Identity::generate(),
            age::x25519::Identity::generate(),
        );
        let (cluster, node) = ("abcdefgh01234567".parse().unwrap(), "w-1".parse().unwrap());
        let to = Addressee {
            cluster: &cluster,
            node: &node,
        };
        let sent = delivery(
            7,
            &[
                ("a", "hunter2\n\nhunter3", "0400"),
                ("b", "", "0440"),
                ("c", "ü", "0400"),
            ],
        );
        let sealed = seal(&key, &recipient(&ours), to, &sent).unwrap();
        assert_eq!(open(&public, &ours, to, &sealed).unwrap(), sent);
        let shown = format!("{sealed:?}{sent:?}");
        assert!(
            !shown.contains("hunter")
                && !String::from_utf8_lossy(&sealed.ciphertext).contains("hunter")
        );
        assert_ne!(
            seal(&key, &recipient(&ours), to, &sent).unwrap(),
            sealed,
            "ciphertexts differ"
        );

        let refused =
            |sealed: &Sealed, identity, to| open(&public, identity, to, sealed).unwrap_err();
        assert!(matches!(refused(&sealed, &other, to), Why::NotForUs { .. }));
        let stranger = "w-2".parse().unwrap();
        let elsewhere = Addressee {
            node: &stranger,
            ..to
        };
        let told = refused(&sealed, &ours, elsewhere).to_string();
        assert!(
            told.contains("node w-1") && told.contains("node w-2"),
            "{told}"
        );
        let mut tampered = sealed.clone();
        *tampered.ciphertext.last_mut().unwrap() ^= 1;
        assert!(matches!(
            refused(&tampered, &ours, to),
            Why::NotSigned { .. }
        ));
        let dir = tempfile::tempdir().unwrap();
        let (forger, _) = founded(dir.path());
        let forged = seal(&forger, &recipient(&ours), to, &sent).unwrap();
        assert!(matches!(refused(&forged, &ours, to), Why::NotSigned { .. }));
        let bare = Sealed {
            signature: key.sign(&sealed.ciphertext),
            ..sealed
        };
        assert!(
            matches!(refused(&bare, &ours, to), Why::NotSigned { .. }),
            "signed as something else"
        );
    }

    #[test]
    fn what_is_no_recipient_is_told_and_what_is_cut_off_too() {
        let dir = tempfile::tempdir().unwrap();
        let (key, _) = founded(dir.path());
        let (cluster, node) = ("abcdefgh01234567".parse().unwrap(), "w-1".parse().unwrap());
        let to = Addressee {
            cluster: &cluster,
            node: &node,
        };
        let none = format!("age1{}", "q".repeat(58)).parse().unwrap();
        let error = seal(&key, &none, to, &delivery(1, &[])).unwrap_err();
        assert!(matches!(error, SealError::NoRecipient { .. }), "{error}");
        let whole = write(to, &delivery(1, &[("a", "hunter2", "0400")])).unwrap();
        let error = read(to, &whole[..whole.len() - 1]).unwrap_err();
        assert_eq!(error.to_string(), "can't be read: a is cut off");
        let newer = String::from_utf8_lossy(&whole).replace("\"schema\":1", "\"schema\":2");
        assert_eq!(
            read(to, newer.as_bytes()).unwrap_err(),
            Why::NewerLayout {
                schema: 2,
                known: 1
            }
        );
    }
}
