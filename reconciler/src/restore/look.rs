//! What a surviving server can see: its own etcd, who the others were and whether they live, and the snapshots it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use fabrik_core::id::{NodeName, ServerId};
use fabrik_core::observed::{Power, Role};
use fabrik_core::restore::{Machine, Observed, OwnData, Peer, Said};
use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::error::RestoreError;
use super::files;
use super::journal::Journal;
use crate::cluster::etcd::{Alone, Etcd};
use crate::config::{self, Config};
use crate::gate::{self, Access};
use crate::hetzner;
use crate::repo::Repository;
use crate::secrets::{Secret, Sops};

const ETCD_PORT: u16 = 2379;
/// A machine that lives accepts a connection in less.
const CONNECTING: Duration = Duration::from_secs(3);
/// etcd that lost its quorum serves what needs none five seconds after it was started; k3s starts it again and again.
/// (etcd, `--wait-cluster-ready-timeout`)
const ETCD_COMES_UP: Duration = Duration::from_secs(20);

/// Where is looked.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub config: &'a Config,
    pub etcd: &'a config::Etcd,
    /// The folder with this server's own data.
    pub data: &'a Path,
    /// A restore that was begun, and did not come to the reset: etcd is stopped since.
    pub begun: Option<&'a Journal>,
}

/// What was seen, and what the steps need of it.
#[derive(Debug)]
pub struct Seen {
    pub observed: Observed,
    /// Each other server's addresses.
    pub others: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The servers' ids at Hetzner, as the ledger has them.
    pub known: BTreeMap<NodeName, ServerId>,
    /// Those that Hetzner says are gone.
    pub gone: BTreeMap<NodeName, ServerId>,
    /// What else a person should know: what could not be asked, and why.
    pub notes: Vec<String>,
}

/// Looks, and changes nothing.
pub async fn look(place: &Place<'_>, said: Said) -> Result<Seen, RestoreError> {
    let Place {
        config,
        etcd,
        data,
        begun,
    } = *place;
    let mut notes = Vec::new();
    let alone = if begun.is_none() && files::has_data(data) {
        own_member(etcd, &mut notes).await
    } else {
        None
    };
    let known = begun.map_or_else(|| servers_of(alone.as_ref()), |b| b.known.clone());
    let machines = machines(config, &known).await;
    let machines = machines.map_err(|problem| {
        notes.push(format!("Hetzner could not be asked: {problem}"));
    });
    let machines = machines.ok();
    let others = match (begun, &alone) {
        (Some(begun), _) => begun.others.clone(),
        (None, Some(alone)) => by_name(alone),
        (None, None) => without_etcd(config, machines.as_ref()),
    };
    let peers = others.iter().map(async |(name, addresses)| Peer {
        name: name.clone(),
        answers: listens(addresses).await,
        machine: machine(name, addresses, machines.as_ref(), &known),
    });
    let observed = Observed {
        own: own_data(data, alone.as_ref(), begun.is_some_and(|b| b.own_failed))?,
        peers: join_all(peers).await,
        peers_are_listed: match begun {
            Some(begun) => begun.others_are_listed,
            None => alone.is_some() || machines.is_some(),
        },
        snapshots: files::snapshots(&etcd.snapshot_dir)?,
        said,
    };
    let is_gone = |id: &ServerId| machines.as_ref().is_some_and(|m| m.gone.contains(id));
    let gone = known.iter().filter(|(_, id)| is_gone(id));
    Ok(Seen {
        gone: gone.map(|(name, id)| (name.clone(), *id)).collect(),
        observed,
        others,
        known,
        notes,
    })
}

/// Whether something listens on etcd's port at one of these addresses.
pub async fn listens(addresses: &BTreeSet<IpAddr>) -> bool {
    let tries = addresses
        .iter()
        .map(|address| timeout(CONNECTING, TcpStream::connect((*address, ETCD_PORT))));
    join_all(tries).await.iter().any(|t| matches!(t, Ok(Ok(_))))
}

