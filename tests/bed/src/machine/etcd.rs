//! What the etcd of one server says itself, whatever the others say: by its JSON gateway, which listens on the machine's own
//! loopback alone (`--listen-client-http-urls`).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Machine, lock};
use crate::inside::Inside;

const SERVER: &str = "var/lib/rancher/k3s/server";
const GATEWAY: &str = "https://127.0.0.1:2382";
/// A member that takes longer to say how it does is not well.
const ANSWER: Duration = Duration::from_secs(3);

/// The way to it, for one boot of its machine.
pub struct OwnEtcd {
    inside: Inside,
    client: reqwest::Client,
}

impl Machine {
    /// `None` where the machine has no power, or k3s never ran on it.
    pub fn own_etcd(&self) -> Result<Option<OwnEtcd>> {
        let (Some(entrance), Some(root)) = (*lock(&self.inner.entrance), self.root()) else {
            return Ok(None);
        };
        let dir = root.path(SERVER);
        if !dir.join("etcd.key").exists() {
            return Ok(None);
        }
        let mut identity = fs::read(dir.join("etcd.key"))?;
        identity.extend(fs::read(dir.join("etcd.crt"))?);
        let authority = reqwest::Certificate::from_pem(&fs::read(dir.join("etcd-ca.crt"))?)?;
        let client = reqwest::Client::builder()
            .tls_certs_only([authority])
            .identity(reqwest::Identity::from_pem(&identity)?)
            .timeout(ANSWER)
            .no_proxy();
        Ok(Some(OwnEtcd {
            inside: Inside::start(entrance)?,
            client: client.build()?,
        }))
    }
}

impl OwnEtcd {
    /// A request of etcd's gateway, `maintenance/status` for one.
    pub async fn ask(&self, what: &str, body: &Value) -> Result<Value> {
        let url = format!("{GATEWAY}/v3/{what}");
        let request = self.client.post(url).json(body).send();
        let asked = self.inside.handle().spawn(async move {
            let answer = request.await?;
            anyhow::Ok(answer.error_for_status()?.json().await?)
        });
        asked.await?.with_context(|| format!("etcd: {what}"))
    }
}
