//! Hetzner Cloud: what exists ([`observe`]), the few things that we do to it ([`execute`]), its beginning ([`seeding`]), and its
//! end ([`destroy`]).
//!
//! Nothing here decides. Reads are tolerant: a field or a value that we do not know is passed over or kept as text.
//! Writes are never repeated blindly: each create bears a label by which a lost reply is found again, and a server is
//! touched only when its id, its name and its labels all say that it is the one that was meant.

mod absent;
mod budget;
mod claimants;
mod client;
mod convert;
pub mod destroy;
mod error;
mod execute;
mod machines;
mod metrics;
mod observe;
pub mod pricing;
mod refusal;
pub mod seeding;
mod token;
mod wire;

pub use self::claimants::claimants;
pub use self::client::Client;
pub use self::error::{FieldError, HetznerError, RequestId};
pub use self::execute::{Context, Outcome, execute};
pub use self::machines::{Machine, Machines, control_plane, not_at, not_of_workers};
pub use self::metrics::Metrics;
pub use self::observe::{find_left, observe};
pub use self::token::Token;
