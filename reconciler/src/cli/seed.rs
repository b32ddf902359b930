//! `fabrik seed`: from a repository that was pushed to a cluster that follows it.

use std::process::{self, ExitCode};
use std::{io, thread};

use fabrik_core::destroy::Asked;
use tokio::runtime;

use super::Failure;
use super::destroy::{Wish, clear_away, settle};
use super::project::ProjectOptions;
use super::validate::print_faults;
use crate::seed::{self, Ending, SeedOptions, State};

/// Something has to be done elsewhere before the same command goes on. 2 is wrong usage, of every verb.
const REPEAT: u8 = 3;

/// As shells say it of a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;

pub async fn run(options: SeedOptions) -> Result<ExitCode, Failure> {
    if options.undo {
        return undo(options).await;
    }
    say_when_interrupted()?;
    Ok(match Box::pin(seed::seed(options)).await? {
        Ending::Done => ExitCode::SUCCESS,
        Ending::Refused(faults) => {
            print_faults(&faults);
            ExitCode::FAILURE
        }
        Ending::Wrong => {
            eprintln!("Mend what is wrong, and repeat this.");
            ExitCode::FAILURE
        }
        Ending::WaitsForKey => ExitCode::from(REPEAT),
    })
}

/// A server that was bought goes on to cost. By a thread of its own: others may wait for an answer that is being typed.
fn say_when_interrupted() -> io::Result<()> {
    let signals = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::spawn(move || {
        if signals.block_on(tokio::signal::ctrl_c()).is_ok() {
            eprintln!(
                "\ninterrupted. What was made so far stays, and a server costs: the same command goes on with it, `fabrik seed --undo` \
                 removes it"
            );
            process::exit(INTERRUPTED);
        }
    });
    Ok(())
}

/// Volumes and what is protected stay: a seed makes none of these.
async fn undo(options: SeedOptions) -> Result<ExitCode, Failure> {
    let project = ProjectOptions {
        dir: options.dir.clone(),
        token_file: None,
        age_key_file: options.age_key_file.clone(),
        hetzner_endpoint: options.hetzner_endpoint.clone(),
    };
    let (_, spec) = project.spec()?;
    let state = seed::begun(&options, &spec.name)?;
    let must_be_there = state.as_ref().and_then(State::at_hetzner);
    if spec.hetzner.is_none() && must_be_there.is_none() {
        seed::forget(&spec, state, options.yes.as_deref())?;
        return Ok(ExitCode::SUCCESS);
    }
    let project = project.open().await?;
    let of_seed = || {
        state
            .as_ref()
            .map(State::kubeconfig)
            .filter(|path| path.exists())
    };
    let wish = Wish {
        must_be_there,
        cluster_id: state.as_ref().map(|state| state.record.cluster_id.clone()),
        kubeconfig: options.kubeconfig.or_else(of_seed),
        asked: Asked {
            snapshots: true,
            ..Asked::default()
        },
        is_stopped: false,
        yes: options.yes,
    };
    let left = clear_away(project, wish).await?;
    settle(state, &left)?;
    Ok(ExitCode::SUCCESS)
}
