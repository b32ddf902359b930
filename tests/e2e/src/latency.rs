//! A way to a server on which answers travel slowly: who is killed right after a request was carried out has not heard of
//! it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Passes TCP connections on; what comes back, and the end of it, comes late. Ends with its owner.
pub struct SlowAnswers(JoinHandle<()>);

impl SlowAnswers {
    pub async fn start(listen: SocketAddr, server: SocketAddr, late: Duration) -> Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listening on {listen}"))?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((client, _)) = accepted {
                            connections.spawn(pass(client, server, late));
                        }
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self(task))
    }
}

impl Drop for SlowAnswers {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn pass(client: TcpStream, server: SocketAddr, late: Duration) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    // Whichever side ends first ends the connection; there is nobody to report to.
    tokio::select! {
        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
        () = copy_late(from_server, to_client, late) => {}
    }
}

async fn copy_late(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    late: Duration,
) {
    let (queue, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from.read(&mut buffer).await.unwrap_or(0);
            // An empty piece is the end.
            let piece = buffer.get(..length).unwrap_or_default().to_vec();
            if queue.send((Instant::now() + late, piece)).is_err() || length == 0 {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = due.recv().await {
            tokio::time::sleep_until(at).await;
            if piece.is_empty() || to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
