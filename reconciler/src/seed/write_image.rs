//! An image onto the disk of the temporary server, through its rescue system: streamed, read back, compared. Nothing here is
//! secret.

use std::fs::File;
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::SeedError;
use super::error::last_line;
use super::image::{Disk, DiskFile};
use super::progress::{Task, far};
use super::ssh::{Ssh, heard};

/// Hetzner's rescue system has zstd (hcloud-upload-image writes images with it).
const WRITE: &str = "zstd -dc | dd of=/dev/sda bs=4M conv=fsync";
/// What is read back may be many gigabytes, on a slow disk.
const READ_BACK_LIMIT: Duration = Duration::from_secs(3600);
const CHUNK_BYTES: usize = 256 * 1024;

/// Writes a disk, and returns when the same bytes were read back.
///
/// # Errors
/// The connection broke, the rescue system could not write, or what it read back is something else.
pub async fn write_image(ssh: &Ssh, disk: &Disk, file: &DiskFile) -> Result<(), SeedError> {
    let task = Task::begin(format!("wrote the image of {}", disk.image.pool));
    stream(ssh, file, &task).await?;
    task.end()?;
    let task = Task::begin("read it back, the same");
    let line = format!("head -c {} /dev/sda | sha256sum", disk.bytes);
    let output = ssh.run_within(READ_BACK_LIMIT, &line).await?;
    let output = output.map_err(|failure| ssh.error(&failure, AGAIN))?;
    let told = ssh.expect_success(&line, output)?;
    let told = String::from_utf8_lossy(&told);
    let found = told.split_whitespace().next().unwrap_or_default();
    if found != file.sha256 {
        return Err(SeedError::Corrupted {
            wanted: file.sha256.clone(),
            found: last_line(found.as_bytes()),
        });
    }
    task.end()?;
    Ok(())
}

const AGAIN: &str = "Repeat this: it begins again with the image";

async fn stream(ssh: &Ssh, disk: &DiskFile, task: &Task) -> Result<(), SeedError> {
    let file = File::open(&disk.file).map_err(SeedError::file(&disk.file))?;
    let file = tokio::fs::File::from_std(file);
    let mut remote = ssh.command(WRITE);
    let mut zstd = None;
    if disk.is_compressed {
        remote.stdin(Stdio::piped());
    } else {
        let mut compressor = compressor()?;
        let stdout = compressor.stdout.take();
        let stdout = stdout.ok_or_else(|| io::Error::other("zstd has no standard output"))?;
        let stdout: Stdio = stdout.try_into()?;
        remote.stdin(stdout);
        zstd = Some(compressor);
    }
    let mut child = remote.spawn().map_err(SeedError::missing("ssh"))?;
    // It holds the other end of the pipe, which has to end when `zstd` does.
    drop(remote);
    let sink = match &mut zstd {
        Some(zstd) => zstd.stdin.take(),
        None => child.stdin.take(),
    };
    let sink = sink.ok_or_else(|| io::Error::other("a child has no standard input"))?;
    let all = disk.bytes;
    let began = Instant::now();
    let copied = copy(file, sink, |done| {
        task.note(far(done, all, began.elapsed()));
    })
    .await;
    let output = child.wait_with_output().await?;
    if let Some(mut zstd) = zstd {
        zstd.wait().await?;
    }
    // What ends the pipe early says why; that it broke does not.
    let output = heard(output).map_err(|failure| ssh.error(&failure, AGAIN))?;
    ssh.expect_success(WRITE, output)?;
    copied.map_err(SeedError::file(&disk.file))
}

fn compressor() -> Result<Child, SeedError> {
    let mut zstd = Command::new("zstd");
    zstd.args(["-q", "-c", "-T0", "-3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    zstd.spawn().map_err(SeedError::missing("zstd"))
}

/// Copies all of it, and ends the sink.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut note: impl FnMut(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut done: u64 = 0;
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default())
            .await?;
        done = done.saturating_add(count as u64);
        note(done);
    }
}
