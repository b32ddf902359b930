//! A line for each server that comes or goes. For people; nothing is decided by it.

use super::{coming, is_servers, join, leave};
use crate::id::NodeName;
use crate::observed::Observed;

/// Where a server stands on its way in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub node: NodeName,
    pub leaves: bool,
    pub words: String,
}

pub fn standings(observed: &Observed) -> Vec<Standing> {
    let ledger = &observed.ledger;
    let coming = coming(ledger).map(|(id, intent)| Standing {
        node: intent.name.clone(),
        leaves: intent.cancelled.is_some(),
        words: join::words(id, intent, observed),
    });
    let tickets = ledger.tickets.iter();
    let leaving = tickets.filter(|(_, t)| is_servers(&t.pool) && t.leave().is_some());
    let leaving = leaving.map(|(id, ticket)| Standing {
        node: ticket.node.clone(),
        leaves: true,
        words: leave::words(id, ticket, observed),
    });
    coming.chain(leaving).collect()
}
