//! `fabrik-sim run`, `seed` and `mutants`: plays schedules and says what broke.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use fabrik_sim::coverage::Coverage;
use fabrik_sim::exhaustive::{self, Left};
use fabrik_sim::mutant::{self, MUTANTS};
use fabrik_sim::people;
use fabrik_sim::schedule::{Failure, Schedule};
use fabrik_sim::systems::Fate;
use fabrik_sim::ways;

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
    Mutants,
    /// Each placement of a few events in one rollout of a small cluster.
    Exhaustive {
        #[arg(long, default_value_t = 2)]
        crashes: u8,
        /// Give up after so many states.
        #[arg(long, default_value_t = 20_000_000)]
        max_states: u64,
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
        Verb::Mutants => mutants(),
        Verb::Exhaustive {
            crashes,
            max_states,
        } => exhaustively(crashes, max_states),
    }
}

fn run(first: u64, count: u64, threads: usize) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let total = Mutex::new((Coverage::default(), 0_u64, Vec::<Failure>::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (mut cover, mut steps) = (Coverage::default(), 0);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    let outcome = Schedule::of(seed).run(None, false);
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
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
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

fn mutants() -> ExitCode {
    let mut missed = 0;
    for (number, (name, _)) in MUTANTS.iter().enumerate() {
        if let Some((seed, rule)) = mutant::caught_by(number) {
            println!("caught by seed {seed} ({rule}): {name}");
        } else {
            missed += 1;
            println!("NOT CAUGHT by {} seeds: {name}", mutant::MAX_SEEDS);
        }
    }
    println!("{} of {} caught", MUTANTS.len() - missed, MUTANTS.len());
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn exhaustively(crashes: u8, max_states: u64) -> ExitCode {
    let mut whole = true;
    for fate in [Fate::Well, Fate::Panics, Fate::Sick] {
        let began = Instant::now();
        let left = Left {
            crashes,
            human: true,
            pause: true,
        };
        let found = exhaustive::search(left, fate, max_states);
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{fate:?}: {} states, {} branches, {seconds:.1} s",
            found.states, found.branches
        );
        if let Some(broken) = &found.broken {
            println!("{broken}");
        }
        if found.cut_short {
            println!("left before its end: more than {max_states} states");
        }
        whole &= found.broken.is_none() && !found.cut_short;
    }
    if whole {
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
