//! By what means a machine of the user's own gets its system, for `fabrik seed` and `fabrik install` alike: decided by what was
//! found on it. What somebody may need is refused, and told.

use core::net::IpAddr;
use std::fmt;

use crate::id::{NodeName, ServerId};
use crate::spec::Firewall;

/// Where sshd listens that nobody has told otherwise (sshd_config(5), `Port`), that of an installer for one.
pub const SSH_PORT: u16 = 22;

/// What was found on a machine, before anything is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The `ID` of its os-release, `nixos` for one.
    pub os: String,
    /// In Nix' words.
    pub system: String,
    pub memory_kib: u64,
    /// Where it sees the laptop come from.
    pub from: Option<IpAddr>,
    /// And to which port of its own.
    pub port: Option<u16>,
    /// The node that it was told to be.
    pub node: Option<(String, ServerId)>,
    /// Whether k3s is there, of whichever cluster.
    pub has_k3s: bool,
    /// The disk and what is on it, a line each; `None` where there is no such disk.
    pub disk: Option<Vec<String>>,
}

/// What a machine is to be.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub node: &'a NodeName,
    pub server: ServerId,
    /// In Nix' words.
    pub system: &'a str,
    pub disk: &'a str,
    /// Where its sshd is reached.
    pub port: u16,
    /// Whether its system will let anybody in.
    pub has_ssh_keys: bool,
    /// And from where.
    pub firewall: &'a Firewall,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Means {
    /// Its system is there: it is told who it is, as often as somebody likes.
    Tell,
    /// It runs NixOS: it is given the system, and switches to it.
    Switch,
    /// Another Linux makes place, and the disk is wiped.
    Wipe {
        /// Where the sshd of the installer in between is reached.
        installer_port: u16,
    },
}

/// Why nothing is done to a machine, said of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("is {found}, and cluster.toml wants {wanted}")]
    OtherSystem { found: String, wanted: String },
    #[error("is the node {0} of a cluster already, or was it. Install another Linux on it first")]
    OtherNode(String),
    #[error("has k3s of another cluster. Take it out of that first, and remove k3s")]
    HasK3s,
    #[error("has no disk {0}: see `ls /dev/disk/by-id` there")]
    NoDisk(String),
    #[error("would let nobody in: cluster.toml has no [ssh-keys]. Put your public key there")]
    NoSshKeys,
    #[error(
        "would let this laptop in no more: it sees this laptop as {0}, which is in no range of [firewall] `ssh-from`. Put \
         \"{0}/{bits}\" there, or the network that it is in, and push", bits = if .0.is_ipv4() { 32 } else { 128 }
    )]
    ShutOut(IpAddr),
    #[error(
        "is reached at port {reached}, which leads to its port {own}, and the installer that nixos-anywhere boots there listens at \
         {SSH_PORT} alone. Have a port lead to its {SSH_PORT}, and write that one as `port`"
    )]
    LedAstray { reached: u16, own: u16 },
    #[error(
        "does not say from where it sees this laptop come (`$SSH_CONNECTION` is empty), so nobody knows whether its new \
         firewall lets this laptop in. Reach it by OpenSSH's sshd"
    )]
    Unseen,
}

/// # Errors
/// It has what somebody may need, or is not as the specification says.
pub fn means(found: &Found, wanted: &Wanted<'_>) -> Result<Means, Unfit> {
    if let Some((node, server)) = &found.node {
        let is_wanted = node == wanted.node.as_str() && *server == wanted.server;
        let told = is_wanted.then_some(Means::Tell);
        return told.ok_or_else(|| Unfit::OtherNode(node.clone()));
    }
    if found.system != wanted.system {
        return Err(Unfit::OtherSystem {
            found: found.system.clone(),
            wanted: wanted.system.to_owned(),
        });
    }
    if found.has_k3s {
        return Err(Unfit::HasK3s);
    }
    if !wanted.has_ssh_keys {
        return Err(Unfit::NoSshKeys);
    }
    let from = found.from.ok_or(Unfit::Unseen)?;
    if !wanted.firewall.opens_ssh_to(from) {
        return Err(Unfit::ShutOut(from));
    }
    match (found.os.as_str(), &found.disk) {
        ("nixos", _) => Ok(Means::Switch),
        (_, Some(_)) => Ok(Means::Wipe {
            installer_port: installer_port(wanted.port, found.port)?,
        }),
        (_, None) => Err(Unfit::NoDisk(wanted.disk.to_owned())),
    }
}

