//! A way to a server on which an answer travels until somebody has looked at what the server did: who is killed at such a
//! look has not heard of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Who looks at what a server did, before whoever asked for it may hear of it. As long as nobody looks, all passes.
#[derive(Default)]
pub struct Lookout(watch::Sender<Option<Instant>>);

impl Lookout {
    /// Lets pass what had settled when this look began.
    pub fn looked(&self, began: Instant) {
        self.0.send_replace(Some(began));
    }

    /// Nobody looks any more.
    pub fn rest(&self) {
        self.0.send_replace(None);
    }
}

/// Passes TCP connections on; what comes back, and the end of it, waits for the lookout. Ends with its owner.
pub struct SlowAnswers(JoinHandle<()>);

impl SlowAnswers {
    /// `settled`: how long after an answer the server's own log has it at the latest.
    pub async fn start(
        listen: SocketAddr,
        server: SocketAddr,
        lookout: &Lookout,
        settled: Duration,
    ) -> Result<Self> {
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("listening on {listen}"))?;
        let looked = lookout.0.subscribe();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((client, _)) = accepted {
                            connections.spawn(pass(client, server, looked.clone(), settled));
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

type Looked = watch::Receiver<Option<Instant>>;

async fn pass(client: TcpStream, server: SocketAddr, looked: Looked, settled: Duration) {
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
        () = copy_late(from_server, to_client, looked, settled) => {}
    }
}

async fn copy_late(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut looked: Looked,
    settled: Duration,
) {
    let (queue, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from.read(&mut buffer).await.unwrap_or(0);
            // An empty piece is the end.
            let piece = buffer.get(..length).unwrap_or_default().to_vec();
            if queue.send((Instant::now() + settled, piece)).is_err() || length == 0 {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = due.recv().await {
            let since = |began: &Option<Instant>| began.is_none_or(|began| began >= at);
            if looked.wait_for(since).await.is_err()
                || piece.is_empty()
                || to.write_all(&piece).await.is_err()
            {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
