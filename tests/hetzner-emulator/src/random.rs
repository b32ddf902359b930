//! The little randomness that answers need; nothing here is secret.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Hexadecimal text of the wanted length.
pub fn text(chars: usize) -> String {
    let mut text = String::new();
    while text.len() < chars {
        let _ = write!(text, "{:016x}", RandomState::new().build_hasher().finish());
    }
    text.truncate(chars);
    text
}
