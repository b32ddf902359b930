//! Waiting for what Hetzner does after it has answered: its actions (docs.hetzner.cloud, "Actions").

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::super::client::{Answer, Call, Client, Purpose};
use super::super::error::{HetznerError, RequestId};
use super::super::wire::or_default;

/// As hcloud-go asks, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Of all but a snapshot.
pub const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// A big one was seen to take an hour (hetznercloud/terraform-provider-hcloud, issue 312).
pub const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(2 * 3600);

#[derive(Debug, Deserialize)]
struct Action {
    id: u64,
    #[serde(default, deserialize_with = "or_default")]
    status: String,
    #[serde(default, deserialize_with = "or_default")]
    error: ActionError,
}

#[derive(Debug, Default, Deserialize)]
struct ActionError {
    #[serde(default, deserialize_with = "or_default")]
    code: String,
    #[serde(default, deserialize_with = "or_default")]
    message: String,
}

/// Returns when the action of an answer has ended well.
///
/// # Errors
/// It failed, or has not ended in time.
pub async fn ended(
    client: &Client,
    answer: &Answer,
    what: &str,
    limit: Duration,
) -> Result<(), HetznerError> {
    let mut action: Action = answer.field("action")?;
    let deadline = Instant::now() + limit;
    let mut pause = FIRST_PAUSE;
    loop {
        match action.status.as_str() {
            "success" => return Ok(()),
            "error" => {
                return Err(HetznerError::Refused {
                    what: what.to_owned(),
                    code: action.error.code,
                    message: action.error.message,
                    fields: Vec::new(),
                    id: RequestId::default(),
                });
            }
            _ if Instant::now() >= deadline => {
                // No transient one: whoever repeats it by itself would wait as long again.
                return Err(HetznerError::Refused {
                    what: what.to_owned(),
                    code: "no_end".to_owned(),
                    message: format!(
                        "its action {} has not ended within {} minutes. Look at it in Hetzner's console; the same command waits on",
                        action.id,
                        limit.as_secs() / 60
                    ),
                    fields: Vec::new(),
                    id: RequestId::default(),
                });
            }
            _ => {}
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let call = Call {
            method: Method::GET,
            path: format!("actions/{}", action.id),
            query: Vec::new(),
            body: None,
            purpose: Purpose::Act,
            what: format!("see whether it could {what}"),
        };
        action = client.send(&call).await?.field("action")?;
    }
}
