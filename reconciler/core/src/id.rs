//! Names and ids as types, so that one can't be taken for another.
//!
//! A value of these types is well formed: it was parsed at the edge, and what holds one need not check it again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::SERVERS_POOL;

/// What is wrong with a name, in words that complete "`x` …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` {problem}")]
pub struct InvalidId {
    pub value: String,
    pub problem: &'static str,
}

/// Makes a newtype over a string that only its check lets in.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(value) {
                    Ok(()) => Ok(Self(value.to_owned())),
                    Err(problem) => Err(InvalidId { value: value.to_owned(), problem }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                value.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// The cluster's name: the first part of each server's name, so at most 20 characters.
    ClusterName,
    |v| dns_label(v, 20)
);
text_id!(
    /// The random id that founding gave the cluster; a Hetzner label value (16 lower-case characters or digits).
    ClusterId,
    |v| lower_alphanumeric(v, 16)
);
text_id!(
    /// A pool's name: the second part of its servers' names, so at most 30 characters.
    PoolName,
    |v| dns_label(v, 30)
);
text_id!(
    /// A machine of the user's own, as the specification calls it: the last part of its Node's name.
    MachineName,
    |v| dns_label(v, 30)
);
text_id!(
    /// The name of a Node, which is its server's name at Hetzner as well (an RFC 1123 subdomain).
    NodeName,
    dns_subdomain
);
text_id!(
    /// One wish to have one server: 6 characters, also the id of its join token and the end of its name.
    IntentId,
    |v| lower_alphanumeric(v, 6)
);
text_id!(
    /// The name of a unit: a folder directly under `manifests/`.
    UnitName,
    |v| dns_label(v, 63)
);
text_id!(
    /// A Kubernetes object's UID.
    Uid,
    |v| if v.is_empty() { Err("is empty") } else { Ok(()) }
);
text_id!(
    /// A git commit's full SHA-1, in lower-case hex.
    CommitId,
    |v| {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if v.len() == 40 && v.chars().all(hex) { Ok(()) } else { Err("is no full commit id (40 hex digits)") }
    }
);

text_id!(
    /// A path of the Nix store, `/nix/store/HASH-NAME`: nothing below it.
    StorePath,
    store_path
);
text_id!(
    /// What Linux calls a boot: `/proc/sys/kernel/random/boot_id`.
    BootId,
    |v| {
        let known = |c: char| c.is_ascii_hexdigit() || c == '-';
        if v.len() == 36 && v.chars().all(known) { Ok(()) } else { Err("is no boot id") }
    }
);

text_id!(
    /// The name of a secret for nodes: that of its file under `/run/fabrik/secrets`, and a key of a Kubernetes Secret.
    SecretName,
    |v| {
        let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let whole = (1..=63).contains(&v.len()) && v.chars().all(known);
        if whole && v.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            Ok(())
        } else {
            Err("is no name for a file of secrets")
        }
    }
);
text_id!(
    /// Whom something is encrypted to: the public half of a node's age identity, as `age-keygen` writes it (X25519).
    AgeRecipient,
    |v| {
        let known = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
        let whole = v.len() == 62 && v.starts_with("age1") && v.chars().all(known);
        if whole { Ok(()) } else { Err("is no age recipient") }
    }
);
text_id!(
    /// Which secrets a node was given, and for whom: SHA-256 in hex, of nothing that is secret.
    SecretsDigest,
    |v| {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if v.len() == 64 && v.chars().all(hex) { Ok(()) } else { Err("is no digest (64 hex digits)") }
    }
);

text_id!(
    /// What the ledger knows a nonce by: SHA-256 in hex.
    NonceHash,
    |v| {
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        if v.len() == 64 && v.chars().all(hex) { Ok(()) } else { Err("is no hash (64 hex digits)") }
    }
);

impl NonceHash {
    pub fn of(bytes: [u8; 32]) -> Self {
        Self(crate::hex(&bytes))
    }
}

impl CommitId {
    /// The first 8 digits, as people read it.
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

/// By Nix' rules: 32 characters of its base 32, a dash, and a name of up to 211 characters.
/// (nix.dev/manual, "Store Path")
fn store_path(value: &str) -> Result<(), &'static str> {
    const SHAPE: &str = "is no path of the Nix store";
    let entry = value.strip_prefix("/nix/store/").ok_or(SHAPE)?;
    let (hash, name) = entry.split_once('-').ok_or(SHAPE)?;
    let base32 = |c: char| "0123456789abcdfghijklmnpqrsvwxyz".contains(c);
    let of_name = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    let well_formed = hash.len() == 32
        && hash.chars().all(base32)
        && (1..=211).contains(&name.len())
        && name.chars().all(of_name);
    if well_formed { Ok(()) } else { Err(SHAPE) }
}

