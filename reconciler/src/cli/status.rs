//! `fabrik status`: what the cluster does, for a person at three in the morning or, as JSON, for programs.

use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use futures::stream::{BoxStream, select_all};
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, ListParams};
use kube::runtime::{WatchStreamExt, watcher};

use super::access::{Access, AccessError, ClusterOptions, asked_to};
use super::checkout::Checkout;
use super::{Failure, Output, leader, say};
use view::{ClusterView, NodeView, StatusView, UnitView};

pub mod render;
pub mod view;
pub mod words;

/// A burst of changes is shown once.
const SETTLE: Duration = Duration::from_millis(100);
/// How late a leader that died is missed.
const REFRESH: Duration = Duration::from_secs(10);
/// Homes the cursor and clears what is below, so that a screen is repainted without flicker.
const REPAINT: &str = "\x1b[H\x1b[J";

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    cluster: ClusterOptions,
    /// Shows it again whenever something changes, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

pub async fn run(options: Options) -> Result<ExitCode, Failure> {
    let access = options.cluster.open().await?;
    if !options.watch {
        show(&read(&access).await?, options.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut changes = changes(&access);
    // A leader that dies changes no object: look now and then as well.
    while let Ok(Some(())) | Err(_) = tokio::time::timeout(REFRESH, changes.next()).await {
        while let Ok(Some(())) = tokio::time::timeout(SETTLE, changes.next()).await {}
        match read(&access).await {
            Ok(view) => repaint(&view, options.output)?,
            Err(error) => tracing::warn!(%error, "shown again with the next change"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the three kinds once.
pub async fn read(access: &Access) -> Result<StatusView, AccessError> {
    let name = &access.cluster;
    let clusters = access.clusters();
    let (units, nodes) = (access.units(), access.nodes());
    let everything = ListParams::default();
    let now = Timestamp::now();
    let (cluster, units, nodes, leader) = tokio::try_join!(
        async {
            let read = clusters.get(name).await;
            read.map_err(asked_to(format!("read FabrikCluster {name}")))
        },
        async {
            let list = units.list(&everything).await;
            list.map_err(asked_to("list FabrikUnits"))
        },
        async {
            let list = nodes.list(&everything).await;
            list.map_err(asked_to("list FabrikNodes"))
        },
        leader::read(access, now),
    )?;
    let mut cluster = ClusterView::of(&cluster)?;
    cluster.set_leader(leader);
    let subject = cluster
        .in_force()
        .and_then(|commit| Checkout::here()?.subject(commit));
    Ok(StatusView {
        at: now,
        subject,
        cluster,
        units: units
            .items
            .iter()
            .map(UnitView::of)
            .collect::<Result<_, _>>()?,
        nodes: nodes
            .items
            .iter()
            .map(NodeView::of)
            .collect::<Result<_, _>>()?,
    })
}

fn show(view: &StatusView, output: Output) -> Result<(), Failure> {
    match output {
        Output::Human => say(render::render(view).trim_end())?,
        Output::Json => say(serde_json::to_string_pretty(view)?)?,
    }
    Ok(())
}

/// A page that replaces the last one on a terminal; one JSON document a line for a program.
fn repaint(view: &StatusView, output: Output) -> Result<(), Failure> {
    match output {
        Output::Json => super::show(serde_json::to_string(view)?)?,
        Output::Human if stdout().is_terminal() => {
            super::show(format_args!("{REPAINT}{}", render::render(view)))?;
        }
        Output::Human => super::show(render::render(view))?,
    }
    Ok(())
}

/// One item whenever any of the three kinds changes.
fn changes(access: &Access) -> impl futures::Stream<Item = ()> + Unpin {
    select_all([access.clusters(), access.units(), access.nodes()].map(watch))
}

fn watch(api: Api<DynamicObject>) -> BoxStream<'static, ()> {
    watcher(api, watcher::Config::default())
        .default_backoff()
        .filter_map(|event| async move {
            match event {
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => None,
                Ok(_) => Some(()),
                Err(error) => {
                    tracing::debug!(%error, "a watch was interrupted");
                    None
                }
            }
        })
        .boxed()
}
