//! Chapter 3: workers and manifests come by a push.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::look;
use super::shrink::BUDGET;
use super::stage::{DEADLINE, carried_out, dir, fabrik, push, say, set_count, title};
use crate::Bed;

const SHOP: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: default, labels: {app: shop}}
spec:
  replicas: 6
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      nodeSelector: {fabrik.dev/pool: workers}
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule,
           labelSelector: {matchLabels: {app: shop}}}
      containers: [{name: shop, image: registry.example/shop:1}]
";
const SETTINGS: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: default}
data: {colour: blue}
";

pub async fn grow(bed: &Bed) -> Result<()> {
    title("3. A push makes workers, and applies manifests");
    set_count(bed, 3)?;
    bed.git().write("manifests/shop/deployment.yaml", SHOP)?;
    bed.git().write("manifests/shop/budget.yaml", BUDGET)?;
    bed.git().write("manifests/shop/settings.yaml", SETTINGS)?;
    say(
        "cluster.toml now asks for 3 workers, and manifests/shop/ holds a small shop. What will that do?",
    );
    let plan = fabrik(bed, &["plan", &dir(bed)])?;
    ensure!(
        plan.contains("2 × create"),
        "the plan does not name the two servers"
    );
    push(bed, "Three workers and a shop")?;
    let began = Instant::now();
    look::workers(bed, 3, DEADLINE).await?;
    look::pods_running(bed, 6, DEADLINE).await?;
    carried_out(bed)?;
    // Those who came first to the first node move over, so that each worker has a part of the shop.
    look::spread(bed, DEADLINE).await?;
    let made = look::made_at_hetzner(bed).await?;
    say(&format!(
        "3 nodes have joined and 6 pods run, {:.1} s after the push.",
        began.elapsed().as_secs_f64()
    ));
    say(&format!("At Hetzner (asked there, not at fabrik): {made}."));
    fabrik(bed, &["status"]).map(drop)
}
