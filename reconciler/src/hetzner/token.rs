//! The API token, as a type that can't be printed.

use reqwest::header::HeaderValue;
use zeroize::Zeroizing;

use super::HetznerError;
use crate::secrets::Secret;

/// A project's API token. It leaves this type in one place: the header of a request.
#[derive(Debug, Clone)]
pub struct Token(Secret);

impl Token {
    /// White space at the ends is not part of a token.
    pub fn new(text: &str) -> Self {
        Self::from(&Secret::new(text.as_bytes().to_vec()))
    }

    /// Whether Hetzner could have made it: characters that a header may hold, and no blanks.
    pub fn is_well_formed(&self) -> bool {
        let token = self.0.expose();
        !token.is_empty() && token.iter().all(u8::is_ascii_graphic)
    }

    /// The value of `Authorization`, marked so that no library prints it.
    pub(super) fn header(&self) -> Result<HeaderValue, HetznerError> {
        let bearer = Zeroizing::new([b"Bearer ", self.0.expose()].concat());
        let mut value = HeaderValue::from_bytes(&bearer)
            .ok()
            .filter(|_| self.is_well_formed())
            .ok_or_else(|| HetznerError::Setup {
                problem: "the Hetzner token is empty or holds characters that no token has; \
                          put the token of a project (Security → API tokens) into the file \
                          that `hetzner.token` names"
                    .to_owned(),
            })?;
        value.set_sensitive(true);
        Ok(value)
    }

    /// `text` without the token, should somebody have echoed it.
    pub(super) fn redact(&self, text: &str) -> String {
        match self.0.expose_str() {
            Some(token) if !token.is_empty() => text.replace(token, "…"),
            _ => text.to_owned(),
        }
    }
}

/// From a field of a SOPS file. What is no text is no token, and is told when it is first used.
impl From<&Secret> for Token {
    fn from(secret: &Secret) -> Self {
        Self(secret.trimmed())
    }
}
