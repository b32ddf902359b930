//! What we write on a Node that we cordon: whose cordon it is, and under which ticket. A request that is late tells by
//! it that another ticket is held by now.

use crate::id::IntentId;
use crate::ledger::{Purpose, Ticket};

/// The mark of this member's ticket; no other ticket has it.
pub fn of(id: &IntentId, ticket: &Ticket) -> String {
    match &ticket.purpose {
        Purpose::Update(update) => format!("{id}.{}", update.number),
        Purpose::Leave { .. } => format!("{id}.leave.{}", ticket.at.as_second()),
    }
}

/// Whether it is a mark of this member, under any ticket. Earlier versions of fabrik wrote the member alone.
pub fn is_of(mark: &str, id: &IntentId) -> bool {
    let rest = mark.strip_prefix(id.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_of_one_member_whatever_its_ticket() {
        let id: IntentId = "abc234".parse().unwrap();
        for ours in ["abc234", "abc234.7", "abc234.leave.7"] {
            assert!(is_of(ours, &id), "{ours}");
        }
        for other in ["", "abc23", "abc2345", "xyz234.7"] {
            assert!(!is_of(other, &id), "{other}");
        }
    }
}
