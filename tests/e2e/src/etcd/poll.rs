//! What etcd's members said at one moment, and what of it must never be.

use std::collections::BTreeSet;

use fabrik_core::quorum::without_digits;

/// One moment.
#[derive(Clone, Debug, Default)]
pub struct Poll {
    /// Of those that answered.
    pub looks: Vec<Look>,
    /// Who is a member, by the one that has come farthest.
    pub members: Vec<Member>,
    /// Nodes of servers, as they were just before. `None` where the API did not answer.
    pub nodes: Option<BTreeSet<String>>,
}

/// What one member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    pub server: String,
    pub cluster: String,
    pub member: String,
    /// Empty where it knows none.
    pub leader: String,
    pub applied: u64,
    pub well: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    /// Empty until it has started.
    pub name: String,
    pub learner: bool,
}

impl Poll {
    pub fn of(answers: Vec<(Look, Vec<Member>)>) -> Self {
        let known = answers.iter().filter(|(_, members)| !members.is_empty());
        let farthest = known.max_by_key(|(look, _)| look.applied);
        Self {
            members: farthest
                .map(|(_, members)| members.clone())
                .unwrap_or_default(),
            looks: answers.into_iter().map(|(look, _)| look).collect(),
            nodes: None,
        }
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members.iter().filter(|m| !m.learner)
    }

    /// Whom all that answer call their leader. Nobody is while they say different things: each answers at a moment of its own.
    pub fn leader(&self) -> Option<&Member> {
        let mut words = self.looks.iter().map(|look| &look.leader);
        let leader = words.find(|word| !word.is_empty())?;
        let agree = words.all(|word| word.is_empty() || word == leader);
        let leader = self.members.iter().find(|m| m.id == *leader);
        leader.filter(|_| agree)
    }

    fn is_healthy(&self, member: &Member) -> bool {
        let own = self.looks.iter().find(|look| look.member == member.id);
        own.is_some_and(|look| look.well && !look.leader.is_empty())
    }
}

/// What must never be, in words. `known` are the Nodes that were there at any time before.
pub fn faults(before: Option<&Poll>, known: &BTreeSet<String>, now: &Poll) -> Vec<String> {
    let mut faults = Vec::new();
    let clusters: BTreeSet<_> = now.looks.iter().map(|look| &look.cluster).collect();
    if clusters.len() > 1 {
        faults.push(format!("two clusters: {:?}", now.looks));
    }
    let voters = now.voters().count();
    let healthy = now.voters().filter(|m| now.is_healthy(m)).count();
    if healthy < voters / 2 + 1 {
        faults.push(format!("{healthy} of {voters} voters are healthy: {now:?}"));
    }
    let learners = now.members.len() - voters;
    if learners + voters - healthy > 1 {
        faults.push(format!("two members on their way at once: {now:?}"));
    }
    for member in &now.members {
        let node = without_digits(&member.name).filter(|node| known.contains(*node));
        if let (Some(node), Some(nodes)) = (node, &now.nodes)
            && !nodes.contains(node)
        {
            faults.push(format!(
                "{node} is no Node any more, and is a member of etcd: {now:?}"
            ));
        }
    }
    let Some(before) = before else {
        return faults;
    };
    let ids = |poll: &Poll| {
        poll.members
            .iter()
            .map(|m| m.id.clone())
            .collect::<BTreeSet<_>>()
    };
    let (then, there) = (ids(before), ids(now));
    if then.symmetric_difference(&there).count() > 1 {
        faults.push(format!("two members changed at once: {before:?}, {now:?}"));
    }
    if let Some(leader) = before.leader()
        && !now.is_healthy(leader)
    {
        faults.push(format!(
            "{} led when it was stopped: {before:?}, {now:?}",
            leader.name
        ));
    }
    faults
}
