//! `[pools.NAME.machines.NAME]`: machines that are there already.

use core::net::{IpAddr, Ipv4Addr};
use std::collections::BTreeMap;

use super::super::Machine;
use super::super::cidr::Cidr;
use super::super::reader::{Entry, Table, Text};
use super::network::Checked;
use super::{invalid_name, public_key};
use crate::id::{ClusterName, MachineName, PoolName};

const DEFAULT_PORT: u32 = 22;
/// The value of a label, as which each Node's name is one (kubernetes.io, "Labels and Selectors").
const MAX_NODE_CHARS: usize = 63;
const HOST_KEY: &str = "\"ssh-ed25519 AAAA…\"";
/// Each sshd has one (sshd_config(5), `HostKey`), and ssh is told to take no other.
const HOST_KEY_TYPE: &str = "ssh-ed25519";

/// All machines of a specification: no two of them may be one.
pub struct Machines<'a> {
    cluster: Option<&'a ClusterName>,
    /// What nodes' addresses are in.
    range: Option<Cidr>,
    /// Ranges that no machine's address may be in, and whose they are.
    ranges: Vec<(Cidr, &'static str)>,
    /// What may be there once, and whose it is.
    seen: BTreeMap<(&'static str, String), String>,
}

impl<'a> Machines<'a> {
    pub fn new(
        cluster: Option<&'a ClusterName>,
        network: Option<&Checked>,
        at_hetzner: bool,
    ) -> Self {
        Self {
            cluster,
            range: network.map(Checked::range),
            ranges: network
                .map(|network| network.given_to_others(at_hetzner))
                .unwrap_or_default(),
            seen: BTreeMap::new(),
        }
    }

    /// Those of the table under `entry`, of that pool.
    pub fn read<'t>(
        &mut self,
        table: &Table<'t>,
        entry: &Entry<'t>,
        pool: Option<&PoolName>,
    ) -> Option<BTreeMap<MachineName, Machine>> {
        let object = format!("{} machines", table.object);
        let mut table = table.as_table(entry, &object)?;
        let entries = table.take_all();
        if entries.is_empty() {
            let remedy = "add `[pools.NAME.machines.NAME]`, or remove the pool";
            table.missing("no machine is named", remedy);
            return None;
        }
        let mut machines = Vec::new();
        for entry in entries {
            let name = self.name(&table, &entry.key, pool);
            let object = format!("machine {}", entry.key.value);
            let machine = table
                .as_table(&entry, &object)
                .and_then(|table| self.machine(table));
            machines.push(name.zip(machine));
        }
        table.finish();
        machines.into_iter().collect()
    }

    fn name(
        &mut self,
        table: &Table<'_>,
        key: &Text<'_>,
        pool: Option<&PoolName>,
    ) -> Option<MachineName> {
        let name = match key.value.parse::<MachineName>() {
            Ok(name) => name,
            Err(fault) => {
                invalid_name(table, &key.span, &fault, 30);
                return None;
            }
        };
        self.is_new(table, key, "name", key.value);
        if let (Some(cluster), Some(pool)) = (self.cluster, pool) {
            let node = format!("{cluster}-{pool}-{name}");
            if node.len() > MAX_NODE_CHARS {
                table.fault(
                    &key.span,
                    format!("its Node would be called {node}, which is longer than {MAX_NODE_CHARS} characters"),
                    "use a shorter name for it, or for its pool",
                );
            }
            self.is_new(table, key, "Node", &node);
        }
        Some(name)
    }

    fn machine(&mut self, mut table: Table<'_>) -> Option<Machine> {
        let address = table.required_string("address", "\"192.168.1.20\"");
        let port = table.number("port", 1..=65_535, Some(DEFAULT_PORT));
        let user = user(&mut table);
        let host_key = table.required_string("host-key", HOST_KEY);
        let disk = table.required_string("disk", "\"/dev/disk/by-id/…\"");
        let node_ip = table.string("node-ip");
        if let (Some(address), Some(port)) = (&address, port) {
            is_host(&table, address);
            self.is_new(
                &table,
                address,
                "address",
                &format!("{}:{port}", address.value),
            );
        }
        let host_key = host_key.and_then(|text| {
            let key = host_key_of(&table, &text)?;
            self.is_new(&table, &text, "host key", &key);
            Some(key)
        });
        if let Some(disk) = &disk {
            is_disk(&table, disk);
        }
        let node_ip = self.node_ip(&table, address.as_ref(), node_ip.as_ref());
        table.finish();
        Some(Machine {
            address: address?.value.to_owned(),
            port: u16::try_from(port?).ok()?,
            user: user?,
            host_key: host_key?,
            disk: disk?.value.to_owned(),
            node_ip: node_ip?,
        })
    }

    /// What is reached there is what nodes reach, unless another address is given for these.
    fn node_ip(
        &mut self,
        table: &Table<'_>,
        address: Option<&Text<'_>>,
        given: Option<&Text<'_>>,
    ) -> Option<Ipv4Addr> {
        let text = given.or(address)?;
        let Ok(ip) = text.value.parse::<Ipv4Addr>() else {
            let problem = match given {
                Some(_) => format!("`node-ip`: `{}` is no IPv4 address", text.value),
                None => format!(
                    "`{}` is no IPv4 address that nodes could know it by",
                    text.value
                ),
            };
            let remedy = "add `node-ip = \"…\"`, its IPv4 address among nodes";
            table.fault(&text.span, problem, remedy);
            return None;
        };
        let others = self.ranges.iter().find(|(range, _)| range.holds(ip.into()));
        let outside = self.range.filter(|range| !range.holds(ip.into()));
        let problem = match (others, outside) {
            (Some((range, whose)), _) => Some(format!("{ip} is in {range}, {whose}")),
            // The modules let nobody else in, and k3s waits for an interface with such an address.
            (None, Some(range)) => Some(format!("{ip} is not in {range}, as nodes have to be")),
            (None, None) => None,
        };
        if let Some(problem) = problem {
            let remedy =
                "give it an address in [network] `range` that nobody else gives out, by `node-ip`";
            table.fault(&text.span, problem, remedy);
        }
        self.is_new(table, text, "node-ip", &ip.to_string());
        Some(ip)
    }

    fn is_new(&mut self, table: &Table<'_>, text: &Text<'_>, what: &'static str, value: &str) {
        let whose = table.object.clone();
        let Some(other) = self.seen.insert((what, value.to_owned()), whose) else {
            return;
        };
        let problem = match what {
            "name" | "Node" => format!("there are two machines of the {what} `{value}`"),
            _ => format!("has the {what} of {other}"),
        };
        table.fault(
            &text.span,
            problem,
            "no two machines are one: change one of them",
        );
    }
}

