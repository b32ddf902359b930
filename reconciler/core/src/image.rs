//! Which image a new server boots.

use crate::hold::{Hold, HoldReason};
use crate::id::PoolName;
use crate::names::{IMAGE_LABEL, SERVERS_POOL};
use crate::observed::{Image, Observed};
use crate::spec::Pool;

/// The image that the specification names; else the newest snapshot that was made for the pool, or, where there is none,
/// for the servers. One that the pool's types can't boot is none.
///
/// # Errors
/// No snapshot does.
pub fn of(name: &PoolName, pool: &Pool, observed: &Observed) -> Result<String, Hold> {
    if let Some(image) = &pool.image {
        return Ok(image.clone());
    }
    let architecture = architecture(pool);
    let newest = |of: &str| {
        let images = observed.hetzner.images.iter();
        let fitting = images.filter(|i| i.pool.as_str() == of && i.architecture == architecture);
        fitting.max_by_key(|i: &&Image| (i.created, i.id))
    };
    let image = newest(name.as_str()).or_else(|| newest(SERVERS_POOL));
    let of_servers = format!(" or {IMAGE_LABEL}={SERVERS_POOL}");
    let of_servers = (name.as_str() != SERVERS_POOL).then_some(of_servers);
    image.map(|image| image.id.to_string()).ok_or_else(|| Hold {
        about: format!("pool {name}"),
        reason: HoldReason::NoImage,
        message: format!(
            "waits for an image: no snapshot for {architecture} at Hetzner has this cluster's label and \
             {IMAGE_LABEL}={name}{}. `fabrik seed --image FILE` makes one",
            of_servers.unwrap_or_default()
        ),
    })
}

/// Hetzner's Ampere types are called `cax…`; all others are x86_64 (docs.hetzner.com, "Server types"). A pool has types of
/// one architecture.
fn architecture(pool: &Pool) -> &'static str {
    let is_arm = |server_type: &String| server_type.starts_with("cax");
    if pool.server_types.iter().any(is_arm) {
        "arm"
    } else {
        "x86"
    }
}
