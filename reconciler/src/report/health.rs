//! Whether the process is alive and of use: what `/healthz` and `/readyz` answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A loop that has not come round for this long is stuck: a fetch gives up after 30 s, a request earlier.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// Kept up to date by the loop, read by the HTTP server.
#[derive(Debug)]
pub struct Health(Mutex<Facts>);

#[derive(Debug, Clone)]
struct Facts {
    last_beat: Instant,
    kubernetes: Result<(), String>,
    repository: Result<(), String>,
}

impl Health {
    /// Of a process that has just started: alive, and not ready yet.
    pub fn starting() -> Self {
        Self(Mutex::new(Facts {
            last_beat: Instant::now(),
            kubernetes: Err("no API server has answered yet".to_owned()),
            repository: Err("nothing has been fetched yet".to_owned()),
        }))
    }

    /// The loop came round. A replica that does not lead beats as well, while it waits.
    pub fn beat(&self) {
        self.change(|facts| facts.last_beat = Instant::now());
    }

    /// An API server answered, or why none did.
    pub fn kubernetes(&self, state: Result<(), String>) {
        self.change(|facts| facts.kubernetes = state);
    }

    /// The repository was fetched, or why it was not.
    pub fn repository(&self, state: Result<(), String>) {
        self.change(|facts| facts.repository = state);
    }

    /// Fails when the loop is stuck: then a restart helps.
    pub fn alive(&self) -> Result<(), String> {
        let idle = self.facts().last_beat.elapsed();
        if idle < STUCK_AFTER {
            return Ok(());
        }
        Err(format!(
            "the loop has not come round for {} s",
            idle.as_secs()
        ))
    }

    /// Fails when this replica could not do its work, with every reason.
    pub fn ready(&self) -> Result<(), String> {
        let facts = self.facts();
        let reasons: Vec<String> = [
            ("kubernetes", facts.kubernetes),
            ("repository", facts.repository),
        ]
        .into_iter()
        .filter_map(|(what, state)| state.err().map(|why| format!("{what}: {why}")))
        .chain(self.alive().err())
        .collect();
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons.join("\n"))
        }
    }

    fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn facts(&self) -> Facts {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_no_longer_comes_round_is_stuck() {
        let health = Health::starting();
        tokio::time::advance(STUCK_AFTER / 2).await;
        health.beat();
        tokio::time::advance(STUCK_AFTER / 2).await;
        assert_eq!(health.alive(), Ok(()));
        tokio::time::advance(STUCK_AFTER / 2).await;
        assert_eq!(
            health.alive(),
            Err("the loop has not come round for 180 s".to_owned())
        );
    }

    #[tokio::test]
    async fn ready_is_who_has_an_api_server_and_a_repository() {
        let health = Health::starting();
        let why = health.ready().unwrap_err();
        assert_eq!(
            why,
            "kubernetes: no API server has answered yet\nrepository: nothing has been fetched yet"
        );
        health.kubernetes(Ok(()));
        health.repository(Ok(()));
        assert_eq!(health.ready(), Ok(()));
        health.repository(Err("branch main is missing".to_owned()));
        assert_eq!(
            health.ready(),
            Err("repository: branch main is missing".to_owned())
        );
    }
}