impl StorePath {
    /// The first digits of its hash, and its name: as people read it.
    pub fn short(&self) -> String {
        let entry = self.0.rsplit('/').next().unwrap_or(&self.0);
        let (hash, name) = entry.split_once('-').unwrap_or((entry, ""));
        format!("{}-{name}", hash.get(..7).unwrap_or(hash))
    }
}

impl NodeName {
    /// The name of the server that `intent` stands for.
    pub fn of(cluster: &ClusterName, pool: &PoolName, intent: &IntentId) -> Self {
        Self(format!("{cluster}-{pool}-{intent}"))
    }

    /// The name of a machine of the user's own.
    pub fn of_machine(cluster: &ClusterName, pool: &PoolName, machine: &MachineName) -> Self {
        Self(format!("{cluster}-{pool}-{machine}"))
    }
}

impl PoolName {
    /// The control plane, where a pool is asked for. No pool of a spec can be called so.
    pub fn servers() -> Self {
        Self(SERVERS_POOL.to_owned())
    }
}

impl IntentId {
    /// What stands for a machine of the control plane, which no intent made. Counted from the other end, so that no
    /// intent's sequence meets it; `attempt` tells apart what collides.
    pub fn of_server(cluster: &ClusterId, server: ServerId, attempt: u64) -> Self {
        Self::derive(
            cluster,
            u64::MAX.wrapping_sub(server.0).wrapping_sub(attempt << 54),
        )
    }

    /// What stands for a machine of the user's own that is to be this Node; `attempt` tells apart what collides.
    pub fn of_machine(cluster: &ClusterId, node: &NodeName, attempt: u64) -> Self {
        let own = ServerId::of_machine(cluster, node);
        Self::derive(cluster, own.0.wrapping_add(attempt << 54))
    }

    /// The id of the `sequence`-th intent of a cluster: always the same, so that a plan can name a server before it
    /// exists. A hash spreads the ids; it hides nothing.
    #[allow(clippy::cast_possible_truncation, reason = "five bits fit any usize")]
    pub fn derive(cluster: &ClusterId, sequence: u64) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
        let state = spread(cluster.as_str().bytes().chain(sequence.to_le_bytes()));
        let digit = |i: u32| {
            ALPHABET
                .get((state >> (5 * i) & 31) as usize)
                .map_or('0', |d| char::from(*d))
        };
        Self((0..6).map(digit).collect())
    }
}

/// A server's id at Hetzner (up to 2^53-1); beyond that, what stands for a machine of the user's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerId(pub u64);

impl ServerId {
    /// What stands for a machine of the user's own, in this cluster alone.
    pub fn of_machine(cluster: &ClusterId, node: &NodeName) -> Self {
        let hash = spread(
            [cluster.as_str(), "/", node.as_str()]
                .map(str::bytes)
                .into_iter()
                .flatten(),
        );
        Self(FIRST_OWN + (hash & (FIRST_OWN - 1)))
    }

    /// Whether it is a machine of the user's own: Hetzner knows nothing of it.
    pub fn is_own(self) -> bool {
        self.0 >= FIRST_OWN
    }

    /// The provider id of this server's Node, as Hetzner's cloud controller writes it. That one passes over a Node that has
    /// another prefix (hcloud-cloud-controller-manager, `internal/providerid`: an error; Kubernetes' `cloud-provider`, node
    /// lifecycle: what can't be looked up is not deleted).
    pub fn provider_id(self) -> String {
        let prefix = if self.is_own() {
            OWN_PREFIX
        } else {
            PROVIDER_PREFIX
        };
        format!("{prefix}{}", self.0)
    }

