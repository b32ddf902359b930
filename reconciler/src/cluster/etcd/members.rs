//! What etcd's members say, put together for the core.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fabrik_core::id::NodeName;
use fabrik_core::quorum::{self, Member, Members};

use super::wire::{self, Alarm, MemberList, Status};

/// Where the Nodes of the control plane are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    pub names: BTreeSet<NodeName>,
    pub by_address: BTreeMap<IpAddr, NodeName>,
}

/// What a member says of itself, and who it thinks the members are.
pub struct Look {
    pub status: Status,
    pub list: MemberList,
}

impl Status {
    pub fn is_troubled(&self) -> bool {
        !self.errors.is_empty()
    }
}

/// `looks` are in the order of `list`.
pub fn put_together(
    list: &MemberList,
    looks: &[Option<Look>],
    alarms: &[Alarm],
    hosts: &Hosts,
) -> Members {
    let agreed = essentials(list);
    let differs = |look: &Look| essentials(&look.list) != agreed;
    if looks.iter().flatten().any(differs) {
        return None;
    }
    let indices = looks.iter().flatten().map(|l| l.status.raft_index);
    let newest = indices.max().unwrap_or(0);
    let member = |(wire, look): (&wire::Member, &Option<Look>)| {
        let status = look.as_ref().map(|l| &l.status);
        let raised = alarms.iter().filter(|a| a.member == wire.id);
        let alarms: Vec<String> = raised.map(Alarm::name).collect();
        let answers = status.is_some_and(|s| s.leader != 0 && !s.is_troubled());
        let applied = status.map_or(0, |s| s.raft_applied_index);
        Member {
            id: wire.id,
            address: wire.peer_urls.iter().find_map(|url| host_of(url)),
            name: if wire.name.is_empty() {
                wire.id.to_string()
            } else {
                wire.name.clone()
            },
            node: hosts.of(wire),
            learner: wire.is_learner,
            healthy: answers && alarms.is_empty(),
            leader: status.is_some_and(|s| s.leader == wire.id),
            lag: newest.saturating_sub(applied),
            alarms,
        }
    };
    Some(list.members.iter().zip(looks).map(member).collect())
}

impl Hosts {
    /// The Node that a member's peer address belongs to; else the one that it is called after: k3s adds a dash and
    /// eight digits to the name.
    fn of(&self, member: &wire::Member) -> Option<NodeName> {
        let addresses = member.peer_urls.iter().filter_map(|url| host_of(url));
        let mut by_address = addresses.filter_map(|address| self.by_address.get(&address));
        if let Some(node) = by_address.next() {
            return Some(node.clone());
        }
        let mut names = self.names.iter();
        let named = names.find(|node| quorum::is_called_after(&member.name, node));
        named.cloned()
    }
}

/// Whether a member is that of a server: by its name, or by its address where it has not started and has none.
pub fn is_of(member: &wire::Member, server: &NodeName, address: Option<IpAddr>) -> bool {
    let mut addresses = member.peer_urls.iter().filter_map(|url| host_of(url));
    quorum::is_called_after(&member.name, server)
        || address.is_some_and(|address| addresses.any(|its| its == address))
}

pub fn host_of(url: &str) -> Option<IpAddr> {
    let uri: http::Uri = url.parse().ok()?;
    uri.host()?.trim_matches(['[', ']']).parse().ok()
}

/// What members have to agree on.
fn essentials(list: &MemberList) -> BTreeSet<(u64, Vec<String>, bool)> {
    let members = list.members.iter();
    members
        .map(|m| {
            let mut peers = m.peer_urls.clone();
            peers.sort();
            (m.id, peers, m.is_learner)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        let names = ["s-1", "s-2", "s-3"].map(|n| n.parse::<NodeName>().unwrap());
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        Hosts {
            by_address: (1..).map(address).zip(names.clone()).collect(),
            names: names.into(),
        }
    }

    fn member(id: u64, name: &str, peer: &str) -> wire::Member {
        wire::Member {
            id,
            name: name.to_owned(),
            peer_urls: vec![peer.to_owned()],
            ..wire::Member::default()
        }
    }

    fn list(learner: bool) -> MemberList {
        let unnamed = wire::Member {
            is_learner: learner,
            ..member(u64::MAX, "", "https://10.0.0.9:2380")
        };
        MemberList {
            members: vec![
                member(1, "s-1-0a1b2c3d", "https://10.0.0.1:2380"),
                member(2, "s-2", "https://etcd-2.example:2380"),
                unnamed,
            ],
        }
    }

    fn look(index: u64, leader: u64, errors: &[&str]) -> Look {
        let status = Status {
            header: None,
            leader,
            raft_index: index,
            raft_applied_index: index,
            errors: errors.iter().map(ToString::to_string).collect(),
            is_learner: false,
        };
        Look {
            status,
            list: list(true),
        }
    }

    #[test]
    fn members_are_told_by_address_or_by_name_with_how_far_behind_they_are() {
        let looks = [Some(look(100, 1, &[])), Some(look(90, 1, &[])), None];
        let members = put_together(&list(true), &looks, &[], &hosts()).unwrap();
        let told: Vec<_> = members
            .iter()
            .map(|m| {
                (
                    m.node.as_ref().map(NodeName::as_str),
                    m.healthy,
                    m.leader,
                    m.lag,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (Some("s-1"), true, true, 0),
                (Some("s-2"), true, false, 10),
                (None, false, false, 100)
            ]
        );
        assert!(members[2].learner);
        assert_eq!(members[2].name, "18446744073709551615");
    }

    #[test]
    fn k3s_s_random_digits_are_no_part_of_a_name() {
        let named = |name: &str| hosts().of(&member(7, name, "https://10.0.0.9:2380"));
        assert_eq!(named("s-3-0a1b2c3d"), Some("s-3".parse().unwrap()));
        assert_eq!(named("s-3"), Some("s-3".parse().unwrap()));
        assert_eq!(named("s-30a1b2c3d"), None);
        assert_eq!(named("s-3-0a1b2c3"), None);
    }

    #[test]
    fn an_alarm_and_a_lost_leader_make_a_member_sick() {
        let alarm = Alarm {
            member: 2,
            kind: wire::AlarmKind::NoSpace.into(),
        };
        let looks = [
            Some(look(1, 0, &["etcdserver: no leader"])),
            Some(look(1, 1, &["memberID:2 alarm:NOSPACE"])),
            None,
        ];
        let members = put_together(&list(true), &looks, &[alarm], &hosts()).unwrap();
        assert_eq!(members[1].alarms, ["NOSPACE"]);
        assert!(!members[0].healthy && !members[1].healthy);
    }

    #[test]
    fn a_member_is_a_server_s_by_name_or_by_address() {
        let server: NodeName = "s-1".parse().unwrap();
        let address = Some(IpAddr::from([10, 0, 0, 9]));
        let is_of = |name: &str, address| {
            is_of(&member(7, name, "https://10.0.0.9:2380"), &server, address)
        };
        assert!(is_of("s-1-0a1b2c3d", None));
        assert!(is_of("", address), "one that has not started");
        assert!(!is_of("", None));
        assert!(!is_of("s-11-0a1b2c3d", Some(IpAddr::from([10, 0, 0, 1]))));
    }

    #[test]
    fn members_that_tell_different_lists_agree_on_nobody() {
        let looks = [Some(look(1, 1, &[])), Some(look(1, 1, &[])), None];
        assert_eq!(put_together(&list(false), &looks, &[], &hosts()), None);
    }
}