fn user(table: &mut Table<'_>) -> Option<String> {
    let Some(text) = table.string("user") else {
        return Some("root".to_owned());
    };
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    let begins = |c: char| c.is_ascii_lowercase() || c == '_';
    if !(1..=32).contains(&text.value.len())
        || !text.value.starts_with(begins)
        || !text.value.chars().all(fits)
    {
        table.fault(
            &text.span,
            format!("`{}` is no name of a user", text.value),
            "use `root`, or one who may `sudo` without a password",
        );
        return None;
    }
    Some(text.value.to_owned())
}

/// An address, or a name of RFC 1123: neither can be taken for an option of ssh.
fn is_host(table: &Table<'_>, text: &Text<'_>) {
    let label = |part: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&part.len())
            && part.chars().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let is_name = text.value.len() <= 253 && text.value.split('.').all(label);
    if text.value.parse::<IpAddr>().is_err() && !is_name {
        table.fault(
            &text.span,
            format!("`{}` is neither an IP address nor a DNS name", text.value),
            "write where its sshd is reached, without user and port: these are `user` and `port`",
        );
    }
}

fn host_key_of(table: &Table<'_>, text: &Text<'_>) -> Option<String> {
    match public_key(text) {
        Ok((HOST_KEY_TYPE, blob)) => return Some(format!("{HOST_KEY_TYPE} {blob}")),
        Ok(_) => table.fault(
            &text.span,
            format!("the host key is none of {HOST_KEY_TYPE}"),
            "on the machine's own console: `cat /etc/ssh/ssh_host_ed25519_key.pub`",
        ),
        Err((problem, _)) => table.fault(
            &text.span,
            format!("the host key {problem}"),
            "on the machine's own console: `cat /etc/ssh/ssh_host_ed25519_key.pub`",
        ),
    }
    None
}

/// A path that a shell and Nix take as it is.
fn is_disk(table: &Table<'_>, text: &Text<'_>) {
    let fits = |c: char| c.is_ascii_alphanumeric() || "/._-:+".contains(c);
    let below = text.value.strip_prefix("/dev/");
    let parts = |path: &str| path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !below.is_some_and(parts) || !text.value.chars().all(fits) {
        table.fault(
            &text.span,
            format!("`{}` is no disk", text.value),
            "name it as the machine's `ls /dev/disk/by-id` does: other names change from boot to boot",
        );
    }
}

#[cfg(test)]
mod tests;
