//! A machine that is a worker: it reads its user data at boot and joins, as k3s' agents do.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Inner, Root, UserData, lock};
use crate::agent;
use crate::control_plane::API_PORT;
use crate::join::{self, JoinError};
use crate::supervisor;

/// How often an agent asks which API servers there are.
const FOLLOW: Duration = Duration::from_secs(2);

impl Inner {
    pub(super) async fn live_as_agent(&self, boot_id: String, root: Option<&Root>) -> Result<()> {
        let hetzner = self.hetzner()?;
        let user_data = self.user_data().await?;
        let instance = hetzner.metadata(self.id, "metadata/instance-id").await?;
        let instance = instance.context("no instance id in the metadata")?;
        let provider_id = format!("hcloud://{}", instance.trim());
        self.be_agent(boot_id, root, user_data, provider_id).await
    }

    /// Joins as it is told to, and is that node.
    pub(super) async fn be_agent(
        &self,
        boot_id: String,
        root: Option<&Root>,
        user_data: UserData,
        provider_id: String,
    ) -> Result<()> {
        let request = join::Request {
            servers: supervisors(&user_data.servers),
            token: user_data.token.clone(),
            node_name: user_data.node_name.clone(),
        };
        let joined = self.join(&request).await?;
        let api_servers = watch::Sender::new(joined.api_servers.clone());
        let (_balancer, endpoint) = self.balance(api_servers.subscribe()).await?;
        let mut settings =
            self.kubelet_settings(boot_id, &endpoint, &joined.ca_pem, &joined.kubelet)?;
        settings.address = self.node_address().await?;
        settings.node_name = user_data.node_name;
        settings.provider_id = provider_id;
        settings.labels = user_data.labels;
        settings.taints = user_data.taints;
        if let (Some(id), Some(public_key)) = (user_data.cluster_id, user_data.public_key) {
            self.cluster.send_replace(Some(agent::Cluster {
                name: self.surroundings.cluster.clone(),
                id,
                public_key,
                cache_urls: user_data.cache_urls,
            }));
        }
        tokio::select! {
            ended = self.run_node(settings, root) => ended,
            never = self.follow_api_servers(&joined, &api_servers) => match never {},
        }
    }

    /// Servers come and go in a bed that began empty, and an agent of k3s knows of it.
    async fn follow_api_servers(
        &self,
        joined: &join::Joined,
        known: &watch::Sender<Vec<SocketAddr>>,
    ) -> Infallible {
        if self.surroundings.switch.is_none() {
            return std::future::pending().await;
        }
        loop {
            sleep(FOLLOW).await;
            let asked = known.borrow().clone();
            match join::api_servers(&asked, joined).await {
                Ok(told) => {
                    known.send_if_modified(|known| std::mem::replace(known, told.clone()) != told);
                }
                Err(error) => {
                    tracing::debug!(machine = self.name, %error, "API servers are not known");
                }
            }
        }
    }

    pub(super) async fn user_data(&self) -> Result<UserData> {
        let user_data = self.hetzner()?.metadata(self.id, "userdata").await?;
        let user_data = user_data.context("no user data")?;
        serde_json::from_str(&user_data).context("reading user data")
    }

    /// Tries until a supervisor answers; a few times when it says no.
    async fn join(&self, request: &join::Request) -> Result<join::Joined> {
        const REFUSALS: u32 = 3;
        const PAUSE: Duration = Duration::from_secs(1);
        let mut refusals = 0;
        loop {
            let disk = lock(&self.disk).clone();
            match join::join(request, &disk).await {
                Ok(joined) => {
                    lock(&self.disk).kubelet = Some(joined.kubelet.clone());
                    return Ok(joined);
                }
                Err(JoinError::Refused(reason)) => {
                    refusals += 1;
                    if refusals == REFUSALS {
                        bail!("a supervisor refuses node {}: {reason}", request.node_name);
                    }
                }
                Err(JoinError::Unavailable(error)) => {
                    tracing::debug!(machine = self.name, %error, "not joined yet");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// k3s' servers have one port for the API and the supervisor; here they have two.
fn supervisors(servers: &[String]) -> Vec<String> {
    let api = format!(":{API_PORT}");
    let supervisor = |url: &String| match url.strip_suffix(&api) {
        Some(host) => format!("{host}:{}", supervisor::PORT),
        None => url.clone(),
    };
    servers.iter().map(supervisor).collect()
}