/// What leads to the machine's port 22 now does so while its installer runs. Of a machine that does not say at which port it is
/// reached, the installer is looked for where it listens.
fn installer_port(reached: u16, own: Option<u16>) -> Result<u16, Unfit> {
    match own {
        Some(SSH_PORT) => Ok(reached),
        Some(own) if own != reached => Err(Unfit::LedAstray { reached, own }),
        _ => Ok(SSH_PORT),
    }
}

impl Means {
    /// What it does to a machine, for whoever has to agree.
    pub fn told(self, found: &Found, wanted: &Wanted<'_>) -> String {
        match self {
            Self::Tell => "it has been installed; it is told anew who it is".to_owned(),
            Self::Switch => {
                "it runs NixOS and switches to its pool's system; no disk is wiped".to_owned()
            }
            Self::Wipe { .. } => {
                let lines = found.disk.iter().flatten();
                let lines: String = lines.map(|line| format!("\n  {line}")).collect();
                format!("ALL OF THIS IS WIPED on {}:{lines}", wanted.disk)
            }
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gigabytes = self.memory_kib / 1_000_000;
        let (os, system) = (&self.os, &self.system);
        write!(f, "{os}, {system}, {gigabytes} GB of memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Found);

    fn by(change: Change, has_ssh_keys: bool) -> Result<Means, Unfit> {
        let mut found = Found {
            os: "debian".to_owned(),
            system: "x86_64-linux".to_owned(),
            memory_kib: 16_000_000,
            from: "192.168.1.7".parse().ok(),
            port: Some(22),
            node: None,
            has_k3s: false,
            disk: Some(vec!["nvme0n1 512.1 GB".to_owned()]),
        };
        change(&mut found);
        let wanted = Wanted {
            node: &"demo-home-desktop".parse().unwrap(),
            server: ServerId(7),
            system: "x86_64-linux",
            disk: "/dev/sda",
            port: 22,
            has_ssh_keys,
            firewall: &Firewall {
                ssh_from: vec!["192.168.1.0/24".to_owned(), "fd00::/8".to_owned()],
                api_from: Vec::new(),
            },
        };
        means(&found, &wanted)
    }

    #[test]
    fn a_machine_is_installed_by_what_it_runs() {
        let wipe = Ok(Means::Wipe { installer_port: 22 });
        assert_eq!(by(|_| (), true), wipe);
        assert_eq!(by(|f| f.os = "nixos".to_owned(), true), Ok(Means::Switch));
        let told: Change = |f| f.node = Some(("demo-home-desktop".to_owned(), ServerId(7)));
        assert_eq!(by(told, true), Ok(Means::Tell), "the same command goes on");
        let by_ipv6: Change = |f| f.from = "fd00::7".parse().ok();
        assert_eq!(by(by_ipv6, true), wipe);
    }

    #[test]
    fn an_installer_is_reached_where_its_port_22_is() {
        assert_eq!(installer_port(22, Some(22)), Ok(22));
        assert_eq!(
            installer_port(2201, Some(22)),
            Ok(2201),
            "a router forwards it"
        );
        assert_eq!(installer_port(2201, Some(2201)), Ok(22), "sshd was told so");
        assert_eq!(installer_port(2201, None), Ok(22));
        let astray = installer_port(2201, Some(2202)).unwrap_err().to_string();
        assert!(
            astray.starts_with("is reached at port 2201, which leads to its port 2202"),
            "{astray}"
        );
    }

    #[test]
    fn what_somebody_may_need_is_left_alone() {
        let of = |node: &str| Err(Unfit::OtherNode(node.to_owned()));
        let other: Change = |f| f.node = Some(("demo-home-nas".to_owned(), ServerId(7)));
        assert_eq!(by(other, true), of("demo-home-nas"));
        let of_other_cluster: Change =
            |f| f.node = Some(("demo-home-desktop".to_owned(), ServerId(8)));
        assert_eq!(by(of_other_cluster, true), of("demo-home-desktop"));
        let no_disk = Unfit::NoDisk("/dev/sda".to_owned());
        assert_eq!(by(|f| f.disk = None, true), Err(no_disk));
        assert_eq!(by(|f| f.has_k3s = true, true), Err(Unfit::HasK3s));
        assert_eq!(by(|_| (), false), Err(Unfit::NoSshKeys));
        let outside: Change = |f| f.from = "192.168.2.7".parse().ok();
        let shut_out = Unfit::ShutOut("192.168.2.7".parse().unwrap());
        assert_eq!(by(outside, true), Err(shut_out));
        assert_eq!(by(|f| f.from = None, true), Err(Unfit::Unseen));
        let arm = by(|f| f.system = "aarch64-linux".to_owned(), true);
        let said = arm.unwrap_err().to_string();
        assert_eq!(
            said,
            "is aarch64-linux, and cluster.toml wants x86_64-linux"
        );
    }
}
