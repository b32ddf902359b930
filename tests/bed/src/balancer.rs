//! A TCP balancer as the one that k3s runs on each agent: one local address for all API servers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Passes connections on to the first server that accepts them. Ends with its owner.
#[derive(Debug)]
pub struct Balancer {
    task: JoinHandle<()>,
}

impl Balancer {
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

    pub async fn start(listen: SocketAddr, servers: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listening on {listen}"))?;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((client, _)) = accepted {
                            connections.spawn(pass(client, servers.clone()));
                        }
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Connections are tasks of the aborted task's set and end with it.
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, servers: Vec<SocketAddr>) {
    for server in servers {
        let connect = tokio::time::timeout(Balancer::CONNECT_TIMEOUT, TcpStream::connect(server));
        if let Ok(Ok(mut upstream)) = connect.await {
            let _ = upstream.set_nodelay(true);
            let _ = client.set_nodelay(true);
            // Either side may end it at any time; there is nothing to report to.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            return;
        }
    }
}
