//! etcd's arithmetic: whether a server may be taken down for a while, and whether it is back (S3).
//!
//! A member counts as healthy only when etcd says so, it is no learner, it is caught up, a Node stands for it, and that
//! Node is neither cordoned nor taken down by us: the cordon is the earliest reliable sign that a server is about to go.

use core::net::IpAddr;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::hold::{Hold, HoldReason};
use crate::id::NodeName;

/// How many raft entries a member may be behind and still count as caught up: etcd's own limit for promoting a learner
/// is 90 % of the leader's log; a restarted member catches up a few thousand entries in a second.
const MAX_LAG_ENTRIES: u64 = 1000;

/// A member as the members themselves report it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// etcd's number of it. An older observation has none.
    #[serde(default)]
    pub id: u64,
    /// etcd's own name of it.
    pub name: String,
    /// Where its peers find it, if that is an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The Node that its peer address belongs to.
    pub node: Option<NodeName>,
    pub learner: bool,
    /// It answers, knows a leader and has raised no alarm.
    pub healthy: bool,
    pub leader: bool,
    /// How many raft entries it has yet to apply.
    pub lag: u64,
    /// `NOSPACE` or `CORRUPT`, in etcd's words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<String>,
}

/// What the members agree on; `None` where two of them told different lists.
pub type Members = Option<Vec<Member>>;

/// Whether etcd keeps its quorum with a margin when `node` goes down, those in `unavailable` being down or about to be.
/// `downtime_allowed` is the user's word for a control plane of one or two servers.
///
/// # Errors
/// Which rule refuses it, with names and figures.
pub fn may_go_down(
    node: &NodeName,
    members: &Members,
    unavailable: &BTreeSet<NodeName>,
    downtime_allowed: bool,
) -> Result<(), Hold> {
    let held = |message: String| {
        Err(Hold {
            about: format!("node {node}"),
            reason: HoldReason::Quorum,
            message,
        })
    };
    let members = match whole(members) {
        Ok(members) => members,
        Err(message) => return held(format!("waits: {message}")),
    };
    let voters = members.len();
    let quorum = voters / 2 + 1;
    let left = healthy_without(node, members, unavailable);
    if left >= quorum
        || (voters <= 2 && downtime_allowed && nobody_else_is_down(node, members, unavailable))
    {
        return Ok(());
    }
    if voters <= 2 {
        return held(format!(
            "waits: with {voters} etcd member{} the cluster's API is away while this server is; set \
             allow-control-plane-downtime = true in [update] to accept that",
            if voters == 1 { "" } else { "s" }
        ));
    }
    held(format!(
        "waits: without it {left} of {voters} etcd members would be healthy, and the quorum is {quorum}"
    ))
}

/// The members, all of whom vote, belong to a Node and have raised no alarm.
///
/// # Errors
/// What is in the way.
pub fn whole(members: &Members) -> Result<&[Member], String> {
    let Some(members) = members else {
        return Err("the etcd members do not agree on who is a member".to_owned());
    };
    for member in members {
        let name = &member.name;
        if member.learner {
            return Err(format!("etcd member {name} is still a learner"));
        }
        if member.node.is_none() {
            return Err(format!(
                "etcd member {name} belongs to no Node; remove it if its server is gone (`etcdctl member remove`)"
            ));
        }
        if let Some(alarm) = member.alarms.first() {
            return Err(format!("etcd member {name} has raised {alarm}"));
        }
    }
    Ok(members)
}

/// Whether etcd is so well that one more member may join.
///
/// # Errors
/// What is in the way.
pub fn may_grow(members: &Members) -> Result<(), String> {
    let sick = whole(members)?.iter().find(|m| !is_caught_up(m));
    sick.map_or(Ok(()), |m| {
        Err(format!("etcd member {} is not healthy", m.name))
    })
}

/// Whether the server may leave for good. Of two members neither can be stopped before it is removed: both have to agree
/// on that, and it is well as long as both are.
///
/// # Errors
/// Why not, with names and figures.
pub fn may_leave(
    node: &NodeName,
    members: &Members,
    unavailable: &BTreeSet<NodeName>,
) -> Result<(), String> {
    let members = whole(members)?;
    let voters = members.len();
    let left = healthy_without(node, members, unavailable);
    let votes = members.iter().any(|m| m.is_of(node) && is_caught_up(m));
    match voters {
        0 | 1 => Err("it is the last etcd member".to_owned()),
        2 if left == 1 && votes => Ok(()),
        2 => Err("of two etcd members both have to be healthy when one leaves".to_owned()),
        _ => {
            let quorum = voters / 2 + 1;
            if left >= quorum {
                return Ok(());
            }
            Err(format!(
                "without it {left} of {voters} etcd members would be healthy, and the quorum is {quorum}"
            ))
        }
    }
}

