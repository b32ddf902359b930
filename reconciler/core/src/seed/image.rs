//! Images: which snapshot is missing, and how far the temporary server has come with it. Old snapshots go when the new one
//! is there.

use std::cmp::Reverse;

use super::{
    Image, ImageServer, Observed, Rescue, SNAPSHOTS_KEPT, Snapshot, SnapshotState, Step, Wanted,
};
use crate::id::PoolName;
use crate::observed::Power;

/// The next step until each wanted image is the newest snapshot of its pool, the temporary server is gone, and what is older
/// than the last two snapshots as well.
pub fn next(wanted: &Wanted, seen: &Observed) -> Option<Step> {
    // It holds its server, whatever is to be done with that.
    let making = seen
        .snapshots
        .iter()
        .find(|s| s.state == SnapshotState::Creating);
    if let Some(snapshot) = making {
        return Some(Step::AwaitSnapshot {
            snapshot: snapshot.id,
        });
    }
    let missing = wanted.images.iter().find(|i| !is_current(i, seen));
    match (missing, &seen.image_server) {
        (Some(image), None) => Some(Step::CreateImageServer {
            image: image.clone(),
        }),
        (Some(image), Some(server)) => Some(towards(image, server)),
        (None, Some(server)) => Some(delete(server)),
        (None, None) => superfluous(wanted, seen),
    }
}

/// The snapshot that a server is made of: the newest one of the servers' pool.
pub fn of_servers(wanted: &Wanted, seen: &Observed) -> Option<u64> {
    let servers = PoolName::servers();
    let newest = newest_first(&servers, seen).into_iter().next()?;
    let image = wanted.images.iter().find(|i| i.pool == servers);
    let is_wanted = image.is_none_or(|i| i.digest.as_str() == newest.digest);
    is_wanted.then_some(newest.id)
}

/// Whether new servers of the pool would have that image: Hetzner is asked for the newest.
fn is_current(image: &Image, seen: &Observed) -> bool {
    let newest = newest_first(&image.pool, seen).into_iter().next();
    newest.is_some_and(|s| s.digest == image.digest.as_str())
}

fn newest_first<'a>(pool: &PoolName, seen: &'a Observed) -> Vec<&'a Snapshot> {
    let whole = |s: &&Snapshot| s.pool == *pool && s.state == SnapshotState::Available;
    let mut snapshots: Vec<_> = seen.snapshots.iter().filter(whole).collect();
    snapshots.sort_by_key(|s| Reverse((s.created, s.id)));
    snapshots
}

fn towards(image: &Image, server: &ImageServer) -> Step {
    let id = server.id;
    if server.power == Power::Changing {
        return Step::AwaitServer { server: id };
    }
    if server.rescue == Rescue::Silent || server.architecture != Some(image.architecture) {
        return delete(server);
    }
    let is_written = server.written.as_deref() == Some(image.digest.as_str());
    match (server.power, server.rescue) {
        (Power::Running, _) if is_written => Step::PowerOff { server: id },
        // Cut off while it is overwritten, the disk holds neither.
        (Power::Running, _) if server.written.is_some() => Step::ForgetWritten { server: id },
        (Power::Running, _) => Step::WriteImage {
            server: id,
            image: image.clone(),
        },
        _ if is_written => Step::TakeSnapshot {
            server: id,
            image: image.clone(),
        },
        (_, Rescue::Armed) => Step::PowerOn { server: id },
        _ => Step::EnableRescue { server: id },
    }
}

/// Hetzner deletes a server that runs, and none while something is done with it.
fn delete(server: &ImageServer) -> Step {
    let id = server.id;
    match server.power {
        Power::Changing => Step::AwaitServer { server: id },
        _ => Step::DeleteImageServer { server: id },
    }
}

/// What nobody needs of the images that are looked after here. What is protected is a person's to delete.
fn superfluous(wanted: &Wanted, seen: &Observed) -> Option<Step> {
    let pools = wanted.images.iter().map(|i| &i.pool);
    let old = pools.flat_map(|pool| {
        let broken = |s: &&Snapshot| s.pool == *pool && s.state == SnapshotState::Broken;
        let broken = seen.snapshots.iter().filter(broken);
        let whole = newest_first(pool, seen).into_iter().skip(SNAPSHOTS_KEPT);
        broken.chain(whole).collect::<Vec<_>>()
    });
    let mut old = old.filter(|s| !s.protected);
    old.next().map(|s| Step::DeleteSnapshot { snapshot: s.id })
}
