//! `#[serde(with = "in_clear")]`: for a secret within a document that is one as a whole, such as a server's user data.

use serde::{Deserialize as _, Deserializer, Serializer};

use super::Secret;

pub fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose_str().unwrap_or_default())
}

pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
    String::deserialize(from).map(|text| Secret::new(text.into_bytes()))
}

/// The same for one that may be missing.
pub mod option {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::secrets::Secret;

    #[allow(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => super::serialize(secret, to),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(text.map(|text| Secret::new(text.into_bytes())))
    }
}
