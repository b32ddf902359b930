//! Join tokens, of workers: one bootstrap token per creation intent, minutes to live, revoked when its Node has joined.
//!
//! They are kubeadm-style Secrets that k3s accepts from agents (docs.k3s.io, "k3s token"); a server can't join with one.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use fabrik_core::hex;
use fabrik_core::id::{ClusterId, IntentId};
use fabrik_core::names::INTENT_LABEL;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};

use crate::secrets::Secret;

/// How long a machine has to boot and join.
const LIFETIME: Duration = Duration::from_secs(20 * 60);
/// A token with less than this left is replaced rather than handed out.
const MIN_LEFT: SignedDuration = SignedDuration::from_mins(10);
/// k3s' group of agents that join by a bootstrap token.
const GROUP: &str = "system:bootstrappers:k3s:default-node-token";
/// Characters of a token's secret, by the rule of bootstrap tokens.
const SECRET_CHARS: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("can't {verb} the join token of intent {intent}: {source}")]
    Refused {
        verb: &'static str,
        intent: String,
        source: Box<kube::Error>,
    },
    #[error("can't list join tokens: {0}")]
    List(#[source] Box<kube::Error>),
    #[error("can't read the cluster's CA {file}, which join tokens pin: {source}")]
    Ca {
        file: String,
        source: std::io::Error,
    },
    #[error("the system gives no random numbers")]
    NoRandomness,
}

/// Makes, finds and revokes join tokens.
pub struct Tokens {
    api: Api<KubeSecret>,
    /// SHA-256 of the CA that a joining machine checks, in hex.
    ca_hash: String,
}

impl Tokens {
    /// `ca_file` is what k3s serves as `/cacerts`: a token names the SHA-256 of its bytes.
    pub fn new(client: Client, ca_file: &Path) -> Result<Self, TokenError> {
        Ok(Self::of_authority(client, ca_hash(ca_file)?))
    }

    /// The same, where the hash of the CA is known.
    pub fn of_authority(client: Client, ca_hash: String) -> Self {
        Self {
            api: Api::namespaced(client, "kube-system"),
            ca_hash,
        }
    }

    /// Intents that have a token.
    pub async fn observe(&self) -> Result<BTreeSet<IntentId>, TokenError> {
        let params = ListParams::default().labels(INTENT_LABEL);
        let secrets = self
            .api
            .list_metadata(&params)
            .await
            .map_err(|e| TokenError::List(Box::new(e)))?;
        let intent = |m: &ObjectMeta| m.labels.as_ref()?.get(INTENT_LABEL)?.parse().ok();
        Ok(secrets
            .items
            .iter()
            .filter_map(|s| intent(&s.metadata))
            .collect())
    }

    /// The token of an intent, in k3s' secure format; made where there is none with enough time left.
    pub async fn ensure(&self, intent: &IntentId, now: Timestamp) -> Result<Secret, TokenError> {
        let refused = |verb, source| refused(verb, intent, source);
        let name = name(intent);
        if let Some(secret) = self
            .api
            .get_opt(&name)
            .await
            .map_err(|e| refused("read", e))?
        {
            if let Some(token) = usable(&secret, now) {
                return Ok(self.secure_format(intent, &token));
            }
            self.revoke(intent).await?;
        }
        let token = random_characters()?;
        let created = self
            .api
            .create(
                &PostParams::default(),
                &bootstrap_token(intent, &token, now),
            )
            .await;
        created.map_err(|e| refused("create", e))?;
        Ok(self.secure_format(intent, &token))
    }

    /// Deletes the token of an intent. One that is gone already is no error.
    pub async fn revoke(&self, intent: &IntentId) -> Result<(), TokenError> {
        match self
            .api
            .delete(&name(intent), &DeleteParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(refused("revoke", intent, error)),
        }
    }

    /// `K10<CA hash>::<id>.<secret>`.
    fn secure_format(&self, intent: &IntentId, token: &Secret) -> Secret {
        let prefix = format!("K10{}::{intent}.", self.ca_hash);
        Secret::new([prefix.as_bytes(), token.expose()].concat())
    }
}

/// SHA-256 of the CA's file, in hex: by it a machine knows the authority before it believes a connection.
pub fn ca_hash(ca_file: &Path) -> Result<String, TokenError> {
    let explain = |source| TokenError::Ca {
        file: ca_file.display().to_string(),
        source,
    };
    Ok(ca_hash_of(&std::fs::read(ca_file).map_err(explain)?))
}

/// The same of a file's content.
pub fn ca_hash_of(ca: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, ca).as_ref())
}

