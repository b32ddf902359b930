//! The type that all secret bytes have.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// Secret bytes. They are overwritten when the last clone is dropped, and nothing prints or serializes them: who needs
/// them says [`expose`](Secret::expose), which is easy to search for.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// The bytes themselves. Never into a log, an error, an argument or an environment.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text; `None` when they are not UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Without white space at both ends: what a file with one secret word means.
    #[must_use]
    pub fn trimmed(&self) -> Self {
        Self::new(self.0.trim_ascii().to_vec())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_not_even_the_length() {
        let secret = Secret::new(b" hunter2\n".to_vec());
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(format!("{:#?}", Some(&secret)), "Some(\n    Secret(…),\n)");
        assert_eq!(secret.trimmed().expose_str(), Some("hunter2"));
    }
}
