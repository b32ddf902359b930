//! `bed bench`: how fast and how big fabrik is, measured on a bed with real parts. Measures, and judges nothing.

mod process;
pub mod rollout;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use crate::fabrik::binary;
use crate::{Bed, Options};

/// How often each figure is taken.
const ROUNDS: usize = 7;
/// How long fabrik is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(60);

/// Prints a table in Markdown.
pub async fn run() -> Result<()> {
    let bed = Bed::start(Options {
        fabrik: true,
        webhooks: true,
        poll: Duration::from_secs(15),
        ..Options::default()
    })
    .await?;
    eprintln!("Measuring pushes …");
    bed.default_repo(1)?;
    applied(&bed)?;
    let pushes = pushes(&bed).await?;
    eprintln!("Measuring starts …");
    let observed = format!("http://{}/observed", listen(&bed));
    let dir = bed.git().dir().display().to_string();
    let plans = runs(&bed, &["plan", &dir, "--observed", &observed])?;
    let validations = runs(&bed, &["validate", &dir])?;
    let starts = starts(&bed).await?;
    eprintln!("Measuring memory …");
    tokio::time::sleep(IDLE).await;
    let memory = process::kib(bed.fabrik(0).pid().context("fabrik runs")?, "VmRSS")?;
    let size = std::fs::metadata(binary()?)?.len();

    println!("| what | figure |\n|---|---|");
    println!(
        "| `git push` begins → first effect at Hetzner (webhook) | {} |",
        spread(&pushes)
    );
    println!(
        "| `fabrik plan` starts → plan printed | {} |",
        spread(&plans)
    );
    println!(
        "| `fabrik validate` starts → ends | {} |",
        spread(&validations)
    );
    println!(
        "| `fabrik run` starts → leads and has finished its first pass | {} |",
        spread(&starts)
    );
    println!(
        "| `fabrik run`, resident after {} s idle | {:.1} MiB |",
        IDLE.as_secs(),
        mebi(memory * 1024)
    );
    println!("| binary | {:.1} MB |", f64_of(size) / 1e6);
    bed.shutdown().await;
    Ok(())
}

/// From the start of a push that grows the pool to the first write that the emulator saw.
async fn pushes(bed: &Bed) -> Result<Vec<Duration>> {
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        let before = last_request(bed).await?;
        let spec = bed.git().read("cluster.toml")?;
        let next = spec.replace(
            &format!("count = {}", round + 1),
            &format!("count = {}", round + 2),
        );
        ensure!(spec != next, "the pool's count is not where it was");
        bed.git().write("cluster.toml", &next)?;
        bed.git().commit(&format!("Have {} workers", round + 2))?;
        let began = Timestamp::now();
        bed.git().push()?;
        let first = bed
            .wait_until("the first effect of the push", DEADLINE, async || {
                first_write(bed, before).await
            })
            .await?;
        taken.push(Duration::try_from(first.duration_since(began)).unwrap_or_default());
        applied(bed)?;
    }
    Ok(taken)
}

/// Whole runs of the command line.
fn runs(bed: &Bed, arguments: &[&str]) -> Result<Vec<Duration>> {
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let output = bed.fabrik_cmd(arguments)?.output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        taken.push(began.elapsed());
    }
    Ok(taken)
}

/// Stopped in order before, so that no time is spent on waiting for another's lease.
async fn starts(bed: &Bed) -> Result<Vec<Duration>> {
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        bed.fabrik(0).stop();
        let began = Instant::now();
        bed.fabrik(0).start()?;
        let metrics = format!("http://{}/metrics", listen(bed));
        while !has_passed(&metrics).await {
            ensure!(began.elapsed() < DEADLINE, "fabrik did not finish a pass");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        taken.push(began.elapsed());
    }
    Ok(taken)
}

async fn has_passed(metrics: &str) -> bool {
    let Ok(answer) = reqwest::get(metrics).await else {
        return false;
    };
    let Ok(text) = answer.text().await else {
        return false;
    };
    text.lines().any(|l| {
        l.starts_with("fabrik_reconcile_total") && l.contains("success") && !l.ends_with(" 0")
    })
}

fn applied(bed: &Bed) -> Result<()> {
    let head = bed.git().head()?;
    let output = bed
        .fabrik_cmd(&["wait", &head, "--timeout", "60s"])?
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

async fn requests(bed: &Bed, since: u64) -> Result<Value> {
    let url = format!("{}/_emulator/requests?since={since}", bed.emulator_url());
    Ok(reqwest::get(url).await?.json().await?)
}

async fn last_request(bed: &Bed) -> Result<u64> {
    requests(bed, 0).await?["last"]
        .as_u64()
        .context("the journal has a last entry")
}

async fn first_write(bed: &Bed, since: u64) -> Result<Option<Timestamp>> {
    let journal = requests(bed, since).await?;
    let entries = journal["requests"]
        .as_array()
        .context("the journal has entries")?;
    let write = entries.iter().find(|e| e["method"] == "POST");
    write
        .map(|e| Ok(e["time"].as_str().context("an entry has a time")?.parse()?))
        .transpose()
}

fn spread(taken: &[Duration]) -> String {
    let mut sorted = taken.to_vec();
    sorted.sort();
    let ms = |d: Option<&Duration>| d.map_or(0, Duration::as_millis);
    let (least, most) = (ms(sorted.first()), ms(sorted.last()));
    format!(
        "{} ms (median of {}; {least} to {most})",
        ms(sorted.get(sorted.len() / 2)),
        sorted.len()
    )
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn f64_of(n: u64) -> f64 {
    n as f64
}

fn mebi(bytes: u64) -> f64 {
    f64_of(bytes) / f64_of(1 << 20)
}

/// Where fabrik on the first server serves.
fn listen(bed: &Bed) -> String {
    format!("{}:9640", bed.control_plane(0).address())
}
