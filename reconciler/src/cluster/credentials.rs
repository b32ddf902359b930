//! The tokens of the two service accounts: made for an hour, renewed after two thirds of it, kept in files that only
//! root reads. The admin's kubeconfig is used only when there is no token that still serves.

use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fabrik_core::names::NAMESPACE;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use serde::Deserialize;

use super::connect::from_kubeconfig;
use super::error::{ClusterError, while_doing};
use crate::config::Config;
use crate::secrets::Secret;

pub const LEADER_ACCOUNT: &str = "fabrik-leader";
pub const APPLIER_ACCOUNT: &str = "fabrik-applier";

const TOKEN_LIFE_SECS: i64 = 3600;
const RETRY: Duration = Duration::from_secs(30);
/// How often the tokens are looked at: the wall clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);
/// A token is renewed after this, whatever the wall clock says: two thirds of its life.
const TOKEN_AGE: Duration = Duration::from_secs(TOKEN_LIFE_SECS.unsigned_abs() / 3 * 2);

/// Makes a token of `account` for an hour.
pub async fn request_token(client: &Client, account: &str) -> Result<Secret, ClusterError> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: Some(TOKEN_LIFE_SECS),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer: TokenRequest = accounts
        .create_subresource("token", account, &PostParams::default(), &request)
        .await
        .map_err(while_doing(format!(
            "requesting a token of service account {account}"
        )))?;
    match answer.status.and_then(|status| status.token) {
        Some(token) => Ok(Secret::new(token.into_bytes())),
        None => Err(ClusterError::Malformed {
            object: format!("the answer to a token request of {account}"),
            problem: "it holds no token".to_owned(),
        }),
    }
}

/// Replaces the file as a whole; only its owner may read it.
fn write_token(path: &Path, token: &Secret) -> Result<(), ClusterError> {
    super::founding::replace_file(path, token.expose()).map_err(|source| ClusterError::File {
        path: path.to_owned(),
        source,
    })
}

/// Makes the tokens that are missing or have ended, by the admin's kubeconfig. Before the first connection.
pub async fn ensure_tokens(config: &Config) -> Result<(), ClusterError> {
    let mut admin = None;
    for (account, path) in accounts(config) {
        if life(path, Timestamp::now()) != Life::Ended {
            continue;
        }
        let client = match &admin {
            Some(client) => client,
            None => admin.insert(admin_client(config).await?),
        };
        write_token(path, &request_token(client, account).await?)?;
        tracing::info!(account, "made a token by the admin's kubeconfig");
    }
    Ok(())
}

/// Renews the tokens in time. Runs until dropped.
pub async fn keep_renewed(config: &Config, leader: &Client, applier: &Client) {
    let mut renewed = [None; 2];
    loop {
        let wait = match renew(config, [leader, applier], &mut renewed).await {
            Ok(()) => LOOK,
            Err(error) => {
                tracing::warn!(%error, "can't renew a token");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Renews what is due. Each account renews its own token: the leader, which may do little, can't make itself one of the applier. `renewed` is
/// when each was, by our own monotonic clock: the wall clock may be wrong.
async fn renew(
    config: &Config,
    clients: [&Client; 2],
    renewed: &mut [Option<Instant>; 2],
) -> Result<(), ClusterError> {
    // What has ended can't renew itself.
    ensure_tokens(config).await?;
    for (((account, path), client), renewed) in
        accounts(config).into_iter().zip(clients).zip(renewed)
    {
        let old = renewed.is_none_or(|at| at.elapsed() >= TOKEN_AGE);
        if !old && life(path, Timestamp::now()) != Life::Due {
            continue;
        }
        let token = match request_token(client, account).await {
            // By the API server's clock it has ended.
            Err(error) if error.is_unauthorized() => {
                request_token(&admin_client(config).await?, account).await?
            }
            token => token?,
        };
        write_token(path, &token)?;
        *renewed = Some(Instant::now());
        tracing::debug!(account, "renewed a token");
    }
    Ok(())
}

fn accounts(config: &Config) -> [(&'static str, &Path); 2] {
    [
        (LEADER_ACCOUNT, &config.kubernetes.leader_token_file),
        (APPLIER_ACCOUNT, &config.kubernetes.applier_token_file),
    ]
}

pub(super) async fn admin_client(config: &Config) -> Result<Client, ClusterError> {
    let path = config.kubernetes.admin_kubeconfig.as_deref();
    let path = path.ok_or_else(|| ClusterError::Credentials {
        problem: "a token is missing or has ended, and no admin-kubeconfig is configured"
            .to_owned(),
    })?;
    Ok(from_kubeconfig(path).await?.0)
}

#[derive(Debug, PartialEq)]
enum Life {
    Serves {
        due_in: Duration,
    },
    /// Two thirds are over.
    Due,
    /// Missing, unreadable, or over.
    Ended,
}

fn life(path: &Path, now: Timestamp) -> Life {
    std::fs::read_to_string(path).map_or(Life::Ended, |token| life_of(&token, now))
}

#[derive(Deserialize)]
struct Claims {
    iat: i64,
    exp: i64,
}

/// From the token's own claims (RFC 7519 §4.1). The signature is the API server's to check.
fn life_of(token: &str, now: Timestamp) -> Life {
    let claims: Option<Claims> = token
        .trim()
        .split('.')
        .nth(1)
        .and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok())
        .and_then(|json| serde_json::from_slice(&json).ok());
    let Some(claims) = claims else {
        return Life::Ended;
    };
    let now = now.as_second();
    let due = claims
        .iat
        .saturating_add(claims.exp.saturating_sub(claims.iat) / 3 * 2);
    if now >= claims.exp {
        Life::Ended
    } else if now >= due {
        Life::Due
    } else {
        Life::Serves {
            due_in: SignedDuration::from_secs(due - now).unsigned_abs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_due_after_two_thirds_of_its_life() {
        let payload = URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":4600}"#);
        let token = format!("h.{payload}.s\n");
        let at = |second| life_of(&token, Timestamp::from_second(second).unwrap());
        assert_eq!(
            at(1000),
            Life::Serves {
                due_in: Duration::from_secs(2400)
            }
        );
        assert_eq!(
            at(3399),
            Life::Serves {
                due_in: Duration::from_secs(1)
            }
        );
        assert_eq!(at(3400), Life::Due);
        assert_eq!(at(4600), Life::Ended);
    }

    #[test]
    fn what_is_no_token_has_ended() {
        for text in ["", "a.b", "a.!!.c", "a.e30.c"] {
            assert_eq!(life_of(text, Timestamp::UNIX_EPOCH), Life::Ended, "{text}");
        }
    }
}
