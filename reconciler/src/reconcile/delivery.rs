//! Hands a node its secrets: those of the commit in force, encrypted to the key that was recorded for it.

use std::time::Duration;

use fabrik_core::effect::Effect;
use fabrik_core::id::{SecretName, SecretsDigest};

use tokio::time::timeout;

use super::leader::{InForce, Leader};
use crate::cluster::nodes;
use crate::delivery::{Addressee, Delivery, SecretFile, seal};
use crate::signing::SigningKey;

/// The pass waits for it. What is left off half-way is begun again.
const LIMIT: Duration = Duration::from_secs(5);
const NO_KEY: &str = "the configuration has no [nix] with the key that nodes believe: run `fabrik found` on this server again";

/// Lays ready what a node is to have.
pub async fn deliver(leader: &Leader, in_force: &InForce, effect: &Effect) -> Result<(), String> {
    let Effect::DeliverSecrets {
        node,
        recipient,
        digest,
        sequence,
        secrets,
    } = effect
    else {
        return Err("is no delivery".to_owned());
    };
    let delivery = pack(in_force, digest, *sequence, secrets)?;
    let config = &leader.replica.config;
    let nix = config.nix.as_ref().ok_or(NO_KEY)?;
    let key = SigningKey::read(&nix.signing_key_file).map_err(|e| e.to_string())?;
    let to = Addressee {
        cluster: &config.cluster.id,
        node: &node.name,
    };
    let sealed = seal(&key, recipient, to, &delivery).map_err(|e| e.to_string())?;
    let clients = &leader.replica.clients;
    let (client, applier) = (&clients.leader_once, &clients.applier_once);
    let delivered = nodes::deliver(client, applier, node, digest, &sealed);
    match timeout(LIMIT, delivered).await {
        Ok(delivered) => delivered.map_err(|e| e.to_string()),
        Err(_) => Err(format!(
            "the API server has not taken them within {} s",
            LIMIT.as_secs()
        )),
    }
}

/// With the values as they were opened.
fn pack(
    in_force: &InForce,
    digest: &SecretsDigest,
    sequence: u64,
    secrets: &[SecretName],
) -> Result<Delivery, String> {
    let spec = &in_force.desired.spec;
    let file = |name: &SecretName| {
        let value = in_force.node_secrets.get(name);
        let (Some(secret), Some(value)) = (spec.secrets.get(name), value) else {
            return Err(format!(
                "secret {name} of the commit in force was not opened"
            ));
        };
        let file = SecretFile {
            value: value.clone(),
            mode: secret.mode,
            owner: secret.owner.clone(),
            group: secret.group.clone(),
        };
        Ok((name.clone(), file))
    };
    Ok(Delivery {
        digest: digest.clone(),
        sequence,
        files: secrets.iter().map(file).collect::<Result<_, _>>()?,
    })
}
