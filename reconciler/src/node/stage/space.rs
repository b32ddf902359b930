//! Is there room in the store for what is to be fetched?

use std::path::Path;
use std::process::Command;

use crate::node::boot::space::free_bytes;
use crate::node::{AgentConfig, NodeError};

/// Left free beside the system itself: logs, images and databases live on the same disk.
const SPARE_BYTES: u64 = 512 * 1024 * 1024;

/// `said` is what `nix build --dry-run` said of the system.
pub fn check(config: &AgentConfig, said: &str) -> Result<(), NodeError> {
    let store = config.on_machine("/nix/store");
    let path = config.nix.store.as_ref().map(|s| s.join("nix/store"));
    let path = path.unwrap_or(store);
    let df = config.programs().find("df");
    let failed = |reason: String| NodeError::Program {
        program: format!("{} -Pk {}", df.display(), path.display()),
        reason,
    };
    let output = Command::new(&df)
        .arg("-Pk")
        .arg(&path)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    let table = String::from_utf8_lossy(&output.stdout);
    let free = free_bytes(&table)
        .ok_or_else(|| failed(format!("this is no table of file systems: {table}")))?;
    enough(&path, free, unpacked_bytes(said))
}

fn enough(path: &Path, free: u64, needed: u64) -> Result<(), NodeError> {
    if needed == 0 || free >= needed.saturating_add(SPARE_BYTES) {
        return Ok(());
    }
    Err(NodeError::Program {
        program: format!("fetching to {}", path.display()),
        reason: format!(
            "{} MiB are free, and the new system needs {} MiB beside the {} MiB that are left for others: collect \
             garbage (nix-collect-garbage --delete-older-than 30d), or make the disk larger",
            free >> 20,
            needed >> 20,
            SPARE_BYTES >> 20
        ),
    })
}

/// "these 2 paths will be fetched (0.10 MiB download, 3.52 MiB unpacked):"; nothing said is nothing fetched.
fn unpacked_bytes(said: &str) -> u64 {
    let sizes = said.lines().filter_map(|line| {
        let (_, sizes) = line.split_once("will be fetched (")?;
        let (sizes, _) = sizes.split_once(" unpacked)")?;
        let (_, unpacked) = sizes.split_once(", ")?;
        let (number, unit) = unpacked.split_once(' ')?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return None,
        };
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        let whole: u64 = whole.parse().ok()?;
        // A part is rounded up.
        let part = u64::from(!tenths.trim_matches('0').is_empty());
        whole.checked_add(part)?.checked_shl(shift)
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nix_says_it_will_fetch_is_read_with_its_unit() {
        let said = "these 2 paths will be fetched (0.10 MiB download, 3.52 MiB unpacked):\n  /nix/store/a\n";
        assert_eq!(unpacked_bytes(said), 4 << 20);
        let one = "this path will be fetched (1.0 GiB download, 2.00 GiB unpacked):\n";
        assert_eq!(unpacked_bytes(one), 2 << 30);
        assert_eq!(unpacked_bytes(""), 0);
        assert_eq!(unpacked_bytes("error: no such thing"), 0);
    }

    #[test]
    fn a_disk_that_would_be_full_is_left_alone() {
        let path = Path::new("/nix/store");
        assert!(enough(path, SPARE_BYTES + 10, 10).is_ok());
        assert!(enough(path, 0, 0).is_ok(), "nothing is to be fetched");
        let error = enough(path, SPARE_BYTES, 3 << 20).unwrap_err().to_string();
        assert!(
            error.contains("512 MiB are free, and the new system needs 3 MiB"),
            "{error}"
        );
    }
}
