//! What an agent hears of a real API server, and says to it, as its node's kubelet.

use std::time::Duration;

use fabrik::cluster::resources::{FabrikNode, FabrikNodeStatus};
use fabrik::node::api;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;

use super::world::World;

const PATIENCE: Duration = Duration::from_secs(60);

const NODE: &str = "agent-1";

pub async fn speak_for_their_own_node(world: &World) {
    let all: Api<FabrikNode> = Api::all(world.bed.kube().await.unwrap());
    let spec = serde_json::from_value(json!({
        "pool": "workers", "serverId": 1, "uid": "", "intent": "",
    }));
    let node = FabrikNode::new(NODE, spec.unwrap());
    all.create(&PostParams::default(), &node).await.unwrap();
    let kubelet = world.node(NODE).await;
    let (seen_sender, mut seen) = watch::channel(None);
    let status = watch::Sender::new(None);
    let said = status.subscribe();
    let agent = tokio::spawn(async move {
        api::talk(kubelet, &NODE.parse().unwrap(), &seen_sender, said).await;
    });
    until(&mut seen, Option::is_some).await;

    let say = |state: &str, message: Option<&str>| FabrikNodeStatus {
        state: Some(state.to_owned()),
        message: message.map(str::to_owned),
        ..FabrikNodeStatus::default()
    };
    for now in [say("Trying", Some("waits")), say("Kept", None)] {
        status.send_replace(Some(now.clone()));
        // What is no longer said is gone.
        let is = |node: &Option<FabrikNode>| of(node.as_ref()) == Some(&now);
        until(&mut seen, is).await;
    }

    let aim = json!({"spec": {"aim": "/nix/store/x"}});
    let params = PatchParams::default();
    all.patch(NODE, &params, &Patch::Merge(&aim)).await.unwrap();
    let aims = |node: &Option<FabrikNode>| node.as_ref().is_some_and(|n| n.spec.aim.is_some());
    until(&mut seen, aims).await;

    all.delete(NODE, &DeleteParams::default()).await.unwrap();
    until(&mut seen, Option::is_none).await;
    let again = FabrikNode::new(NODE, node.spec);
    all.create(&PostParams::default(), &again).await.unwrap();
    let told = |node: &Option<FabrikNode>| of(node.as_ref()) == Some(&say("Kept", None));
    until(&mut seen, told).await;
    agent.abort();
}

fn of(node: Option<&FabrikNode>) -> Option<&FabrikNodeStatus> {
    node?.status.as_ref()
}

async fn until(
    seen: &mut watch::Receiver<Option<FabrikNode>>,
    good: impl Fn(&Option<FabrikNode>) -> bool,
) -> Option<FabrikNode> {
    let found = tokio::time::timeout(PATIENCE, seen.wait_for(|node| good(node)));
    found.await.unwrap().unwrap().clone()
}
