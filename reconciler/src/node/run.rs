//! `fabrik agent` as a whole: its parts, and the channels between them.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::agent::Channels;
use super::secrets::{Holdings, Keeper};
use super::stage::{Progress, Wanted};
use super::{Agent, AgentConfig, NodeError, api, front, stage};
use crate::cluster::resources::FabrikNode;

/// How long until the front is tried again, where another program has its address.
const PAUSE: Duration = Duration::from_secs(10);

/// Runs until the process ends. That may happen at any moment: nothing has to be handed over.
pub async fn run(config_file: &Path) -> Result<(), NodeError> {
    let config = AgentConfig::load(config_file)?;
    let fabrik = std::env::current_exe().map_err(NodeError::io("/proc/self/exe"))?;
    let (seen_sender, seen) = watch::channel(None);
    let heard = seen.clone();
    let (status, status_receiver) = watch::channel(None);
    let (wanted, wanted_receiver) = watch::channel(Wanted::default());
    let (progress_sender, progress) = watch::channel(Progress::default());
    let (holdings, secrets) = watch::channel(Holdings::default());
    let channels = Channels {
        seen,
        status,
        wanted,
        progress,
        secrets,
    };
    // Before anything is heard or done.
    let keeper = Keeper::start(&config, holdings);
    let agent = Agent::new(config.clone(), config_file, &fabrik, channels);
    tracing::info!(node = %config.node, "the agent begins");
    tokio::join!(
        Box::pin(agent.run()),
        api::run(config.clone(), seen_sender, status_receiver, keeper),
        stage::run(config.clone(), wanted_receiver, progress_sender),
        serve_front(&config, &heard),
    );
    Ok(())
}

async fn serve_front(config: &AgentConfig, heard: &watch::Receiver<Option<FabrikNode>>) {
    loop {
        if let Err(error) = front::serve(config, heard.clone()).await {
            tracing::error!(%error, "systems come from other caches only");
        }
        sleep(PAUSE).await;
    }
}
