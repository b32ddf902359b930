//! All that can happen to one rollout of a small cluster, if no more than a few things happen: not only what a seed
//! happens upon.
//!
//! A branch ends where nothing changes any more, or in a state that was seen with at least the events that may still come:
//! whatever these could do from there on was followed already. So who crashes and is back where it would have been is not
//! followed twice.

mod events;
mod place;
mod state;

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fabrik_core::hold::HoldReason;

use self::events::events;
use self::state::fingerprint;
use crate::leader::Leader;
use crate::machine::Machine;
use crate::people::Act;
use crate::systems::Fate;
use crate::world::{Size, World};

/// Coarser than a schedule's: it makes half as many moments for each event.
const STEP_SECS: i64 = 20;
/// Where nothing is under way and some node rests for half an hour.
const REST_STEP_SECS: i64 = 300;
/// A branch has come to rest by then.
const MAX_TICKS: u32 = 500;

/// How often a search says that it goes on.
const PROGRESS_STATES: u64 = 2_000_000;

/// Of the servers' new system and the workers'.
pub const FATES: [[Fate; 2]; 4] = [
    [Fate::Well, Fate::Well],
    [Fate::Panics, Fate::Well],
    [Fate::Hangs, Fate::Well],
    [Fate::Sick, Fate::Well],
];

/// Events that may still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Two at most.
    pub crashes: u8,
    pub human: bool,
    pub pause: bool,
}

impl Left {
    const NOTHING: Self = Self {
        crashes: 0,
        human: false,
        pause: false,
    };

    /// A bit for each that may come no more than these.
    fn and_fewer(self) -> u16 {
        let mut bits = 0;
        for crashes in 0..=self.crashes {
            for human in [false, self.human] {
                for pause in [false, self.pause] {
                    bits |= Left {
                        crashes,
                        human,
                        pause,
                    }
                    .bit();
                }
            }
        }
        bits
    }

    fn bit(self) -> u16 {
        1 << (u16::from(self.crashes) * 4 + u16::from(self.human) * 2 + u16::from(self.pause))
    }
}

#[derive(Debug, Default)]
pub struct Found {
    /// Different states.
    pub states: u64,
    /// Events, each in a state that was new.
    pub branches: u64,
    /// Different states in which all came to rest.
    pub rests: u64,
    pub broken: Option<String>,
    /// It was left before its end.
    pub cut_short: bool,
}

type Path = Vec<(u32, Act)>;

/// A world that is to be gone on with.
struct Task {
    world: World,
    left: Left,
    tick: u32,
    path: Path,
}

const SHARDS: usize = 64;

struct Search {
    /// By state, the events left with which it need not be followed.
    seen: Vec<Mutex<HashMap<u64, u16>>>,
    states: AtomicU64,
    branches: AtomicU64,
    rests: AtomicU64,
    max_states: u64,
    over: AtomicBool,
    broken: Mutex<Option<(String, u32, Path)>>,
    tasks: Mutex<Vec<Task>>,
}

/// A rollout over 3 servers and 2 workers under 2 leaders.
pub fn search(left: Left, fates: [Fate; 2], max_states: u64, threads: usize) -> Found {
    let search = Search {
        seen: (0..SHARDS).map(|_| Mutex::default()).collect(),
        states: AtomicU64::new(0),
        branches: AtomicU64::new(0),
        rests: AtomicU64::new(0),
        max_states,
        over: AtomicBool::new(false),
        broken: Mutex::new(None),
        tasks: Mutex::new(Vec::new()),
    };
    let root = Task {
        world: beginning(fates),
        left,
        tick: 0,
        path: Vec::new(),
    };
    for task in search.follow(root) {
        search.put(task);
    }
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(task) = search.take() {
                    search.go_on(task);
                }
            });
        }
    });
    let broken = search
        .broken
        .into_inner()
        .expect("no thread panics with it");
    let broken = broken.map(|(what, tick, path)| {
        let log = again(fates, tick, &path);
        format!("{}\n{what} at step {tick} after {path:?}", log.join("\n"))
    });
    Found {
        states: search.states.into_inner(),
        branches: search.branches.into_inner(),
        rests: search.rests.into_inner(),
        cut_short: search.over.into_inner() && broken.is_none(),
        broken,
    }
}

/// A commit has just come.
fn beginning([servers, workers]: [Fate; 2]) -> World {
    let size = Size {
        servers: 3,
        agents: 2,
        leaders: 2,
        max_unavailable: 1,
    };
    let mut world = World::new(&size, 1);
    world.cover.is_off = true;
    world.go_on();
    world.act(Act::Push {
        kernel: true,
        minor: false,
        servers,
        workers,
    });
    world
}

/// What happens on a path, line by line.
fn again(fates: [Fate; 2], until: u32, path: &[(u32, Act)]) -> Vec<String> {
    let mut world = beginning(fates);
    world.log = Some(Vec::new());
    for tick in 0..=until {
        for (_, act) in path.iter().filter(|(at, _)| *at == tick) {
            world.act(*act);
        }
        world.go_on();
    }
    world.log.unwrap_or_default()
}

