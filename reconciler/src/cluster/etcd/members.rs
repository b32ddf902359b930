//! What etcd's members say, put together for the core.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use fabrik_core::id::NodeName;
use fabrik_core::quorum::{Member, Members};
use serde::Deserialize;

/// Where the Nodes of the control plane are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    pub names: BTreeSet<NodeName>,
    pub by_address: BTreeMap<IpAddr, NodeName>,
}

#[derive(Debug, Deserialize)]
pub struct MemberList {
    #[serde(default)]
    pub members: Vec<Wire>,
}

/// A member as a list has it. One that was added and has not started yet has no name and no client URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wire {
    #[serde(rename = "ID", deserialize_with = "number")]
    pub id: u64,
    #[serde(default)]
    pub name: String,
    #[serde(default, rename = "peerURLs")]
    pub peer_urls: Vec<String>,
    #[serde(default, rename = "clientURLs")]
    pub client_urls: Vec<String>,
    #[serde(default)]
    pub is_learner: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub struct Status {
    /// 0: it knows of none.
    #[serde(deserialize_with = "number")]
    pub leader: u64,
    #[serde(deserialize_with = "number")]
    pub raft_index: u64,
    #[serde(deserialize_with = "number")]
    pub raft_applied_index: u64,
    pub errors: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Alarms {
    #[serde(default)]
    pub alarms: Vec<Alarm>,
}

#[derive(Debug, Deserialize)]
pub struct Alarm {
    #[serde(default, rename = "memberID", deserialize_with = "number")]
    member: u64,
    #[serde(default)]
    alarm: String,
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
    let member = |(wire, look): (&Wire, &Option<Look>)| {
        let status = look.as_ref().map(|l| &l.status);
        let raised = alarms.iter().filter(|a| a.member == wire.id);
        let alarms: Vec<String> = raised.map(|a| a.alarm.clone()).collect();
        let answers = status.is_some_and(|s| s.leader != 0 && !s.is_troubled());
        let applied = status.map_or(0, |s| s.raft_applied_index);
        Member {
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
    fn of(&self, member: &Wire) -> Option<NodeName> {
        let addresses = member.peer_urls.iter().filter_map(|url| host_of(url));
        let mut by_address = addresses.filter_map(|address| self.by_address.get(&address));
        if let Some(node) = by_address.next() {
            return Some(node.clone());
        }
        let own = member.name.rsplit_once('-').filter(|(_, random)| {
            random.len() == 8 && random.chars().all(|c| c.is_ascii_hexdigit())
        });
        let names = [Some(member.name.as_str()), own.map(|(name, _)| name)];
        let mut names = names.into_iter().flatten();
        names.find_map(|name| self.names.iter().find(|n| n.as_str() == name).cloned())
    }
}

fn host_of(url: &str) -> Option<IpAddr> {
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

/// JSON of protobuf writes 64 bits as text.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn hosts() -> Hosts {
        let names = ["s-1", "s-2", "s-3"].map(|n| n.parse::<NodeName>().unwrap());
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        Hosts {
            by_address: (1..).map(address).zip(names.clone()).collect(),
            names: names.into(),
        }
    }

    fn list(learner: bool) -> MemberList {
        serde_json::from_value(json!({"members": [
            {"ID": "1", "name": "s-1-0a1b2c3d", "peerURLs": ["https://10.0.0.1:2380"], "clientURLs": ["https://10.0.0.1:2379"]},
            {"ID": "2", "name": "s-2", "peerURLs": ["https://etcd-2.example:2380"], "clientURLs": ["https://10.0.0.2:2379"]},
            {"ID": "18446744073709551615", "peerURLs": ["https://10.0.0.9:2380"], "isLearner": learner},
        ]}))
        .unwrap()
    }

    fn look(index: &str, leader: &str, errors: &[&str]) -> Look {
        let status = json!({"header": {}, "leader": leader, "raftIndex": index, "raftAppliedIndex": index, "errors": errors});
        Look {
            status: serde_json::from_value(status).unwrap(),
            list: list(true),
        }
    }

    #[test]
    fn members_are_told_by_address_or_by_name_with_how_far_behind_they_are() {
        let looks = [
            Some(look("100", "1", &[])),
            Some(look("90", "1", &[])),
            None,
        ];
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
        let named = |name: &str| {
            let wire = json!({"ID": "7", "name": name});
            hosts().of(&serde_json::from_value(wire).unwrap())
        };
        assert_eq!(named("s-3-0a1b2c3d"), Some("s-3".parse().unwrap()));
        assert_eq!(named("s-3"), Some("s-3".parse().unwrap()));
        assert_eq!(named("s-30a1b2c3d"), None);
        assert_eq!(named("s-3-0a1b2c3"), None);
    }

    #[test]
    fn an_alarm_and_a_lost_leader_make_a_member_sick() {
        let alarms: Alarms =
            serde_json::from_value(json!({"alarms": [{"memberID": "2", "alarm": "NOSPACE"}]}))
                .unwrap();
        let looks = [
            Some(look("1", "0", &["etcdserver: no leader"])),
            Some(look("1", "1", &["memberID:2 alarm:NOSPACE"])),
            None,
        ];
        let members = put_together(&list(true), &looks, &alarms.alarms, &hosts()).unwrap();
        assert_eq!(members[1].alarms, ["NOSPACE"]);
        assert!(!members[0].healthy && !members[1].healthy);
    }

    #[test]
    fn members_that_tell_different_lists_agree_on_nobody() {
        let looks = [Some(look("1", "1", &[])), Some(look("1", "1", &[])), None];
        assert_eq!(put_together(&list(false), &looks, &[], &hosts()), None);
    }
}
