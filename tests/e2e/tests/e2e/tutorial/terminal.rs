//! A terminal, by `script` of util-linux: what a person sees in it, standard error among the rest, and their answers to
//! what asks them.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Who reads what may be a question waits this long for more of it.
const THINKS: Duration = Duration::from_millis(300);

/// What a person saw, and how the command ended.
#[derive(Debug)]
pub struct Seen {
    pub text: String,
    pub code: Option<i32>,
}

/// Runs a command line in the given environment. `answer` is asked for the answer to a line that may be a question: it ends
/// with a colon and nothing comes after it.
pub fn run(
    mut shell: Command,
    line: &str,
    limit: Duration,
    mut answer: impl FnMut(&str) -> Option<String>,
) -> Result<Seen> {
    let _typed = shell.args([
        "--quiet",
        "--return",
        "--flush",
        "--echo",
        "always",
        "--command",
        line,
        "/dev/null",
    ]);
    let spawned = shell
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = spawned.spawn().context("starting script(1)")?;
    let mut types = child.stdin.take().context("no standard input")?;
    let output = read(&mut child)?;
    let until = Instant::now() + limit;
    let mut text = String::new();
    let mut asked_at = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(bytes) = output.recv_timeout(left) else {
            break;
        };
        text.push_str(&String::from_utf8_lossy(&bytes));
        // Of what is no question more comes at once.
        while let Ok(more) = output.recv_timeout(THINKS) {
            text.push_str(&String::from_utf8_lossy(&more));
        }
        let question = text.rsplit('\n').next().unwrap_or_default();
        if !question.ends_with(": ") || asked_at == Some(text.len()) {
            continue;
        }
        if let Some(answer) = answer(&as_seen(question)) {
            asked_at = Some(text.len());
            writeln!(types, "{answer}")?;
        }
    }
    if Instant::now() >= until {
        child.kill()?;
    }
    let code = child.wait()?.code();
    ensure!(
        Instant::now() < until,
        "`{line}` did not end within {limit:?}:\n{text}"
    );
    let lines = text.split('\n').map(as_seen).collect::<Vec<_>>();
    Ok(Seen {
        text: lines.join("\n"),
        code,
    })
}

fn read(child: &mut Child) -> Result<Receiver<Vec<u8>>> {
    let mut output = child.stdout.take().context("no standard output")?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read) = output.read(&mut buffer) {
            if read == 0 || send.send(buffer[..read].to_vec()).is_err() {
                break;
            }
        }
    });
    Ok(receive)
}

/// What is left of a line when what was written over is gone.
fn as_seen(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let last = line.rsplit('\r').next().unwrap_or_default();
    last.replace("\u{1b}[K", "").trim_end().to_owned()
}