impl Search {
    fn put(&self, task: Task) {
        let mut tasks = self.tasks.lock().expect("no thread panics with it");
        tasks.push(task);
    }

    fn take(&self) -> Option<Task> {
        let mut tasks = self.tasks.lock().expect("no thread panics with it");
        tasks.pop()
    }

    fn is_new(&self, state: u64, left: Left) -> bool {
        let shard = usize::try_from(state >> 58).expect("it has six bits");
        let shard = &self.seen[shard];
        let mut seen = shard.lock().expect("no thread panics with it");
        let known = seen.entry(state).or_default();
        if *known == 0 {
            self.count();
        }
        let new = *known & left.bit() == 0;
        *known |= left.and_fewer();
        new
    }

    fn count(&self) {
        let states = self.states.fetch_add(1, Ordering::Relaxed) + 1;
        if states > self.max_states {
            self.over.store(true, Ordering::Relaxed);
        }
        if states.is_multiple_of(PROGRESS_STATES) {
            eprintln!("… {} million states", states / 1_000_000);
        }
    }

    fn blame(&self, what: String, tick: u32, path: &[(u32, Act)]) {
        self.over.store(true, Ordering::Relaxed);
        let mut broken = self.broken.lock().expect("no thread panics with it");
        broken.get_or_insert((what, tick, path.to_vec()));
    }

    /// The whole of what can come of it.
    fn go_on(&self, task: Task) {
        for task in self.follow(task) {
            self.go_on(task);
        }
    }

    /// The way on without another event, to its end; what each event that may come on it makes of it is left to be
    /// followed.
    fn follow(&self, task: Task) -> Vec<Task> {
        let Task {
            mut world,
            left,
            tick: began,
            path,
        } = task;
        let mut state = fingerprint(&world);
        let mut way = Vec::new();
        let mut tasks = Vec::new();
        for tick in began..began + MAX_TICKS {
            if self.over.load(Ordering::Relaxed) {
                return Vec::new();
            }
            if !self.is_new(state, left) {
                if way.contains(&state) {
                    self.blame("it goes round in a circle".to_owned(), tick, &path);
                }
                return tasks;
            }
            way.push(state);
            // Nobody asks for it where nothing more may come, as in most states.
            let before = (left != Left::NOTHING).then(|| world.clone());
            world.go_on();
            for (act, left) in before.iter().flat_map(|w| events(w, &world, left)) {
                self.branches.fetch_add(1, Ordering::Relaxed);
                let mut world = before.clone().expect("it is asked for");
                world.act(act);
                let path = path.iter().copied().chain([(tick, act)]).collect();
                tasks.push(Task {
                    world,
                    left,
                    tick,
                    path,
                });
            }
            if let Some((rule, what)) = world.book.broken.take() {
                self.blame(format!("{rule}: {what}"), tick, &path);
                return tasks;
            }
            let then = fingerprint(&world);
            if then == state {
                self.rests.fetch_add(1, Ordering::Relaxed);
                if let Some(what) = world.should_not_rest() {
                    self.blame(format!("nothing goes on: {what}"), tick, &path);
                }
                return tasks;
            }
            state = then;
        }
        self.blame(
            "it does not come to rest".to_owned(),
            began + MAX_TICKS,
            &path,
        );
        tasks
    }
}

impl World {
    fn go_on(&mut self) {
        self.step_secs = if self.only_rests() {
            REST_STEP_SECS
        } else {
            STEP_SECS
        };
        self.tick();
    }

    /// Nobody waits for anything but the end of a rest.
    fn only_rests(&self) -> bool {
        let ledger = &self.observed.ledger;
        let awake = |leader: &Leader| {
            let idle = leader.dies_in.is_none() && leader.pauses.is_none();
            idle && leader.dead_until <= self.now && leader.evaluates_until <= self.now
        };
        let idle = |machine: &Machine| {
            let there = machine.rests() && machine.agent_dead_until <= self.now;
            there && machine.fetching.is_none() && machine.dies_in.is_none()
        };
        let nothing = ledger.tickets.is_empty() && self.flights.is_empty();
        let none_comes = self.leaders.iter().all(awake) && self.machines.iter().all(idle);
        nothing && none_comes && ledger.resting.values().any(|until| *until > self.now)
    }

    /// Why all should not stand still: nobody has said what a person is to do, and not all is done.
    fn should_not_rest(&self) -> Option<String> {
        let (rule, what) = self.unsettled()?;
        let says: BTreeSet<HoldReason> = self.book.held.iter().map(|h| h.reason).collect();
        let calls = [HoldReason::Denied, HoldReason::Stuck];
        let by_person = self.truths.values().any(|t| t.cordoned_by_person);
        let called = calls.iter().any(|reason| says.contains(reason));
        (!called && !by_person).then(|| format!("{rule}: {what}"))
    }
}
