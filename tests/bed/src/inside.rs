//! Work in a machine's own network: a thread that is in it, and doors between it and this host's.
//!
//! A socket belongs to the network of the thread that makes it. So all that is played of a machine in this process runs on
//! that thread, and its programs in the machine's namespaces.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::namespaces::Entrance;

/// A thread in a network. What runs on it ends when this is dropped.
pub struct Inside {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Inside {
    /// What still blocks a thread when the machine loses power is left alone after this time.
    const END: Duration = Duration::from_secs(5);

    pub fn start(entrance: Entrance) -> Result<Self> {
        let (told, tells) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let work = move || {
            let runtime = enter(entrance);
            let handle = runtime.as_ref().map(|runtime| runtime.handle().clone());
            let told = told.send(handle.map_err(|error| format!("{error:#}")));
            let (Ok(()), Ok(runtime)) = (told, runtime) else {
                return;
            };
            // An error is the end of who would stop it.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(Self::END);
        };
        let thread = std::thread::Builder::new().name("machine".to_owned());
        let thread = thread.spawn(work).context("starting a thread")?;
        let handle = tells.recv().context("the thread ended")?;
        Ok(Self {
            handle: handle.map_err(anyhow::Error::msg)?,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say but that it panicked, which it did already.
            let _ = thread.join();
        }
    }
}

fn enter(entrance: Entrance) -> Result<runtime::Runtime> {
    let network = entrance.network();
    let network = File::open(&network).with_context(|| format!("opening {}", network.display()))?;
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering a network")?;
    let mut builder = runtime::Builder::new_current_thread();
    builder.enable_all().build().context("starting a runtime")
}

/// A task that ends with its owner.
pub struct Task<T>(JoinHandle<T>);

impl<T> Task<T> {
    pub fn new(handle: JoinHandle<T>) -> Self {
        Self(handle)
    }

    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Ends it; when this returns, all that it held is dropped.
    pub async fn stop(mut self) {
        self.0.abort();
        // It answers with its cancellation.
        let _ = (&mut self.0).await;
    }

    pub async fn end(&mut self) -> Result<T> {
        Ok((&mut self.0).await?)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An address in one network that leads to one in another, until it is dropped.
pub struct Door {
    _task: Task<()>,
}

impl Door {
    /// How long the other side may take to accept.
    const CONNECT: Duration = Duration::from_secs(3);

    /// Listens where `near` runs, and connects where `far` does.
    pub async fn open(
        near: &Handle,
        listen: SocketAddr,
        far: &Handle,
        to: SocketAddr,
    ) -> Result<Self> {
        let listener = near.spawn(TcpListener::bind(listen)).await?;
        let listener = listener.with_context(|| format!("listening on {listen}"))?;
        let far = far.clone();
        let task = near.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((client, _)) = accepted {
                            connections.spawn(pass(client, far.clone(), to));
                        }
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self {
            _task: Task::new(task),
        })
    }
}

async fn pass(mut client: TcpStream, far: Handle, to: SocketAddr) {
    let connect =
        far.spawn(async move { tokio::time::timeout(Door::CONNECT, TcpStream::connect(to)).await });
    if let Ok(Ok(Ok(mut server))) = connect.await {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        // Either side may end it at any time; there is nothing to report to.
        let _ = copy_bidirectional(&mut client, &mut server).await;
    }
}