    /// The server that a Node's provider id names; `None` for another provider's, and for one that is written otherwise than
    /// `provider_id` does (`hcloud://0900`): they are compared as they are.
    pub fn from_provider_id(provider_id: &str) -> Option<Self> {
        let number = [PROVIDER_PREFIX, OWN_PREFIX]
            .into_iter()
            .find_map(|prefix| provider_id.strip_prefix(prefix))?;
        let named = Self(number.parse().ok()?);
        (named.provider_id() == provider_id).then_some(named)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const PROVIDER_PREFIX: &str = "hcloud://";
const OWN_PREFIX: &str = "fabrik://";
/// Hetzner's ids end before it (docs.hetzner.cloud, "Schemas": ids are integers of 52 bits).
const FIRST_OWN: u64 = 1 << 53;

/// A hash (FNV-1a with a finisher) that is the same in each build. It hides nothing.
fn spread(bytes: impl Iterator<Item = u8>) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    state ^= state >> 33;
    state = state.wrapping_mul(0xff51_afd7_ed55_8ccd);
    state ^ (state >> 33)
}

fn dns_label(value: &str, max_chars: usize) -> Result<(), &'static str> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if value.is_empty() {
        Err("is empty")
    } else if value.len() > max_chars {
        Err("is too long")
    } else if !value.chars().all(inner) {
        Err("holds characters other than a-z, 0-9 and -")
    } else if !value.starts_with(|c: char| c.is_ascii_lowercase()) || value.ends_with('-') {
        Err("must begin with a letter and end with a letter or a digit")
    } else {
        Ok(())
    }
}

fn dns_subdomain(value: &str) -> Result<(), &'static str> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inner = |c: char| edge(c) || c == '-' || c == '.';
    if value.is_empty() || value.len() > 253 {
        Err("must have 1 to 253 characters")
    } else if !value.chars().all(inner) || !value.starts_with(edge) || !value.ends_with(edge) {
        Err("is no RFC 1123 subdomain (a-z, 0-9, - and ., with a letter or a digit at both ends)")
    } else {
        Ok(())
    }
}

fn lower_alphanumeric(value: &str, chars: usize) -> Result<(), &'static str> {
    if value.len() == chars
        && value
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    {
        Ok(())
    } else {
        Err("has the wrong length, or characters other than a-z and 0-9")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_only_what_kubernetes_and_hetzner_take() {
        for good in ["a", "web-1", "a1"] {
            assert_eq!(
                good.parse::<PoolName>().map(String::from),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "",
            "-a",
            "a-",
            "1a",
            "A",
            "a_b",
            "a.b",
            "x".repeat(31).as_str(),
        ] {
            assert!(bad.parse::<PoolName>().is_err(), "{bad} was let in");
        }
        assert!("2f3a".repeat(10).parse::<CommitId>().is_ok());
        assert!("2F3A".repeat(10).parse::<CommitId>().is_err());
    }

    #[test]
    fn an_intent_has_the_same_id_every_time_and_another_one_the_next() {
        let cluster: ClusterId = "abcdefgh01234567".parse().unwrap();
        let ids: std::collections::BTreeSet<_> =
            (0..2000).map(|n| IntentId::derive(&cluster, n)).collect();
        assert_eq!(ids.len(), 2000);
        assert_eq!(IntentId::derive(&cluster, 7), IntentId::derive(&cluster, 7));
        assert!(ids.iter().all(|id| id.as_str().parse::<IntentId>().is_ok()));
    }

    #[test]
    fn a_provider_id_names_its_server_and_no_other_provider_s() {
        assert_eq!(
            ServerId::from_provider_id(&ServerId(42).provider_id()),
            Some(ServerId(42))
        );
        for foreign in ["k3s://a", "hcloud://", "hcloud://x", "42", "fabrik://42"] {
            assert_eq!(ServerId::from_provider_id(foreign), None);
        }
    }

    /// A Node that says it otherwise would be compared with what its server is called, and never be that server's.
    #[test]
    fn a_provider_id_is_read_in_the_one_form_that_it_is_written_in() {
        let own = ServerId(FIRST_OWN + 42);
        for number in ["0900", "+900", " 900", "9007199254740992"] {
            let said = format!("hcloud://{number}");
            assert_eq!(ServerId::from_provider_id(&said), None, "{said}");
        }
        let padded = format!("fabrik://0{own}");
        assert_eq!(ServerId::from_provider_id(&padded), None);
    }

    #[test]
    fn a_machine_of_one_s_own_is_no_server_of_hetzner_s_and_another_one_in_each_cluster() {
        let node: NodeName = "demo-home-desktop".parse().unwrap();
        let of = |cluster: &str| ServerId::of_machine(&cluster.parse().unwrap(), &node);
        let own = of("abcdefgh01234567");
        assert!(own.is_own() && !ServerId((1 << 53) - 1).is_own());
        assert_ne!(own, of("abcdefgh01234568"));
        assert_eq!(ServerId::from_provider_id(&own.provider_id()), Some(own));
        assert!(own.provider_id().starts_with("fabrik://"));
        let forged = format!("hcloud://{own}");
        assert_eq!(ServerId::from_provider_id(&forged), None);
    }
}
