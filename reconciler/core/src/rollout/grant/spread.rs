//! In which order nodes go, so that those that are down at once have little in common.

use std::collections::BTreeMap;

use super::Candidate;
use super::rules::tries_once_more;
use crate::id::{NodeName, ServerId};
use crate::rollout::Rollout;

/// How many nodes are being disturbed, by location and by placement group.
pub struct Busy<'r, 'a> {
    rollout: &'r Rollout<'a>,
    locations: BTreeMap<&'a str, usize>,
    groups: BTreeMap<&'a str, usize>,
}

impl<'r, 'a> Busy<'r, 'a> {
    /// By the tickets that there are.
    pub fn now(rollout: &'r Rollout<'a>) -> Self {
        let mut busy = Self {
            rollout,
            locations: BTreeMap::new(),
            groups: BTreeMap::new(),
        };
        for ticket in rollout.ledger().tickets.values() {
            busy.add(ticket.server);
        }
        busy
    }

    /// One more is granted.
    pub fn add(&mut self, server: ServerId) {
        if let Some(location) = self.location(server) {
            *self.locations.entry(location).or_default() += 1;
        }
        if let Some(group) = self.group(server) {
            *self.groups.entry(group).or_default() += 1;
        }
    }

    /// Takes out who is next: who tries its goal once more, the canary that the user named, then the sick, then where the
    /// fewest are being disturbed; last etcd's leader, and after it the server whose fabrik leads.
    pub fn next<'c>(&self, candidates: &mut Vec<Candidate<'c>>) -> Option<Candidate<'c>> {
        let canary = self.rollout.desired.spec.update.canary.as_ref();
        let leads = self.etcd_leader();
        let first = candidates.iter().enumerate().min_by_key(|(_, c)| {
            let member = c.member;
            (
                !tries_once_more(self.rollout, c),
                Some(&member.name) != canary,
                c.available,
                Some(&member.name) == self.rollout.observed.leader.as_ref(),
                Some(&member.name) == leads,
                count(&self.locations, self.location(member.server)),
                count(&self.groups, self.group(member.server)),
                &member.name,
            )
        });
        let (place, _) = first?;
        Some(candidates.remove(place))
    }

    fn location(&self, server: ServerId) -> Option<&'a str> {
        let server = self.rollout.observed.hetzner.servers.get(&server)?;
        Some(&server.location)
    }

    fn group(&self, server: ServerId) -> Option<&'a str> {
        let mut groups = self.rollout.observed.hetzner.placement_groups.iter();
        let (name, _) = groups.find(|(_, group)| group.servers.contains(&server))?;
        Some(name)
    }

    fn etcd_leader(&self) -> Option<&'a NodeName> {
        let members = self.rollout.observed.datastore.etcd()?.members.as_ref()?;
        members.iter().find(|m| m.leader)?.node.as_ref()
    }
}

fn count(busy: &BTreeMap<&str, usize>, place: Option<&str>) -> usize {
    let count = place.and_then(|place| busy.get(place));
    count.copied().unwrap_or(0)
}
