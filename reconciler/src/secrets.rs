//! Secrets: SOPS files opened by the real `sops`, and the keys that founding makes.
//!
//! Plaintext lives in memory only, in [`Secret`]s. Nothing here logs, and no error quotes what a file holds: an error
//! names the file, the key path and the remedy. A file counts as opened only when its MAC was verified.

mod check;
mod creation_rules;
mod error;
mod field;
mod format;
pub mod founding_keys;
pub mod in_clear;
mod secret;
mod shape;
mod sops;

pub use check::{Check, Verdict, age_key_place, check, decrypt_file, users_age_key_file};
pub use creation_rules::{RULES_FILE, closed_to_some, plaintext_violations};
pub use error::SecretsError;
pub use field::field;
pub use format::Format;
pub use secret::Secret;
pub use shape::{Shape, SopsFile, is_clear, shape};
pub use sops::{Sops, SopsConfig, encrypt, well_formed};

#[cfg(test)]
mod tests;
