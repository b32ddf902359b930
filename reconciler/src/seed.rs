//! `fabrik seed`: from a repository that was pushed to a first server at Hetzner that runs fabrik, and from then on does the
//! rest by itself.
//!
//! The core decides each step (`fabrik_core::seed`); here is looked, shown, and carried out. Before anything is made that costs
//! money, all that could stop it half-way is looked for. What has to survive a kill is at Hetzner, in labels, or in a folder of
//! the laptop (`state`), and is written before or right after the step that it is about.
//!
//! Secrets go to the first server alone, on a host key that the machine made itself, and by the standard input of `ssh`. The
//! rescue system gets nothing that is secret.

mod build_there;
mod carry_out;
mod checks;
mod confirm;
mod error;
mod image;
mod observe;
mod options;
mod over;
mod own;
mod progress;
mod repository;
mod rescue;
mod run;
mod server;
mod ssh;
mod state;
mod write_image;

pub use confirm::typed;
pub use error::SeedError;
pub(crate) use error::last_line;
pub use options::{ImageFile, SeedOptions};
pub use own::forget;
pub use run::{Ending, begun, seed};
pub use state::{State, kubeconfigs};
