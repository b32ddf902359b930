//! The temporary SSH key of a seed, which rescue systems let in.

use fabrik_core::effect::Effect;
use fabrik_core::id::ClusterId;

use super::super::client::{Client, Purpose};
use super::super::convert::is_ours;
use super::super::error::HetznerError;
use super::super::execute::{Context, Outcome, delete, execute};
use super::super::wire;

/// This cluster's key of that name.
pub async fn find_key(
    client: &Client,
    cluster: &ClusterId,
    name: &str,
) -> Result<Option<u64>, HetznerError> {
    let filter = ("name", name.to_owned());
    let found = client
        .list::<wire::SshKey>(Some(filter), Purpose::Act)
        .await?;
    let ours = found
        .iter()
        .find(|k| k.name == name && is_ours(*k, cluster));
    Ok(ours.map(|key| key.id))
}

/// Makes it, or finds it: the id, and whether it was made now.
pub async fn register_key(
    client: &Client,
    cluster: &ClusterId,
    name: &str,
    public_key: &str,
) -> Result<(u64, bool), HetznerError> {
    let effect = Effect::CreateSshKey {
        name: name.to_owned(),
        public_key: public_key.to_owned(),
    };
    let context = Context {
        cluster,
        user_data: "",
    };
    match execute(client, &effect, context).await {
        Some(Ok(Outcome::Created(id))) => Ok((id, true)),
        Some(Ok(Outcome::Found(id))) => Ok((id, false)),
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Err(HetznerError::Setup {
            problem: "an SSH key was to be made and was not".to_owned(),
        }),
    }
}

/// Deletes it, if it is this cluster's.
pub async fn delete_key(client: &Client, cluster: &ClusterId, id: u64) -> Result<(), HetznerError> {
    let what = format!("delete SSH key {id}");
    let deleted = delete::<wire::SshKey>(client, cluster, id, what, |_| true);
    deleted.await.map(drop)
}
