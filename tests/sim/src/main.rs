//! `fabrik-sim run`, `seed`, `exhaustive` and `mutants`: plays schedules and says what broke.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use fabrik_sim::coverage::Coverage;
use fabrik_sim::exhaustive::{self, Left};
use fabrik_sim::mutant::{self, MUTANTS};
use fabrik_sim::people;
use fabrik_sim::schedule::{self, Failure, Schedule};
use fabrik_sim::ways;
use mimalloc::MiMalloc;

/// To copy worlds is most of the work, and they are made of small pieces.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How often a run says that it goes on.
const PROGRESS_SEEDS: u64 = 10_000;

#[derive(Parser)]
#[command(about = "Plays rollouts against all that can go wrong")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Many schedules, one for each seed.
    Run {
        #[arg(long, default_value_t = 1)]
        first: u64,
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// One schedule, shrunk where it fails, with all that happens.
    Seed { seed: u64 },
    /// Takes rules away, one at a time, and finds a seed that notices.
    Mutants {
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// All that a few events can make of one rollout of a small cluster.
    Exhaustive {
        #[arg(long, default_value_t = 2)]
        crashes: u8,
        /// Without the human act.
        #[arg(long)]
        no_human: bool,
        /// Without the leader's pause.
        #[arg(long)]
        no_pause: bool,
        /// Give up after so many states.
        #[arg(long, default_value_t = 100_000_000)]
        max_states: u64,
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Run {
            first,
            count,
            threads,
        } => run(first, count, threads),
        Verb::Seed { seed } => one(seed),
        Verb::Mutants { threads } => mutants(threads),
        Verb::Exhaustive {
            crashes,
            no_human,
            no_pause,
            max_states,
            threads,
        } => {
            let left = Left {
                crashes,
                human: !no_human,
                pause: !no_pause,
            };
            exhaustively(left, max_states, threads)
        }
    }
}

fn run(first: u64, count: u64, threads: usize) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let total = Mutex::new((Coverage::default(), 0_u64, Vec::<Failure>::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (mut cover, mut steps) = (Coverage::default(), 0);
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    if number > 0 && number.is_multiple_of(PROGRESS_SEEDS) {
                        eprintln!("… {number} schedules");
                    }
                    let outcome = Schedule::of(schedule::seed(first, number)).run(None, false);
                    cover.add(&outcome.cover);
                    steps += u64::from(outcome.steps);
                    if let Some(failure) = outcome.failure {
                        let mut total = total.lock().expect("no thread panics with it");
                        total.2.push(failure);
                        if total.2.len() >= 20 {
                            break;
                        }
                    }
                }
                let mut total = total.lock().expect("no thread panics with it");
                total.0.add(&cover);
                total.1 += steps;
            });
        }
    });
    let (cover, steps, failures) = total.into_inner().expect("no thread panics with it");
    report(&cover);
    println!(
        "{count} schedules, {steps} steps, {:.1} s",
        began.elapsed().as_secs_f64()
    );
    if let Some(failure) = failures.first() {
        let mut by_rule = std::collections::BTreeMap::<_, Vec<u64>>::new();
        for failure in &failures {
            by_rule
                .entry(failure.rule)
                .or_default()
                .push(failure.schedule.seed);
        }
        println!("{} schedules broke a rule: {by_rule:?}", failures.len());
        let shrunk = failure.schedule.shrink(failure.rule, None);
        let again = shrunk.run(None, false).failure;
        println!("{}", again.as_ref().unwrap_or(failure));
        return ExitCode::FAILURE;
    }
    let unknown = ways::unknown(&cover);
    if !unknown.is_empty() {
        println!("on no map: {}", unknown.join(", "));
        return ExitCode::FAILURE;
    }
    let mut missing = cover.missing(&people::all_faults());
    missing.extend(ways::never(&cover));
    if !missing.is_empty() {
        println!("never met: {}", missing.join(", "));
    }
    code(missing.is_empty())
}

fn one(seed: u64) -> ExitCode {
    let schedule = Schedule::of(seed);
    let Some(failure) = schedule.run(None, false).failure else {
        println!("seed {seed} breaks no rule");
        return ExitCode::SUCCESS;
    };
    let shrunk = schedule.shrink(failure.rule, None);
    let again = shrunk.run(None, true).failure.unwrap_or(failure);
    for line in &again.log {
        println!("{line}");
    }
    println!("{again}");
    ExitCode::FAILURE
}

fn mutants(threads: usize) -> ExitCode {
    let next = AtomicUsize::new(0);
    let caught = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, _)) = MUTANTS.get(number) else {
                        break;
                    };
                    if let Some((seed, rule)) = mutant::caught_by(number) {
                        caught.fetch_add(1, Ordering::Relaxed);
                        println!("caught by seed {seed} ({rule}): {name}");
                    } else {
                        println!("NOT CAUGHT by {} seeds: {name}", mutant::MAX_SEEDS);
                    }
                }
            });
        }
    });
    let caught = caught.into_inner();
    println!(
        "{caught} of {} rules that were taken away were caught",
        MUTANTS.len()
    );
    code(caught == MUTANTS.len())
}

fn exhaustively(left: Left, max_states: u64, threads: usize) -> ExitCode {
    let mut whole = true;
    for fates in exhaustive::FATES {
        let began = Instant::now();
        let found = exhaustive::search(left, fates, max_states, threads);
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{fates:?}: {} states, {} events, {} rests, {seconds:.1} s",
            found.states, found.branches, found.rests
        );
        if let Some(broken) = &found.broken {
            println!("{broken}");
        }
        if found.cut_short {
            println!("left before its end: more than {max_states} states");
        }
        whole &= found.broken.is_none() && !found.cut_short;
    }
    code(whole)
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn report(cover: &Coverage) {
    println!("stages: {:?}", cover.stages);
    println!("transitions: {:?}", cover.transitions);
    println!("refusals: {:?}", cover.holds);
    println!("faults: {:?}", cover.faults);
}
