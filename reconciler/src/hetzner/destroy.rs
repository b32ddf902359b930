//! The end of a cluster at Hetzner: looks at the whole project, asks `fabrik_core::destroy` what comes next, carries it out,
//! and looks again, until nothing is left that was to go.
//!
//! Killed at any moment and begun again it goes on: all that it knows it sees.

mod steps;
mod things;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fabrik_core::destroy::{Asked, Key, Plan, Resource, Step, plan};
use fabrik_core::id::{ClusterId, ClusterName};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

pub use self::things::{Thing, survey};
use super::client::Client;
use super::error::HetznerError;

/// Between two looks; doubled while nothing changes, for each look takes eleven requests of the hour's 3,600.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Without a change for so long, a person has to look.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long after the last one went it is looked whether any came back: a create may be on its way.
const LAST_LOOK: Duration = Duration::from_secs(5);
/// So often what came back is removed again.
const MAX_RETURNS: u32 = 3;

/// What is to go.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub cluster: ClusterId,
    /// For what bears the name and is not the cluster's, to be told.
    pub name: ClusterName,
    pub asked: Asked,
}

/// What happens, while it does.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Begun(Step, &'a Resource),
    Gone(&'a Resource),
    /// It is tried again.
    Failed(&'a HetznerError),
    /// It was gone, or was never seen before, and is there.
    CameBack(&'a Resource),
}

/// How it ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub removed: Vec<Resource>,
    /// The project as it is now.
    pub project: Vec<Thing>,
    /// What was kept and left of it.
    pub plan: Plan,
}

#[derive(Debug, thiserror::Error)]
pub enum DestroyError {
    #[error("{0}. What was done stays done: the same command goes on from here")]
    Hetzner(#[from] HetznerError),
    #[error(
        "nothing has changed for {} minutes, and this is still there: {left}. {}Look at it in Hetzner's console, and repeat the \
         command",
        PATIENCE.as_secs() / 60,
        last.as_ref().map(|error| format!("The last error: {error}. ")).unwrap_or_default()
    )]
    Stuck {
        left: String,
        last: Option<Box<HetznerError>>,
    },
    #[error(
        "{what} came back again and again: something makes them anew. A `fabrik run` of this cluster is alive somewhere: stop it, \
         and repeat the command"
    )]
    Returns { what: String },
}

/// Removes all that is to go; `tell` hears of each step.
///
/// # Errors
/// Hetzner can't be asked, nothing moves any more, or something makes anew what was removed.
pub async fn destroy(
    client: &Client,
    wanted: &Wanted,
    mut tell: impl FnMut(Event<'_>),
) -> Result<Ended, DestroyError> {
    let mut run = Run::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let project = look(client).await?;
        let next = run.plan(&project, wanted, &mut tell)?;
        if next.is_done() {
            let is_sure = run.removed.is_empty() || run.was_done;
            if is_sure {
                return Ok(run.end(project, next));
            }
            run.was_done = true;
            sleep(LAST_LOOK).await;
            continue;
        }
        run.was_done = false;
        if run.carry_out(client, &next, wanted, &mut tell).await? {
            pause = FIRST_PAUSE;
        }
        if run.since.elapsed() > PATIENCE {
            return Err(run.stuck(&next));
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// The project, once the hour's requests allow a look.
async fn look(client: &Client) -> Result<Vec<Thing>, HetznerError> {
    loop {
        match survey(client).await {
            Err(HetznerError::RateLimited { until, .. }) => {
                let wait = until.duration_since(Timestamp::now());
                sleep(Duration::try_from(wait).unwrap_or_default()).await;
            }
            result => return result,
        }
    }
}

/// What one run has seen and done so far; none of it is needed to go on.
struct Run {
    /// What was to go at the last look.
    going: BTreeMap<Key, Resource>,
    removed: Vec<Resource>,
    was_done: bool,
    returns: u32,
    begun: BTreeSet<Step>,
    last: Option<HetznerError>,
    /// When something changed.
    since: Instant,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            going: BTreeMap::new(),
            removed: Vec::new(),
            was_done: false,
            returns: 0,
            begun: BTreeSet::new(),
            last: None,
            since: Instant::now(),
        }
    }
}

impl Run {
    /// The plan for what is there now, having told what went and what came since the last look.
    fn plan(
        &mut self,
        project: &[Thing],
        wanted: &Wanted,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<Plan, DestroyError> {
        let resources: Vec<Resource> = project.iter().map(|t| t.resource.clone()).collect();
        let plan = plan(&resources, &wanted.cluster, &wanted.name, wanted.asked);
        let there: BTreeSet<Key> = resources.iter().map(|r| r.key).collect();
        let is_going = |r: &Resource| plan.goes.contains(&r.key);
        let going: BTreeMap<Key, Resource> = resources
            .into_iter()
            .filter(is_going)
            .map(|r| (r.key, r))
            .collect();
        for (key, resource) in &self.going {
            if !there.contains(key) {
                tell(Event::Gone(resource));
                self.removed.push(resource.clone());
            }
        }
        if self.was_done && !going.is_empty() {
            self.returns += 1;
            for resource in going.values() {
                tell(Event::CameBack(resource));
            }
            if self.returns > MAX_RETURNS {
                return Err(DestroyError::Returns {
                    what: words(going.values()),
                });
            }
        }
        if going != self.going {
            self.since = Instant::now();
        }
        self.going = going;
        Ok(plan)
    }

    /// Whether any step was new.
    async fn carry_out(
        &mut self,
        client: &Client,
        plan: &Plan,
        wanted: &Wanted,
        tell: &mut impl FnMut(Event<'_>),
    ) -> Result<bool, DestroyError> {
        let mut is_news = false;
        for step in &plan.steps {
            let Some(resource) = self.going.get(&step.key()) else {
                continue;
            };
            if self.begun.insert(*step) {
                is_news = true;
                tell(Event::Begun(*step, resource));
            }
            match steps::carry_out(client, *step, resource, &wanted.cluster).await {
                Ok(()) => {}
                Err(error @ (HetznerError::Unauthorized { .. } | HetznerError::Setup { .. })) => {
                    return Err(error.into());
                }
                Err(error) => {
                    // Busy is what a resource is while the step before is carried out.
                    let is_expected = matches!(error, HetznerError::Locked { .. });
                    if !is_expected && self.last.as_ref() != Some(&error) {
                        tell(Event::Failed(&error));
                    }
                    self.last = Some(error);
                }
            }
        }
        Ok(is_news)
    }

    fn stuck(self, plan: &Plan) -> DestroyError {
        let left = self.going.values().filter(|r| plan.goes.contains(&r.key));
        DestroyError::Stuck {
            left: words(left),
            last: self.last.map(Box::new),
        }
    }

    fn end(self, project: Vec<Thing>, plan: Plan) -> Ended {
        Ended {
            removed: self.removed,
            project,
            plan,
        }
    }
}

fn words<'a>(resources: impl Iterator<Item = &'a Resource>) -> String {
    let names: Vec<String> = resources
        .map(|r| format!("{} `{}` (id {})", r.key.kind, r.name, r.key.id))
        .collect();
    names.join(", ")
}
