//! A machine in QEMU, watched through its serial console.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::parts::Parts;
use crate::qemu::{Bus, Qemu};
use crate::{Setup, systems};

/// A machine that says nothing new for so long hangs. Emulated, on a machine that does much else.
const DEADLINE: Duration = Duration::from_secs(600);
/// After these words the program on the machine waits for a line from the console.
const PAUSES: [&str; 4] = ["PREPARED", "ONCE", "KEPT", "ABANDONED"];
const JOB_BYTES: u64 = 4096;

/// A machine that is off: its disk, its firmware's variables, and the job for the program on it.
#[derive(Debug, Clone)]
pub struct Hardware {
    pub setup: Setup,
    pub disk: PathBuf,
    pub bus: Bus,
    pub variables: PathBuf,
    /// How many systems there are.
    pub systems: usize,
}

impl Hardware {
    /// Of `disk`, with fresh variables.
    pub fn new(parts: &Parts, setup: Setup, disk: PathBuf, systems: usize) -> Result<Self> {
        let variables = disk.with_extension("variables");
        std::fs::copy(parts.file("usr/share/OVMF/OVMF_VARS.fd")?, &variables)?;
        Ok(Self {
            setup,
            disk,
            bus: Bus::Virtio,
            variables,
            systems,
        })
    }
}

/// A running machine. Dropping it cuts the power.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    monitor: PathBuf,
    lines: Receiver<String>,
    keyboard: ChildStdin,
    /// The machine waits, and writes nothing meanwhile.
    pauses: bool,
    seen: Vec<String>,
}

impl Vm {
    /// Powers on. All writes to the disk are recorded in `log`, when it is named.
    pub fn start(parts: &Parts, hardware: &Hardware, log: Option<&Path>) -> Result<Self> {
        let job = hardware.disk.with_extension("job");
        let systems: Vec<String> = (1..=hardware.systems).map(systems::path).collect();
        let mut file = File::create(&job)?;
        file.write_all(systems.join(" ").as_bytes())?;
        file.set_len(JOB_BYTES)?;
        if let Some(log) = log {
            File::create(log)?;
        }

        let mut qemu = Qemu::new(parts, hardware.disk.with_extension("monitor"))?;
        qemu.disk(&hardware.disk, hardware.bus, log);
        qemu.other_disk("job", &job, "readonly=on,");
        if hardware.setup.is_uefi() {
            qemu.uefi(&hardware.variables)?;
        }
        Self::power_on(qemu)
    }

    pub fn power_on(mut qemu: Qemu<'_>) -> Result<Self> {
        let mut child = qemu
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{:?}", qemu.command))?;
        let console = child.stdout.take().context("QEMU has no output")?;
        let keyboard = child.stdin.take().context("QEMU has no input")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            monitor: qemu.monitor,
            lines,
            keyboard,
            pauses: false,
            seen: Vec::new(),
        })
    }

    /// Waits for the next line that has one of the words, and gives the word. Where the machine pauses then, it goes on when
    /// something else is waited for.
    pub fn wait_for<'a>(&mut self, words: &[&'a str]) -> Result<&'a str> {
        loop {
            let Some(line) = self
                .next_line()
                .with_context(|| format!("waited for {words:?}"))?
            else {
                bail!("powered off before {words:?}:\n{}", self.transcript());
            };
            if let Some(word) = words.iter().find(|word| line.contains(**word)) {
                return Ok(word);
            }
            if line.contains("FAILED") {
                bail!("waited for {words:?}:\n{}", self.transcript());
            }
        }
    }

    /// Nothing when the machine is off.
    fn next_line(&mut self) -> Result<Option<String>> {
        if std::mem::take(&mut self.pauses) {
            self.keyboard.write_all(b"\n")?;
        }
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => {
                self.pauses = PAUSES.contains(&line.as_str());
                self.seen.push(line.clone());
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("nothing new for {DEADLINE:?}:\n{}", self.transcript())
            }
        }
    }

    /// Waits for each in its turn.
    pub fn expect(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            self.wait_for(&[word])?;
        }
        Ok(())
    }

    /// Waits until the machine is off.
    pub fn wait_for_power_off(&mut self) -> Result<()> {
        while self.next_line()?.is_some() {}
        Ok(())
    }

    /// The reset button, as Hetzner's API presses it.
    pub fn reset(&mut self) -> Result<()> {
        let mut monitor = UnixStream::connect(&self.monitor).context("QEMU's monitor")?;
        monitor.write_all(b"system_reset\n")?;
        // Read up to the next prompt: then it is done.
        let mut reader = BufReader::new(monitor);
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains("system_reset") {
            if reader.read_until(b'\n', &mut answer)? == 0 {
                bail!("QEMU's monitor hung up");
            }
        }
        Ok(())
    }

    /// All that the console said, for a person.
    pub fn transcript(&self) -> String {
        self.seen
            .iter()
            .map(|line| format!("  {}\n", line.escape_debug()))
            .collect()
    }

    /// Cuts the power.
    pub fn cut(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
