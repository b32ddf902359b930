//! Whom a key file is for.

use std::path::Path;

use super::key_file;
use crate::secrets::{Secret, SecretsError};

/// The public halves of the identities in a key file.
pub struct Recipients {
    pub known: Vec<String>,
    /// There are identities that we can't compute the recipient of.
    pub incomplete: bool,
}

impl Recipients {
    pub fn of_key_file(path: &Path) -> Result<Self, SecretsError> {
        let content = Secret::new(std::fs::read(path).map_err(|error| key_file(path, &error))?);
        let text = content.expose_str().unwrap_or_default();
        let mut recipients = Self {
            known: Vec::new(),
            incomplete: false,
        };
        for line in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.starts_with('#'))
        {
            match line.parse::<age::x25519::Identity>() {
                Ok(identity) => recipients.known.push(identity.to_public().to_string()),
                Err(_) => recipients.incomplete |= line.starts_with("AGE-"),
            }
        }
        if recipients.known.is_empty() && !recipients.incomplete {
            return Err(SecretsError::KeyFileInvalid {
                path: path.to_owned(),
            });
        }
        Ok(recipients)
    }

    /// Whether a file with these recipients is surely for us.
    pub fn are_among(&self, recipients: &[String]) -> bool {
        self.known.iter().any(|known| recipients.contains(known))
    }
}
