//! A load balancer of the emulator's that carries what is sent to it: from its public address to servers that its label selector finds
//! and its own check has found to take connections.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::balancer::Balancer;
use crate::emulator::Hetzner;

/// Carries nothing any more when it is dropped.
pub struct LoadBalancer {
    pub address: SocketAddr,
    _balancer: Balancer,
    checks: JoinHandle<()>,
}

/// What it was made with.
struct Settings {
    listen: SocketAddr,
    selector: String,
    port: u16,
    interval: Duration,
    timeout: Duration,
}

impl LoadBalancer {
    /// Puts life into the one of that name.
    pub async fn start(hetzner: &Hetzner, name: &str) -> Result<Self> {
        let path = format!("/load_balancers?name={name}");
        let found = hetzner.call(Method::GET, &path, &Value::Null).await?;
        let settings = Settings::read(&found["load_balancers"][0]);
        let settings = settings.with_context(|| format!("no load balancer {name}: {found}"))?;
        let address = settings.listen;
        let healthy = watch::Sender::new(check(hetzner, &settings).await?);
        let whole = watch::Sender::new(true).subscribe();
        let balancer = Balancer::through(address, healthy.subscribe(), whole).await?;
        let hetzner = hetzner.clone();
        let checks = tokio::spawn(async move {
            loop {
                tokio::time::sleep(settings.interval).await;
                if let Ok(servers) = check(&hetzner, &settings).await {
                    healthy.send_replace(servers);
                }
            }
        });
        Ok(Self {
            address,
            _balancer: balancer,
            checks,
        })
    }
}

impl Drop for LoadBalancer {
    fn drop(&mut self) {
        self.checks.abort();
    }
}

impl Settings {
    fn read(balancer: &Value) -> Option<Self> {
        let service = &balancer["services"][0];
        let check = &service["health_check"];
        let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok());
        let seconds = |value: &Value| value.as_u64().map(Duration::from_secs);
        let ip: Ipv4Addr = balancer["public_net"]["ipv4"]["ip"]
            .as_str()?
            .parse()
            .ok()?;
        let selector = &balancer["targets"][0]["label_selector"]["selector"];
        Some(Self {
            listen: SocketAddr::from((ip, port(&service["listen_port"])?)),
            selector: selector.as_str()?.to_owned(),
            port: port(&service["destination_port"])?,
            interval: seconds(&check["interval"])?,
            timeout: seconds(&check["timeout"])?,
        })
    }
}

/// Those that take connections, by their public addresses: a bed that did not begin empty has no private network.
async fn check(hetzner: &Hetzner, settings: &Settings) -> Result<Vec<SocketAddr>> {
    let path = format!("/servers?label_selector={}", settings.selector);
    let found = hetzner.call(Method::GET, &path, &Value::Null).await?;
    let servers = found["servers"].as_array().into_iter().flatten();
    let ips = servers.filter_map(|s| s["public_net"]["ipv4"]["ip"].as_str()?.parse().ok());
    let mut healthy = Vec::new();
    for ip in ips.map(|ip: Ipv4Addr| SocketAddr::from((ip, settings.port))) {
        if let Ok(Ok(_)) = timeout(settings.timeout, TcpStream::connect(ip)).await {
            healthy.push(ip);
        }
    }
    Ok(healthy)
}
