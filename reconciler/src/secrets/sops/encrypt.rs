//! Encrypting a new file by the real `sops`: plaintext on its stdin, ciphertext on its stdout, nothing on disk.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::{
    DEADLINE, Outcome, PLAINTEXT_SLACK_BYTES, converse, environment, find_binary, one_line,
    unusable, without_quotes,
};
use crate::secrets::shape::in_the_clear;
use crate::secrets::{Format, Secret, SecretsError};

/// `plaintext` as the file `path` of a repository, encrypted to those whom the `.sops.yaml` in `root` names for it.
///
/// # Errors
/// No rule is for that file, the rule leaves something of it in the clear, or `sops` is missing.
pub async fn encrypt(root: &Path, path: &str, plaintext: &Secret) -> Result<Vec<u8>, SecretsError> {
    let binary = find_binary(None)?;
    let format = Format::of_path(path).as_str();
    let mut command = Command::new(&binary);
    command
        .args(["encrypt", "--input-type", format, "--output-type", format])
        .args(["--filename-override", path])
        .env_clear()
        .envs(environment::of_person())
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = command.spawn().map_err(|error| unusable(&binary, &error))?;
    let max_bytes = 2 * plaintext.expose().len() + PLAINTEXT_SLACK_BYTES;
    let failed = |code, message| SecretsError::NotEncrypted {
        path: path.to_owned(),
        code,
        message,
    };
    match tokio::time::timeout(DEADLINE, converse(child, plaintext.expose(), max_bytes)).await {
        Ok(Ok(Outcome {
            status,
            plaintext: Some(ciphertext),
            ..
        })) if status.success() => match in_the_clear(path, ciphertext.expose()) {
            problems if problems.is_empty() => Ok(ciphertext.expose().to_vec()),
            problems => {
                let path = path.to_owned();
                Err(SecretsError::LeftClear { path, problems })
            }
        },
        Ok(Ok(outcome)) => {
            let said = without_quotes(&one_line(&outcome.stderr), plaintext.expose());
            Err(failed(outcome.status.code().unwrap_or(-1), said))
        }
        Ok(Err(error)) => Err(unusable(&binary, &error)),
        Err(_elapsed) => Err(failed(
            -1,
            format!("it did not end within {} s", DEADLINE.as_secs()),
        )),
    }
}