async fn own_member(etcd: &config::Etcd, notes: &mut Vec<String>) -> Option<Alone> {
    let etcd = Etcd::new(etcd.clone());
    let until = Instant::now() + ETCD_COMES_UP;
    loop {
        match etcd.alone().await {
            Ok(alone) => return Some(alone),
            Err(error) if Instant::now() >= until => {
                notes.push(format!(
                    "this server's own etcd does not say who the others are: {error}"
                ));
                return None;
            }
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

fn by_name(alone: &Alone) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let others = alone.others.iter();
    others
        .map(|o| (o.name.clone(), o.addresses.clone()))
        .collect()
}

/// The control plane's servers at Hetzner, as the ledger last named them here.
fn servers_of(alone: Option<&Alone>) -> BTreeMap<NodeName, ServerId> {
    let ledger = alone.and_then(|a| a.ledger.as_ref());
    let members = ledger.iter().flat_map(|l| l.members.values());
    let servers = members.filter(|m| m.role == Role::Server && !m.server.is_own());
    servers.map(|m| (m.name.clone(), m.server)).collect()
}

/// By the token in the newest commit, where it opens.
async fn machines(
    config: &Config,
    known: &BTreeMap<NodeName, ServerId>,
) -> Result<hetzner::Machines, String> {
    let token = token(config).await?;
    let token = hetzner::Token::from(&token);
    let client = hetzner::Client::new(&config.hetzner.endpoint, token);
    let client = client.map_err(|e| e.to_string())?;
    let found = hetzner::control_plane(&client, &config.cluster.id, &config.node, known).await;
    found.map_err(|e| e.to_string())?.ok_or_else(|| {
        format!(
            "with the token of the repository it does not know {}, which is this server: by another project's token \
             everything is gone",
            config.node
        )
    })
}

/// From a clone of its own: the one of `fabrik run` may be in use, or old.
async fn token(config: &Config) -> Result<Secret, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let repository = Repository::open(config.repository.clone(), dir.path());
    let repository = repository.map_err(|e| e.to_string())?;
    let head = repository.fetch().await.map_err(|e| e.to_string())?;
    let tree = repository.tree(&head).map_err(|e| e.to_string())?;
    let sops = Sops::new(config.secrets.age_key_file.clone(), None);
    let read = gate::read_commit(&tree, Access::InForce(&sops)).await;
    let candidate = read.map_err(|e| e.to_string())?;
    let candidate = candidate.map_err(|faulty| {
        let first = faulty.diagnostics.first().map(ToString::to_string);
        format!(
            "{} is not right: {}",
            head.short(),
            first.unwrap_or_default()
        )
    })?;
    candidate.token.ok_or_else(|| {
        let why = match candidate.spec.hetzner {
            Some(_) => "its token was not opened",
            None => "cluster.toml has no [hetzner], so its machines are yours to know",
        };
        why.to_owned()
    })
}

/// Who the others may be where etcd does not say: the servers at Hetzner, and what the configuration names besides.
fn without_etcd(
    config: &Config,
    machines: Option<&hetzner::Machines>,
) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let there = machines.map_or(&[][..], |m| &m.there);
    let is_this = |machine: &&hetzner::Machine| machine.name == config.node.as_str();
    let others = there.iter().filter(|m| !is_this(m));
    let mut others: BTreeMap<String, BTreeSet<IpAddr>> = others
        .map(|m| (m.name.clone(), m.addresses.clone()))
        .collect();
    let mut accounted: BTreeSet<IpAddr> = others.values().flatten().copied().collect();
    accounted.extend(there.iter().filter(is_this).flat_map(|m| &m.addresses));
    let urls = config
        .kubernetes
        .servers
        .iter()
        .chain(&config.kubernetes.join_urls);
    for host in urls.filter_map(|url| host_of(url)) {
        match host.parse::<IpAddr>() {
            Ok(address) if accounted.contains(&address) || is_of_this_machine(address) => {}
            Ok(address) => {
                others.insert(host, BTreeSet::from([address]));
            }
            // A name may stand for all of them together.
            Err(_) => {}
        }
    }
    others
}

fn host_of(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    Some(uri.host()?.trim_matches(['[', ']']).to_owned())
}

/// An address that can be listened on is this machine's. Of a loopback one that says nothing, but for the usual one.
fn is_of_this_machine(address: IpAddr) -> bool {
    if address.is_loopback() {
        return matches!(address.to_string().as_str(), "127.0.0.1" | "::1");
    }
    TcpListener::bind((address, 0)).is_ok()
}

