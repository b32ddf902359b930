//! What is right in itself, and has to be known before it is relied on.

use super::Spec;

/// For whoever looks at a specification before it is pushed.
pub fn notes(spec: &Spec) -> Vec<String> {
    let pools = spec.pools.values().flat_map(|pool| &pool.machines);
    let machines: Vec<_> = spec.own_servers.iter().chain(pools).collect();
    let mut notes = Vec::new();
    if spec.ssh_keys.is_empty() && !machines.is_empty() {
        notes.push(
            "[ssh-keys] is empty, so a machine of yours would let nobody in, and `fabrik install` and `fabrik seed` install \
             none. Put your public key there"
                .to_owned(),
        );
    }
    for (name, machine) in machines {
        if !machine.disk.starts_with("/dev/disk/by-") {
            notes.push(format!(
                "machine {name}: `{}` may be another disk after the next boot, and installing wipes it. Name it as \
                 `ls -l /dev/disk/by-id` does there",
                machine.disk
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    #[test]
    fn a_machine_that_lets_nobody_in_or_whose_disk_may_change_is_told() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk";
        let told = |disk: &str, keys: &str| {
            let text = format!(
                "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36\"\n[servers.machines.attic]\n\
                 address = \"10.0.1.20\"\nhost-key = \"{key}\"\ndisk = \"{disk}\"\n[ssh-keys]\n{keys}"
            );
            notes(&parse("cluster.toml", &text).unwrap())
        };
        let mine = "me = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea\"";
        assert_eq!(told("/dev/disk/by-id/nvme-1", mine), [""; 0]);
        let said = told("/dev/sda", "");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("[ssh-keys] is empty"), "{said:?}");
        assert!(
            said[1].starts_with("machine attic: `/dev/sda` may be"),
            "{said:?}"
        );
    }
}
