//! What is right in itself, and has to be known before it is relied on.

use super::Spec;
use super::parse::is_zone;
use crate::window::Window;

/// What crontab(5) takes.
const CRON_FIELDS: usize = 5;

/// For whoever looks at a specification before it is pushed.
pub fn notes(spec: &Spec) -> Vec<String> {
    let pools = spec.pools.values().flat_map(|pool| &pool.machines);
    let machines: Vec<_> = spec.own_servers.iter().chain(pools).collect();
    let examples = spec.firewall.examples().into_iter();
    let mut notes: Vec<_> = examples
        .map(|(key, range)| {
            format!(
                "[firewall] {key}: {range} stands for an example, and nobody comes from there; `fabrik seed` refuses it. Name where \
                 you are"
            )
        })
        .collect();
    if spec.ssh_keys.is_empty() && !machines.is_empty() {
        notes.push(
            "[ssh-keys] is empty, so a machine of yours would let nobody in, and `fabrik install` and `fabrik seed` install \
             none. Put your public key there"
                .to_owned(),
        );
    }
    notes.extend(of_ways_in(spec));
    notes.extend(spec.update.windows.iter().filter_map(of_a_window));
    if spec.hetzner.is_some() && !is_zone(&spec.network.zone) {
        notes.push(format!(
            "[network] zone: `{}` is none of the zones of Hetzner's that this fabrik knows",
            spec.network.zone
        ));
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

/// A sixth field moves all others by one, and an update comes at another time than was meant.
fn of_a_window(window: &Window) -> Option<String> {
    let fields = window.start.split_whitespace().count();
    (fields > CRON_FIELDS).then(|| {
        format!(
            "[update] windows: `{}` has {fields} fields, so its first one is seconds. crontab's five are minute, hour, day of \
             month, month, day of week",
            window.start
        )
    })
}

/// Who will get into servers at Hetzner, where that is nobody. Machines of one's own say more of it themselves.
pub fn of_ways_in(spec: &Spec) -> Vec<String> {
    let mut notes = Vec::new();
    let machines = spec.pools.values().map(|pool| pool.machines.len());
    let has_machines = !spec.own_servers.is_empty() || machines.sum::<usize>() > 0;
    if spec.ssh_keys.is_empty() && !has_machines {
        notes.push(
            "[ssh-keys] is empty, so no node will let anybody in: `fabrik ssh` will be refused. Put your public key there".to_owned(),
        );
    }
    let is_at_hetzner = spec.hetzner.is_some() && spec.own_servers.is_empty();
    if is_at_hetzner && spec.firewall.opens_ssh_to_private_alone() {
        notes.push(format!(
            "[firewall] ssh-from: {} is of private networks alone, and servers at Hetzner see you come from a public address. Put \
             that there",
            spec.firewall.ssh_from.join(", ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    #[test]
    fn who_could_not_get_into_a_server_at_hetzner_is_told() {
        let told = |firewall: &str, keys: &str| {
            let text = format!(
                "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36\"\n[hetzner]\n\
                 token = {{ file = \"t.yaml\", key = \"token\" }}\n[firewall]\n{firewall}\n[ssh-keys]\n{keys}"
            );
            notes(&parse("cluster.toml", &text).unwrap())
        };
        let mine = "me = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea\"";
        assert_eq!(told("[network]\nzone = \"eu-west\"", mine).len(), 1);
        let at_home = "ssh-from = [\"192.168.1.0/24\", \"8.8.8.8/32\"]";
        assert_eq!(told(at_home, mine), [""; 0]);
        assert_eq!(
            told("", mine),
            [""; 0],
            "seeding refuses it in its own words"
        );
        let said = told("ssh-from = [\"192.168.1.0/24\"]", "");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("[ssh-keys] is empty, so no node"),
            "{said:?}"
        );
        assert!(
            said[1].contains("192.168.1.0/24 is of private networks alone"),
            "{said:?}"
        );
        let example =
            "ssh-from = [\"203.0.113.7/32\"]\napi-from = [\"0.0.0.0/0\", \"2001:db8::/32\"]";
        let said = told(example, mine);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("[firewall] ssh-from: 203.0.113.7/32 stands for an example"),
            "{said:?}"
        );
        assert!(
            said[1].starts_with("[firewall] api-from: 2001:db8::/32 stands"),
            "{said:?}"
        );
    }

    #[test]
    fn a_window_that_begins_with_seconds_is_told() {
        let told = |start: &str| {
            let text = format!(
                "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36\"\n[update]\n\
                 windows = [{{ start = \"{start}\", length = \"4h\", zone = \"UTC\" }}]\n"
            );
            notes(&parse("cluster.toml", &text).unwrap())
        };
        let before = told("0 2 * * 6");
        assert_eq!(before, told("@daily"));
        let said = told("0 0 2 * * 6");
        assert_eq!(said.len(), before.len() + 1, "{said:?}");
        let told = said
            .iter()
            .any(|note| note.contains("`0 0 2 * * 6` has 6 fields"));
        assert!(told, "{said:?}");
    }

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
