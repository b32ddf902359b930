//! The metrics of `/metrics`, by Prometheus' naming rules.
//!
//! Label values are words from a fixed set or names from the repository; a metric never grows with time.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use fabrik_core::hold::Hold;
use jiff::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::cluster::resources::{PoolStatus, Units};
use crate::hetzner;

/// What a scrape gets as `Content-Type`: the OpenMetrics text that `Metrics::render` writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper bounds in seconds: from a pass that found nothing to do to one that waited for Hetzner.
const RECONCILE_BUCKETS_SECS: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0,
];

type Labels<const N: usize> = [(&'static str, String); N];

/// All of fabrik's metrics. Made once for the process and shared.
pub struct Metrics {
    registry: Registry,
    leader: Gauge,
    paused: Gauge,
    reconciles: Family<Labels<1>, Counter>,
    reconcile_duration: Histogram,
    effects: Family<Labels<2>, Counter>,
    /// Given to each client of Hetzner's.
    pub hetzner: hetzner::Metrics,
    admitted_commit_timestamp: Gauge<f64, AtomicU64>,
    refusals: Counter,
    holds: Family<Labels<1>, Gauge>,
    units: Family<Labels<1>, Gauge>,
    nodes: Family<Labels<2>, Gauge>,
    wanted: Family<Labels<1>, Gauge>,
}

/// How a pass or an effect ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Error,
}

impl Outcome {
    pub fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() {
            Self::Success
        } else {
            Self::Error
        }
    }

    fn label(self) -> String {
        match self {
            Self::Success => "success".to_owned(),
            Self::Error => "error".to_owned(),
        }
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("fabrik");
        let build = Family::<Labels<1>, Gauge>::default();
        build
            .get_or_create(&[("version", env!("CARGO_PKG_VERSION").to_owned())])
            .set(1);
        registry.register("build_info", "The version that runs, as a label", build);
        let metrics = Self {
            leader: Gauge::default(),
            paused: Gauge::default(),
            reconciles: Family::default(),
            reconcile_duration: Histogram::new(RECONCILE_BUCKETS_SECS),
            effects: Family::default(),
            hetzner: hetzner::Metrics::default(),
            admitted_commit_timestamp: Gauge::default(),
            refusals: Counter::default(),
            holds: Family::default(),
            units: Family::default(),
            nodes: Family::default(),
            wanted: Family::default(),
            registry,
        };
        metrics.registered()
    }

    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    pub fn set_paused(&self, paused: bool) {
        self.paused.set(i64::from(paused));
    }

    /// A pass of the loop ended.
    pub fn reconciled(&self, outcome: Outcome, took: Duration) {
        self.reconciles
            .get_or_create(&[("result", outcome.label())])
            .inc();
        self.reconcile_duration.observe(took.as_secs_f64());
    }

    /// An effect was carried out or failed. `verb` is `Effect::verb`.
    pub fn effect(&self, verb: &'static str, outcome: Outcome) {
        self.effects
            .get_or_create(&[("verb", verb.to_owned()), ("result", outcome.label())])
            .inc();
    }

    /// A commit came into force at `at`.
    #[allow(
        clippy::cast_precision_loss,
        reason = "seconds since 1970 fit into an f64"
    )]
    pub fn admitted(&self, at: Timestamp) {
        self.admitted_commit_timestamp.set(at.as_second() as f64);
    }

    /// A commit was refused that had not been refused before.
    pub fn refused(&self) {
        self.refusals.inc();
    }

    /// The holds as they are now; reasons that are gone go from the metric as well.
    pub fn set_holds<'a>(&self, holds: impl IntoIterator<Item = &'a Hold>) {
        self.holds.clear();
        for hold in holds {
            self.holds
                .get_or_create(&[("reason", format!("{:?}", hold.reason))])
                .inc();
        }
    }

    pub fn set_units(&self, units: &Units) {
        let unready = units.total.saturating_sub(units.ready);
        for (state, count) in [("ready", units.ready), ("unready", unready)] {
            self.units
                .get_or_create(&[("state", state.to_owned())])
                .set(i64::from(count));
        }
    }

    /// The nodes of all pools as they are now.
    pub fn set_pools(&self, pools: &BTreeMap<String, PoolStatus>) {
        self.nodes.clear();
        self.wanted.clear();
        for (name, pool) in pools {
            self.wanted
                .get_or_create(&[("pool", name.clone())])
                .set(i64::from(pool.wanted));
            let states = [
                ("ready", pool.ready),
                ("joining", pool.joining),
                ("leaving", pool.leaving),
            ];
            for (state, count) in states {
                self.nodes
                    .get_or_create(&[("pool", name.clone()), ("state", state.to_owned())])
                    .set(i64::from(count));
            }
        }
    }

    /// What only a leader knows is no longer told: another one tells it.
    pub fn forget_cluster(&self) {
        self.set_leader(false);
        self.set_paused(false);
        self.holds.clear();
        self.units.clear();
        self.nodes.clear();
        self.wanted.clear();
    }

    /// The text of a scrape.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Registers each metric under its name. The registry appends `_total` to counters and the unit to what has one.
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        registry.register("leader", "1 on the replica that leads", self.leader.clone());
        registry.register(
            "paused",
            "1 while a person has paused all effects",
            self.paused.clone(),
        );
        registry.register(
            "reconcile",
            "Passes of the loop, by how they ended",
            self.reconciles.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "How long a pass of the loop took",
            Unit::Seconds,
            self.reconcile_duration.clone(),
        );
        registry.register(
            "effects",
            "Effects carried out, by verb and by how they ended",
            self.effects.clone(),
        );
        self.hetzner.register(registry);
        registry.register_with_unit(
            "admitted_commit_timestamp",
            "When the commit in force was admitted",
            Unit::Seconds,
            self.admitted_commit_timestamp.clone(),
        );
        registry.register("refusals", "Commits refused", self.refusals.clone());
        registry.register(
            "holds",
            "Parts of the commit in force that wait, by reason",
            self.holds.clone(),
        );
        registry.register(
            "units",
            "Folders of manifests, by state",
            self.units.clone(),
        );
        registry.register("nodes", "Nodes, by pool and state", self.nodes.clone());
        registry.register(
            "nodes_wanted",
            "Nodes that the commit in force wants, by pool",
            self.wanted.clone(),
        );
        self
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use fabrik_core::hold::HoldReason;

    use super::*;

    #[test]
    fn each_metric_has_its_documented_name() {
        let metrics = Metrics::new();
        metrics.set_leader(true);
        metrics.reconciled(Outcome::Success, Duration::from_millis(3));
        metrics.effect("create-server", Outcome::Error);
        metrics.hetzner.count("GET", "servers", Some(200));
        metrics.hetzner.count("POST", "servers", None);
        metrics.admitted(Timestamp::from_second(1_790_000_000).unwrap());
        metrics.refused();
        metrics.set_holds(&[hold(HoldReason::DrainBlocked)]);
        metrics.set_units(&Units { total: 3, ready: 2 });
        let pool = PoolStatus {
            ready: 2,
            ..PoolStatus::default()
        };
        metrics.set_pools(&[("workers".to_owned(), pool)].into());
        let text = metrics.render().unwrap();
        for line in [
            concat!(
                "fabrik_build_info{version=\"",
                env!("CARGO_PKG_VERSION"),
                "\"} 1"
            ),
            "fabrik_leader 1",
            "fabrik_paused 0",
            "fabrik_reconcile_total{result=\"success\"} 1",
            "fabrik_reconcile_duration_seconds_bucket{le=\"0.005\"} 1",
            "fabrik_effects_total{verb=\"create-server\",result=\"error\"} 1",
            "fabrik_hetzner_requests_total{method=\"GET\",resource=\"servers\",status=\"200\"} 1",
            "fabrik_hetzner_requests_total{method=\"POST\",resource=\"servers\",status=\"none\"} 1",
            "fabrik_admitted_commit_timestamp_seconds 1790000000.0",
            "fabrik_refusals_total 1",
            "fabrik_holds{reason=\"DrainBlocked\"} 1",
            "fabrik_units{state=\"unready\"} 1",
            "fabrik_nodes{pool=\"workers\",state=\"ready\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "no `{line}` in\n{text}");
        }
    }

    #[test]
    fn a_hold_that_is_over_is_no_longer_shown() {
        let metrics = Metrics::new();
        metrics.set_holds(&[hold(HoldReason::Budget), hold(HoldReason::Budget)]);
        assert!(
            metrics
                .render()
                .unwrap()
                .contains("fabrik_holds{reason=\"Budget\"} 2")
        );
        metrics.set_holds(&[]);
        assert!(!metrics.render().unwrap().contains("Budget"));
    }

    fn hold(reason: HoldReason) -> Hold {
        Hold {
            about: "pool workers".to_owned(),
            reason,
            message: "waits".to_owned(),
        }
    }
}
