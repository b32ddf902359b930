//! A Hetzner Cloud that runs on one's own machine: the API by the official description, with actions
//! that take time, limits, and faults to order. For tests; nothing here talks to Hetzner.

mod action;
mod address_pool;
mod call;
mod catalog;
mod connection;
mod control;
mod error;
mod events;
mod faults;
mod gate;
mod input;
mod journal;
mod labels;
mod listing;
mod metadata;
#[cfg(test)]
mod playground;
mod project;
mod public_address;
mod random;
mod rate_limit;
mod resources;
mod server;
mod settings;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::address_pool::AddressPool;
use crate::connection::{CuttableListener, Knife};
use crate::gate::Gate;
use crate::project::Project;
use crate::server::Shared;
use crate::settings::Settings;

#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The tokens that are accepted; none means any.
    pub tokens: Vec<String>,
    /// Where servers get their public addresses from.
    pub ipv4_pool: Ipv4Net,
    /// How long an action takes.
    pub action_duration: Duration,
}

/// A running emulator. Dropping it stops it without waiting; [`Emulator::shutdown`] waits.
pub struct Emulator {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tokens: Vec::new(),
            ipv4_pool: Ipv4Net::new_assert(Ipv4Addr::new(127, 20, 1, 0), 24),
            action_duration: Duration::from_millis(300),
        }
    }
}

impl Emulator {
    /// Binds and begins to serve. The error is that of the address.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let settings = Settings {
            action_duration_ms: options
                .action_duration
                .as_millis()
                .try_into()
                .unwrap_or(u64::MAX),
            tokens: Some(options.tokens).filter(|tokens| !tokens.is_empty()),
            ..Settings::default()
        };
        let pool = AddressPool::new(options.ipv4_pool);
        let shared = Shared::new(Gate::new(Project::new(pool, settings, Timestamp::now())));

        let stop = watch::Sender::new(false);
        let app = server::router(shared.clone()).into_make_service_with_connect_info::<Knife>();
        let all = Knife::default();
        let listener = CuttableListener {
            listener,
            all: all.clone(),
        };
        let mut stopped = stop.subscribe();
        let serving = tokio::spawn(async move {
            let until = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            tokio::select! {
                result = async { axum::serve(listener, app).await } => {
                    if let Err(error) = result {
                        tracing::error!(%error, "the emulator stopped serving");
                    }
                }
                () = until => {}
            }
            // Connections outlive the listener; none of them may still do work.
            all.cut();
        });
        let mut stopped = stop.subscribe();
        let clock = tokio::spawn(server::keep_time(shared, async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        }));
        Ok(Self {
            address,
            stop,
            tasks: vec![serving, clock],
        })
    }

    /// The base of all paths, without a slash at the end. Hetzner's API is below `/v1` of it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What a client takes as its endpoint.
    pub fn endpoint(&self) -> String {
        format!("{}/v1", self.url())
    }

    /// Stops listening, waits until that is done, and answers nobody any more.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            // A task that panicked has stopped too.
            let _ = task.await;
        }
    }
}
