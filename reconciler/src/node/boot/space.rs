//! Is there room on /boot for one more kernel and initrd?

use std::path::Path;

use super::BootError;

/// Kept free beside the files themselves: menus and entries, their temporary files, initrd secrets, clusters half used.
pub const SPARE_BYTES: u64 = 4 * 1024 * 1024;

const BYTES_PER_BLOCK: u64 = 1024;

/// What `df -Pk` says is available, in bytes.
pub fn free_bytes(df: &str) -> Option<u64> {
    let blocks: u64 = df
        .lines()
        .last()?
        .split_ascii_whitespace()
        .nth(3)?
        .parse()
        .ok()?;
    blocks.checked_mul(BYTES_PER_BLOCK)
}

/// `missing` are the sizes of the files that the installation will copy.
pub fn check(path: &Path, free_bytes: u64, missing: &[u64]) -> Result<(), BootError> {
    let needed_bytes = missing
        .iter()
        .fold(SPARE_BYTES, |sum, size| sum.saturating_add(*size));
    if free_bytes >= needed_bytes {
        Ok(())
    } else {
        Err(BootError::NoSpace {
            path: path.to_owned(),
            free_bytes,
            needed_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn df_is_read_by_its_columns() {
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 523248 73 523175 1% /boot\n";
        assert_eq!(free_bytes(df), Some(523_175 * 1024));
        assert_eq!(free_bytes(""), None);
        assert_eq!(
            free_bytes("Filesystem 1024-blocks Used Available Capacity Mounted on\n"),
            None
        );
    }

    #[test]
    fn the_files_must_fit_beside_the_spare_room() {
        let path = Path::new("/boot");
        assert!(check(path, SPARE_BYTES + 30, &[10, 20]).is_ok());
        assert!(check(path, SPARE_BYTES + 29, &[10, 20]).is_err());
        assert!(check(path, u64::MAX, &[u64::MAX, 1]).is_ok());
    }
}