fn machine(
    name: &str,
    addresses: &BTreeSet<IpAddr>,
    machines: Option<&hetzner::Machines>,
    known: &BTreeMap<NodeName, ServerId>,
) -> Machine {
    let Some(machines) = machines else {
        return Machine::Unknown;
    };
    let id = known
        .iter()
        .find(|(node, _)| node.as_str() == name)
        .map(|(_, id)| *id);
    let is_it = |m: &&hetzner::Machine| {
        Some(m.id) == id || m.name == name || !m.addresses.is_disjoint(addresses)
    };
    match machines.there.iter().find(is_it).map(|m| m.power) {
        Some(Power::Off) => Machine::Off,
        Some(Power::Running | Power::Changing) => Machine::Running,
        None if id.is_some_and(|id| machines.gone.contains(&id)) => Machine::Gone,
        None => Machine::Unknown,
    }
}

fn own_data(data: &Path, alone: Option<&Alone>, failed: bool) -> Result<OwnData, RestoreError> {
    if !files::has_data(data) {
        return Ok(OwnData::Absent);
    }
    if data.join("tombstone").exists() {
        // k3s puts them aside itself when it starts: it was removed from its cluster. (k3s, `pkg/etcd/etcd.go`)
        return Ok(OwnData::Absent);
    }
    Ok(OwnData::Present {
        written: files::last_written(&data.join("member"))?,
        has_leader: alone.is_some_and(|a| a.has_leader),
        learner: alone.is_some_and(|a| a.learner),
        failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::GOOD;

    fn found(id: u64, name: &str, power: Power, address: &str) -> hetzner::Machine {
        hetzner::Machine {
            id: ServerId(id),
            name: name.to_owned(),
            power,
            addresses: BTreeSet::from([address.parse().unwrap()]),
        }
    }

    fn machines() -> hetzner::Machines {
        hetzner::Machines {
            there: vec![
                found(1, "server-1", Power::Running, "127.20.0.1"),
                found(2, "server-2", Power::Off, "127.20.0.5"),
            ],
            gone: BTreeSet::from([ServerId(3)]),
        }
    }

    #[test]
    fn a_machine_is_gone_by_its_id_alone_and_known_by_id_name_or_address() {
        let machines = machines();
        let known = BTreeMap::from([("s-3".parse().unwrap(), ServerId(3))]);
        let nowhere = BTreeSet::new();
        let of = |name: &str, addresses: &BTreeSet<IpAddr>| {
            machine(name, addresses, Some(&machines), &known)
        };
        assert_eq!(of("s-3", &nowhere), Machine::Gone);
        assert_eq!(
            of("s-4", &nowhere),
            Machine::Unknown,
            "a name proves nothing"
        );
        assert_eq!(of("server-2", &nowhere), Machine::Off);
        let address = BTreeSet::from(["127.20.0.1".parse().unwrap()]);
        assert_eq!(of("other", &address), Machine::Running);
        assert_eq!(machine("s-3", &nowhere, None, &known), Machine::Unknown);
    }

    /// The configuration names 127.20.0.1, which is this server, and 127.20.0.2, which nobody knows any more.
    #[test]
    fn without_etcd_the_others_are_whom_hetzner_and_the_configuration_know() {
        let config = Config::parse("f", GOOD).unwrap();
        let names = |machines: Option<&hetzner::Machines>| {
            let others = without_etcd(&config, machines);
            others.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(Some(&machines())), ["127.20.0.2", "server-2"]);
        assert_eq!(names(None), ["127.20.0.1", "127.20.0.2"]);
    }

    #[test]
    fn data_that_were_removed_from_their_cluster_are_none() {
        let db = tempfile::tempdir().unwrap();
        let own = || own_data(db.path(), None, false).unwrap();
        assert_eq!(own(), OwnData::Absent);
        std::fs::create_dir_all(db.path().join("member/wal")).unwrap();
        assert!(matches!(own(), OwnData::Present { failed: false, .. }));
        std::fs::write(db.path().join("tombstone"), b"").unwrap();
        assert_eq!(own(), OwnData::Absent);
    }
}
