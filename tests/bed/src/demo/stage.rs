//! What the chapters of the demo have in common: how they show what is typed and said, and what is done in each of them.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::Bed;

pub const DEADLINE: Duration = Duration::from_secs(90);

const WORKERS: &str = "[pools.workers]\ncount = ";

/// Writes another number of workers. Commits nothing.
pub fn set_count(bed: &Bed, count: u32) -> Result<()> {
    let spec = bed.git().read("cluster.toml")?;
    let (before, after) = spec.split_once(WORKERS).context("no pool of workers")?;
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    let resized = format!("{before}{WORKERS}{count}{after}");
    bed.git().write("cluster.toml", resized)
}

/// Has the leader fetch at once, as a webhook would.
pub fn push(bed: &Bed, message: &str) -> Result<()> {
    command(&format!(
        "git add . && git commit -m '{message}' && git push && fabrik reconcile"
    ));
    bed.git().commit_and_push(message)?;
    fetch(bed)
}

pub fn fetch(bed: &Bed) -> Result<()> {
    let output = bed.fabrik_cmd(&["reconcile"])?.output()?;
    ensure!(
        output.status.success(),
        "it failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

pub fn carried_out(bed: &Bed) -> Result<()> {
    carried_out_within(bed, DEADLINE)
}

pub fn carried_out_within(bed: &Bed, limit: Duration) -> Result<()> {
    let (head, limit) = (bed.git().head()?, format!("{}s", limit.as_secs()));
    fabrik(bed, &["wait", &head, "--timeout", &limit]).map(drop)
}

pub fn fabrik(bed: &Bed, arguments: &[&str]) -> Result<String> {
    let output = bed.fabrik_cmd(arguments)?.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    shown(&format!("fabrik {}", arguments.join(" ")), &text);
    ensure!(
        output.status.success(),
        "it failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

pub fn fabrik_fails(bed: &Bed, arguments: &[&str]) -> Result<()> {
    let output = bed.fabrik_cmd(arguments)?.output()?;
    let text = [output.stdout, output.stderr].concat();
    shown(
        &format!("fabrik {}", arguments.join(" ")),
        &String::from_utf8_lossy(&text),
    );
    ensure!(!output.status.success(), "it should have failed");
    Ok(())
}

pub fn kubectl(bed: &Bed, arguments: &[&str]) -> Result<()> {
    let text = bed.kubectl(arguments)?;
    shown(&format!("kubectl {}", arguments.join(" ")), &text);
    Ok(())
}

pub fn dir(bed: &Bed) -> String {
    bed.git().dir().display().to_string()
}

pub fn shown(line: &str, output: &str) {
    command(line);
    for line in output.lines() {
        println!("    {line}");
    }
}

pub fn title(text: &str) {
    println!("\n{}", styled("1;36", text));
}

pub fn command(text: &str) {
    println!("  {}", styled("1", &format!("$ {text}")));
}

pub fn say(text: &str) {
    println!("  {text}");
}

fn styled(code: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
