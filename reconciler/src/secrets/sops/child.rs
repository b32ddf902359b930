//! A talk with one `sops`: the file goes in, plaintext comes out, and neither touches the disk.

use std::process::ExitStatus;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;

use crate::secrets::Secret;

const MAX_STDERR_BYTES: u64 = 16 * 1024;

/// What a child left. No plaintext where there was too much of it.
pub struct Outcome {
    pub status: ExitStatus,
    pub plaintext: Option<Secret>,
    pub stderr: String,
}

/// Writes the file to the child, and reads what it says.
pub async fn converse(
    mut child: Child,
    ciphertext: &[u8],
    max_bytes: usize,
) -> std::io::Result<Outcome> {
    let missing = || std::io::Error::other("its pipes are missing");
    let mut stdin = child.stdin.take().ok_or_else(missing)?;
    let stdout = child.stdout.take().ok_or_else(missing)?;
    let stderr = child.stderr.take().ok_or_else(missing)?;
    let write = async {
        // A child that does not want it all says why on stderr.
        stdin.write_all(ciphertext).await.ok();
        drop(stdin);
    };
    let listen = async {
        let mut text = Vec::new();
        stderr
            .take(MAX_STDERR_BYTES)
            .read_to_end(&mut text)
            .await
            .ok();
        String::from_utf8_lossy(&text).into_owned()
    };
    let ((), plaintext, stderr) = tokio::join!(write, read_secret(stdout, max_bytes), listen);
    let plaintext = plaintext?;
    let status = child.wait().await?;
    Ok(Outcome {
        status,
        plaintext,
        stderr,
    })
}

/// Reads into a buffer that never moves, because a moved one leaves its bytes behind in memory.
async fn read_secret(
    mut stdout: impl AsyncRead + Unpin,
    max_bytes: usize,
) -> std::io::Result<Option<Secret>> {
    let mut bytes = zeroize::Zeroizing::new(Vec::with_capacity(max_bytes));
    loop {
        if bytes.len() == bytes.capacity() {
            return Ok(None);
        }
        if stdout.read_buf(&mut *bytes).await? == 0 {
            return Ok(Some(Secret::new(std::mem::take(&mut *bytes))));
        }
    }
}