/// Whether the others can agree on removing a member, and can go on without it.
///
/// # Errors
/// Why not, with figures.
pub fn may_be_removed(member: &Member, members: &[Member]) -> Result<(), String> {
    let voters = members.iter().filter(|m| !m.learner);
    let count = voters.clone().count();
    let healthy = voters.clone().filter(|m| m.healthy).count();
    let quorum = count / 2 + 1;
    if healthy < quorum {
        return Err(format!(
            "{healthy} of {count} etcd members are healthy, and {quorum} have to agree on removing one"
        ));
    }
    if member.learner {
        return Ok(());
    }
    let others = voters.filter(|m| m.id != member.id && m.healthy).count();
    let then = (count - 1) / 2 + 1;
    if count > 1 && others >= then {
        return Ok(());
    }
    Err(format!(
        "without it {others} of {} etcd members would be healthy, and the quorum is {then}",
        count - 1
    ))
}

/// The member that is this server's, also where its Node is gone.
pub fn of<'a>(node: &NodeName, members: &'a [Member]) -> Option<&'a Member> {
    members.iter().find(|m| m.is_of(node))
}

impl Member {
    /// By the Node that it belongs to; where it belongs to none, by what it is called: k3s adds a dash and eight digits
    /// to the Node's name.
    pub fn is_of(&self, node: &NodeName) -> bool {
        match &self.node {
            Some(own) => own == node,
            None => is_called_after(&self.name, node),
        }
    }
}

/// Whether etcd's name of a member is that of the member of this Node.
pub fn is_called_after(member: &str, node: &NodeName) -> bool {
    [Some(member), without_digits(member)].contains(&Some(node.as_str()))
}

/// What a member's name is without the dash and the eight digits that k3s adds.
pub fn without_digits(member: &str) -> Option<&str> {
    let (name, random) = member.rsplit_once('-')?;
    let is_random = random.len() == 8 && random.chars().all(|c| c.is_ascii_hexdigit());
    is_random.then_some(name)
}

/// Members that are well, and stay so when `node` goes.
fn healthy_without(node: &NodeName, members: &[Member], unavailable: &BTreeSet<NodeName>) -> usize {
    let stays = |m: &&Member| {
        is_caught_up(m)
            && m.node
                .as_ref()
                .is_some_and(|n| n != node && !unavailable.contains(n))
    };
    members.iter().filter(stays).count()
}

/// Whether the server is a full member again.
///
/// # Errors
/// What it still lacks.
pub fn is_back(node: &NodeName, members: &Members) -> Result<(), String> {
    let Some(members) = members else {
        return Err("the etcd members do not agree on who is a member".to_owned());
    };
    let Some(member) = members.iter().find(|m| m.node.as_ref() == Some(node)) else {
        return Err("it is no etcd member".to_owned());
    };
    if member.learner {
        Err("it is still an etcd learner".to_owned())
    } else if !member.healthy {
        Err("its etcd member is not healthy".to_owned())
    } else if member.lag > MAX_LAG_ENTRIES {
        Err(format!("its etcd member is {} entries behind", member.lag))
    } else {
        Ok(())
    }
}

/// The member that leads, and who should lead before `node` goes down: the healthy one that is least behind.
pub fn successor<'a>(node: &NodeName, members: &'a Members) -> Option<&'a Member> {
    let members = members.as_ref()?;
    let leads = members
        .iter()
        .any(|m| m.leader && m.node.as_ref() == Some(node));
    let others = members
        .iter()
        .filter(|m| m.node.as_ref() != Some(node) && is_caught_up(m));
    leads
        .then(|| others.min_by_key(|m| (m.lag, m.name.clone())))
        .flatten()
}

fn is_caught_up(member: &Member) -> bool {
    member.healthy && !member.learner && member.alarms.is_empty() && member.lag <= MAX_LAG_ENTRIES
}

