//! A cluster in memory, in which the product's own decisions are played against all that can go wrong.
//!
//! Nothing here decides for the product: leaders call `fabrik_core::step`, machines `fabrik_core::agent`. What the world
//! does (clocks, losses, people) comes from one seed, so that a run can be had again.

pub mod check;
pub mod coverage;
pub mod exhaustive;
pub mod leader;
pub mod machine;
pub mod mutant;
pub mod people;
pub mod rng;
pub mod schedule;
pub mod systems;
pub mod ways;
pub mod world;
