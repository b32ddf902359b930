//! A TCP balancer as the one that k3s runs on each agent: one local address for all API servers.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes connections on to the first server that accepts them. Ends with its owner.
#[derive(Debug)]
pub struct Balancer {
    task: JoinHandle<()>,
}

/// Whether a network lets anything pass. While it does not, nothing is refused and nothing arrives, as where packets are
/// dropped; what was under way arrives when it does again.
pub type Passage = watch::Receiver<bool>;

impl Balancer {
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

    pub async fn start(listen: SocketAddr, servers: Vec<SocketAddr>) -> Result<Self> {
        let servers = watch::Sender::new(servers).subscribe();
        Self::through(listen, servers, watch::Sender::new(true).subscribe()).await
    }

    /// By a network that somebody may cut; each connection goes to one of the servers that there are when it is made.
    pub async fn through(
        listen: SocketAddr,
        servers: watch::Receiver<Vec<SocketAddr>>,
        passage: Passage,
    ) -> Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listening on {listen}"))?;
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((client, _)) = accepted {
                            let servers = servers.borrow().clone();
                            connections.spawn(pass(client, servers, passage.clone()));
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

async fn pass(client: TcpStream, servers: Vec<SocketAddr>, mut passage: Passage) {
    open(&mut passage).await;
    for server in servers {
        let connect = tokio::time::timeout(Balancer::CONNECT_TIMEOUT, TcpStream::connect(server));
        if let Ok(Ok(upstream)) = connect.await {
            let _ = upstream.set_nodelay(true);
            let _ = client.set_nodelay(true);
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = upstream.into_split();
            // Either side may end it at any time; there is nothing to report to.
            tokio::join!(
                copy(from_client, to_server, passage.clone()),
                copy(from_server, to_client, passage),
            );
            return;
        }
    }
}

/// Until either side ends it.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut passage: Passage,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or(0);
        open(&mut passage).await;
        let piece = buffer.get(..length).unwrap_or_default();
        if piece.is_empty() || to.write_all(piece).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

async fn open(passage: &mut Passage) {
    // Nobody is left to cut it: then it is as it is.
    let _ = passage.wait_for(|open| *open).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_network_that_is_cut_loses_nothing_and_refuses_nobody() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let listen = door.local_addr().unwrap();
        drop(door);
        let network = watch::Sender::new(true);
        let passage = network.subscribe();
        let _balancer = Balancer::through(
            listen,
            watch::Sender::new(vec![address]).subscribe(),
            passage,
        )
        .await
        .unwrap();
        let mut client = TcpStream::connect(listen).await.unwrap();
        client.write_all(b"a").await.unwrap();
        let (mut there, _) = server.accept().await.unwrap();
        assert_eq!(there.read_u8().await.unwrap(), b'a');

        network.send_replace(false);
        client.write_all(b"b").await.unwrap();
        let mut late = TcpStream::connect(listen).await.unwrap();
        late.write_all(b"c").await.unwrap();
        let pause = Duration::from_millis(100);
        let nothing = tokio::time::timeout(pause, there.read_u8()).await;
        assert!(nothing.is_err(), "{nothing:?}");
        let nobody = tokio::time::timeout(pause, server.accept()).await;
        assert!(nobody.is_err(), "{nobody:?}");

        network.send_replace(true);
        let heard = tokio::time::timeout(PATIENCE, there.read_u8()).await;
        assert_eq!(heard.unwrap().unwrap(), b'b');
        let (mut second, _) = tokio::time::timeout(PATIENCE, server.accept())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(second.read_u8().await.unwrap(), b'c');
    }
}
