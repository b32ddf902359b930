//! Which image a new server boots.

use crate::hold::{Hold, HoldReason};
use crate::id::PoolName;
use crate::ladder;
use crate::names::{IMAGE_LABEL, SERVERS_POOL};
use crate::observed::{Image, Observed};
use crate::spec::Pool;

/// The image that the specification names; else the newest snapshot that was made for the pool, or, where there is none,
/// for the servers. One that the pool's types can't boot is none, nor is one whose k3s may not join the servers'.
///
/// # Errors
/// No snapshot does.
pub fn of(name: &PoolName, pool: &Pool, observed: &Observed) -> Result<String, Hold> {
    if let Some(image) = &pool.image {
        return Ok(image.clone());
    }
    let architecture = architecture(pool);
    let newest = |of: &str, fits: &dyn Fn(&Image) -> bool| {
        let images = observed.hetzner.images.iter();
        let images = images.filter(|i| i.pool.as_str() == of && i.architecture == architecture);
        images.filter(|i| fits(i)).max_by_key(|i| (i.created, i.id))
    };
    let of_pool = |fits: &dyn Fn(&Image) -> bool| {
        newest(name.as_str(), fits).or_else(|| newest(SERVERS_POOL, fits))
    };
    let running = ladder::oldest_server(observed);
    if let Some(image) = of_pool(&|image| may_join(image, name, running)) {
        return Ok(image.id.to_string());
    }
    let message = match (of_pool(&|_| true), running) {
        (
            Some(Image {
                id,
                k3s: Some(minor),
                ..
            }),
            Some(running),
        ) => format!(
            "waits for an image: the newest snapshot, {id}, has k3s 1.{minor}, and the servers run 1.{running}. `fabrik seed \
             --image-only` makes one of the commit that is checked out"
        ),
        _ => none_at_all(name, architecture),
    };
    Err(Hold {
        about: format!("pool {name}"),
        reason: HoldReason::NoImage,
        message,
    })
}

fn none_at_all(name: &PoolName, architecture: &str) -> String {
    let of_servers = format!(" or {IMAGE_LABEL}={SERVERS_POOL}");
    let of_servers = (name.as_str() != SERVERS_POOL).then_some(of_servers);
    format!(
        "waits for an image: no snapshot for {architecture} at Hetzner has this cluster's label and {IMAGE_LABEL}={name}{}. \
         `fabrik seed --image-only --image FILE` makes one",
        of_servers.unwrap_or_default()
    )
}

/// S4, as far as a snapshot's label and a Node say it: a server that joins is of one minor with the others, and a kubelet no
/// newer than they are.
fn may_join(image: &Image, name: &PoolName, running: Option<u32>) -> bool {
    let (Some(minor), Some(running)) = (image.k3s, running) else {
        return true;
    };
    if name.as_str() == SERVERS_POOL {
        minor == running
    } else {
        ladder::kubelet_may_join(minor, running)
    }
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_server_is_of_the_servers_minor_and_a_worker_of_none_that_is_newer_or_too_old() {
        let image = |k3s| Image {
            id: 1,
            pool: PoolName::servers(),
            architecture: "x86".to_owned(),
            created: Timestamp::UNIX_EPOCH,
            k3s,
        };
        let workers = "workers".parse().unwrap();
        for (on_it, as_server, as_worker) in [
            (None, true, true),
            (Some(37), false, false),
            (Some(36), true, true),
            (Some(35), false, true),
            (Some(33), false, true),
            (Some(32), false, false),
        ] {
            let joins = |pool: &PoolName| may_join(&image(on_it), pool, Some(36));
            let found = (joins(&PoolName::servers()), joins(&workers));
            assert_eq!(found, (as_server, as_worker), "{on_it:?}");
            assert!(may_join(&image(on_it), &workers, None));
        }
    }
}
