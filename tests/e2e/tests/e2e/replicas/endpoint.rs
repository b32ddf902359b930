//! What leads to the API servers: a load balancer that goes on without a server, and an address that leaves a server which is lost.

use anyhow::{Context, Result, ensure};
use fabrik_bed::kubeconfig;
use fabrik_bed::load_balancer::LoadBalancer;
use fabrik_e2e::{SOON, World};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;

const NODES: usize = 7;
const ENDPOINTS: &str = r#"
[firewall]
api-from = ["0.0.0.0/0", "::/0"]

[api.load-balancer]
type = "lb11"
location = "fsn1"

[api.floating-ip]
type = "ipv4"
location = "fsn1"
"#;

/// Finds four workers beside the three servers.
pub async fn people_get_through_while_a_server_is_lost(world: &World) -> Result<()> {
    let bed = &world.bed;
    let spec = bed.git().read("cluster.toml")?;
    bed.git().write("cluster.toml", spec + ENDPOINTS)?;
    let commit = bed
        .git()
        .commit_and_push("Have a load balancer and a floating IP")?;
    world.carried_out(&commit).await?;
    let url = "status says what leads there";
    let status = world.status_says(url, |s| s["api"].is_string()).await?;
    let lost = holder(world).await?.context("nobody has the floating IP")?;
    assert_eq!(status["leader"], bed.control_plane(lost).name());

    // It does not answer yet, so it is not used.
    let file = bed.dir().join("by-endpoint");
    let path = file.to_str().context("a path")?;
    let before = world.fabrik(&["kubeconfig", "--as", "ada", "--output", path])?;
    ensure!(
        before.code == Some(0) && before.stderr.contains("is not used"),
        "{before:?}"
    );
    ensure!(!std::fs::read_to_string(&file)?.contains("tls-server-name"));

    let balancer = LoadBalancer::start(bed.hetzner(), "demo-api").await?;
    let url = format!("https://{}", balancer.address);
    assert_eq!(status["api"], url.as_str());
    let made = world.fabrik(&["kubeconfig", "--as", "ada", "--output", path])?;
    ensure!(
        made.code == Some(0) && made.stderr.contains(&url),
        "{made:?}"
    );
    let text = std::fs::read_to_string(&file)?;
    ensure!(
        text.contains(&url) && text.contains("tls-server-name: kubernetes"),
        "{text}"
    );
    let nodes: Api<Node> = Api::all(kubeconfig::client(&text).await?);
    assert_eq!(nodes.list(&ListParams::default()).await?.items.len(), NODES);

    bed.server_machine(lost).kill().await?;
    bed.wait_until("it gets through without that server", SOON, async || {
        let found = nodes.list(&ListParams::default()).await?;
        Ok((found.items.len() == NODES).then_some(()))
    })
    .await?;
    bed.wait_until("another server has the floating IP", SOON, async || {
        Ok(holder(world).await?.filter(|server| *server != lost))
    })
    .await
    .map(drop)
}

/// Which server has the floating IP, at the emulator.
async fn holder(world: &World) -> Result<Option<usize>> {
    let state = world.hetzner().await?;
    let server = state["floating_ips"][0]["server"].as_u64();
    let mut numbers = 0..world.bed.servers().len();
    Ok(numbers.find(|number| Some(world.bed.server_machine(*number).id()) == server))
}
