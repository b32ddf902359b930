//! Chances that a seed decides, so that a test can be played again.

use anyhow::{Context as _, Result};

/// Knuth's MMIX generator; its high bits are good enough for a test.
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// By `FABRIK_E2E_SEED`, else by `default`; says which.
    pub fn seeded(default: u64) -> Result<Self> {
        let seed = match std::env::var("FABRIK_E2E_SEED") {
            Ok(text) => text.parse().context("FABRIK_E2E_SEED is no number")?,
            Err(_) => default,
        };
        println!("seed {seed} (FABRIK_E2E_SEED)");
        Ok(Self { seed, state: seed })
    }

    /// Other chances for each place: what comes at one does not depend on what was drawn before.
    #[must_use]
    pub fn at(&self, place: u64) -> Self {
        let state = self.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = Self { state, ..*self };
        random.next();
        random
    }

    pub fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// One of these, if there are any.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> Option<T> {
        let length = u64::try_from(among.len()).ok().filter(|n| *n > 0)?;
        let chosen = (self.next() >> 33) % length;
        among.get(usize::try_from(chosen).ok()?).copied()
    }

    fn next(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.state
    }
}