fn nobody_else_is_down(
    node: &NodeName,
    members: &[Member],
    unavailable: &BTreeSet<NodeName>,
) -> bool {
    let others = members.iter().filter(|m| m.node.as_ref() != Some(node));
    others
        .into_iter()
        .all(|m| is_caught_up(m) && m.node.as_ref().is_some_and(|n| !unavailable.contains(n)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> NodeName {
        format!("s-{number}").parse().unwrap()
    }

    fn members(count: usize) -> Vec<Member> {
        let member = |number| Member {
            id: number as u64,
            address: None,
            name: format!("m-{number}"),
            node: Some(name(number)),
            learner: false,
            healthy: true,
            leader: number == 1,
            lag: 0,
            alarms: Vec::new(),
        };
        (1..=count).map(member).collect()
    }

    fn told(members: Vec<Member>, unavailable: &[usize], downtime: bool) -> String {
        let unavailable = unavailable.iter().map(|n| name(*n)).collect();
        may_go_down(&name(1), &Some(members), &unavailable, downtime)
            .map_or_else(|hold| hold.message, |()| "may".to_owned())
    }

    /// For each size: how many others may be down already while one more still may go.
    #[test]
    fn the_margin_is_what_quorum_arithmetic_says() {
        for (size, margin) in [(3, 0), (4, 0), (5, 1), (6, 1), (7, 2), (9, 3)] {
            for down in 0..size {
                let others: Vec<usize> = (2..2 + down).collect();
                let may = told(members(size), &others, false) == "may";
                assert_eq!(may, down <= margin, "{size} members, {down} others down");
            }
        }
    }

    #[test]
    fn one_or_two_servers_need_the_users_word() {
        assert!(told(members(1), &[], false).contains("allow-control-plane-downtime"));
        assert!(told(members(2), &[], false).starts_with("waits: with 2 etcd members"));
        assert_eq!(told(members(1), &[], true), "may");
        assert_eq!(told(members(2), &[], true), "may");
        assert_ne!(told(members(2), &[2], true), "may");
        assert_ne!(
            told(members(3), &[2], true),
            "may",
            "the word is for one or two"
        );
    }

    #[test]
    fn who_is_not_wholly_there_does_not_count() {
        let with = |change: fn(&mut Member)| {
            let mut members = members(3);
            change(&mut members[1]);
            told(members, &[], false)
        };
        assert_eq!(with(|_| ()), "may");
        assert_eq!(
            with(|m| m.learner = true),
            "waits: etcd member m-2 is still a learner"
        );
        assert!(with(|m| m.node = None).starts_with("waits: etcd member m-2 belongs to no Node"));
        assert_eq!(
            with(|m| m.alarms = vec!["NOSPACE".to_owned()]),
            "waits: etcd member m-2 has raised NOSPACE"
        );
        let one_left =
            "waits: without it 1 of 3 etcd members would be healthy, and the quorum is 2";
        assert_eq!(with(|m| m.healthy = false), one_left);
        assert_eq!(with(|m| m.lag = MAX_LAG_ENTRIES + 1), one_left);
        assert_eq!(with(|m| m.lag = MAX_LAG_ENTRIES), "may");
        let split = may_go_down(&name(1), &None, &BTreeSet::new(), true).unwrap_err();
        assert_eq!(
            split.message,
            "waits: the etcd members do not agree on who is a member"
        );
    }

    #[test]
    fn a_leader_hands_over_to_the_healthy_member_that_is_least_behind() {
        let mut three = members(3);
        three[1].lag = 5;
        let to = |members: &[Member], node| {
            successor(&name(node), &Some(members.to_vec())).map(|m| m.name.clone())
        };
        assert_eq!(to(&three, 1).as_deref(), Some("m-3"));
        three[2].healthy = false;
        assert_eq!(to(&three, 1).as_deref(), Some("m-2"));
        assert_eq!(to(&three, 2), None, "it does not lead");
    }

    #[test]
    fn a_server_is_back_when_it_votes_and_is_caught_up() {
        let mut three = members(3);
        assert_eq!(is_back(&name(2), &Some(three.clone())), Ok(()));
        three[1].lag = 40_000;
        assert_eq!(
            is_back(&name(2), &Some(three.clone())),
            Err("its etcd member is 40000 entries behind".to_owned())
        );
        three.remove(1);
        assert_eq!(
            is_back(&name(2), &Some(three)),
            Err("it is no etcd member".to_owned())
        );
    }
}