/// The word that lets the server of an intent in, once. It follows from the cluster's age key, which all servers have: one
/// that was asked for twice, as the first answer was lost or came to a leader of before, is let in whichever request made it.
/// Of several keys the first one counts: a new one is put after it, on one server before the other.
pub fn nonce(age_key: &Secret, cluster: &ClusterId, intent: &IntentId) -> Secret {
    let mut lines = age_key.expose().split(|byte| *byte == b'\n');
    let first = lines.find(|line| line.starts_with(b"AGE-SECRET-KEY-"));
    let key = first.map_or(age_key.expose(), <[u8]>::trim_ascii);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let about = format!("fabrik join nonce {cluster} {intent}");
    let tag = hmac::sign(&key, about.as_bytes());
    Secret::new(hex(tag.as_ref()).into_bytes())
}

fn name(intent: &IntentId) -> String {
    format!("bootstrap-token-{intent}")
}

fn bootstrap_token(intent: &IntentId, token: &Secret, now: Timestamp) -> KubeSecret {
    let text = |value: &str| value.to_owned();
    let expiration = now + LIFETIME;
    let data = [
        ("token-id", text(intent.as_str())),
        ("token-secret", text(token.expose_str().unwrap_or_default())),
        (
            "expiration",
            expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        ),
        ("usage-bootstrap-authentication", text("true")),
        ("auth-extra-groups", text(GROUP)),
        (
            "description",
            text("joins one machine to the cluster, for fabrik"),
        ),
    ];
    KubeSecret {
        metadata: ObjectMeta {
            name: Some(name(intent)),
            namespace: Some(text("kube-system")),
            labels: Some([(text(INTENT_LABEL), intent.to_string())].into()),
            ..ObjectMeta::default()
        },
        type_: Some(text("bootstrap.kubernetes.io/token")),
        string_data: Some(
            data.into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        ),
        ..KubeSecret::default()
    }
}

/// The secret part of a token that lives long enough still.
fn usable(secret: &KubeSecret, now: Timestamp) -> Option<Secret> {
    let data = secret.data.as_ref()?;
    let expiration: Timestamp = std::str::from_utf8(&data.get("expiration")?.0)
        .ok()?
        .parse()
        .ok()?;
    let token = data.get("token-secret")?.0.clone();
    (expiration.duration_since(now) > MIN_LEFT).then(|| Secret::new(token))
}

fn random_characters() -> Result<Secret, TokenError> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; SECRET_CHARS];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| TokenError::NoRandomness)?;
    // 32 divides 256: each character is as likely as the other.
    let characters = bytes
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(byte % 32)).copied());
    Ok(Secret::new(characters.collect()))
}

fn refused(verb: &'static str, intent: &IntentId, source: kube::Error) -> TokenError {
    TokenError::Refused {
        verb,
        intent: intent.to_string(),
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_token_is_handed_out_only_while_it_has_time_enough() {
        let intent: IntentId = "abc234".parse().unwrap();
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let mut secret = bootstrap_token(&intent, &Secret::new(b"0123456789abcdef".to_vec()), now);
        let stored = secret.string_data.take().unwrap().into_iter();
        secret.data = Some(
            stored
                .map(|(key, value)| (key, ByteString(value.into_bytes())))
                .collect(),
        );
        assert!(usable(&secret, now + SignedDuration::from_mins(9)).is_some());
        assert!(usable(&secret, now + SignedDuration::from_mins(11)).is_none());
    }

    #[test]
    fn a_nonce_is_the_same_for_one_server_whoever_asks_for_it_and_another_for_each_other() {
        let of = |key: &str, cluster: &str, intent: &str| {
            let key = Secret::new(key.as_bytes().to_vec());
            let nonce = nonce(&key, &cluster.parse().unwrap(), &intent.parse().unwrap());
            nonce.expose_str().unwrap().to_owned()
        };
        let key = "AGE-SECRET-KEY-1OLD";
        let one = of(key, "abcdefgh01234567", "abc234");
        assert_eq!(one.len(), 64);
        // Also while the key is replaced.
        for same in [
            "AGE-SECRET-KEY-1OLD\r\n",
            "# of age-keygen\nAGE-SECRET-KEY-1OLD\n\n",
            "AGE-SECRET-KEY-1OLD\nAGE-SECRET-KEY-1NEW\n",
        ] {
            assert_eq!(one, of(same, "abcdefgh01234567", "abc234"), "{same}");
        }
        for other in [
            of("AGE-SECRET-KEY-1NEW", "abcdefgh01234567", "abc234"),
            of(key, "0000000000000000", "abc234"),
            of(key, "abcdefgh01234567", "abc235"),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_secret_is_sixteen_characters_and_another_one_each_time() {
        let (one, two) = (random_characters().unwrap(), random_characters().unwrap());
        assert_eq!(one.expose().len(), SECRET_CHARS);
        assert_ne!(one.expose(), two.expose());
    }
}
