//! Is there room to build beside etcd, whose log lies on the same disk?

use std::path::Path;

use super::BuildError;

/// Below this nothing is built. A system's own closure is one to two GiB, and etcd may have 2 GiB of its own.
const SPARE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Whether the file system of `store`, which may not be there yet, has room to build.
///
/// # Errors
/// It has not, or can't be asked.
pub fn check(store: &Path) -> Result<(), BuildError> {
    let there = store.ancestors().find(|dir| dir.exists());
    let disk = rustix::fs::statvfs(there.unwrap_or(store))
        .map_err(|error| BuildError::Disk(format!("{}: {error}", store.display())))?;
    enough(store, disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn enough(store: &Path, free: u64) -> Result<(), BuildError> {
    if free >= SPARE_BYTES {
        return Ok(());
    }
    Err(BuildError::NoRoom {
        store: store.to_owned(),
        free_mib: free >> 20,
        spare_mib: SPARE_BYTES >> 20,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_built_on_a_disk_that_is_nearly_full() {
        let store = Path::new("/nix/store");
        assert!(enough(store, SPARE_BYTES).is_ok());
        let said = enough(store, 300 << 20).unwrap_err().to_string();
        assert!(
            said.starts_with("/nix/store of the server that leads has 300 MiB free"),
            "{said}"
        );
    }
}
