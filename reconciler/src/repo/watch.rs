//! Hints that a repository at a local path has changed, so that a push there is seen at once.
//!
//! A hint may be missed or come for nothing: who listens fetches, and polls all the same.

use std::path::Path;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// A stream of hints. They are not counted: many changes may give one hint.
pub struct Changes {
    hints: mpsc::Receiver<()>,
    /// Watches as long as it lives.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Changes {
    pub(super) fn of(local: Option<&Path>) -> Self {
        // One place: a hint that waits already says all that a second one would.
        let (sender, hints) = mpsc::channel(1);
        let watcher = local.and_then(|path| match watch(path, sender) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "no watch on the repository; polling it");
                None
            }
        });
        Self {
            hints,
            _watcher: watcher,
        }
    }

    /// Waits for the next hint; for ever, where there are none. Safe to drop.
    pub async fn next(&mut self) {
        if self.hints.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

fn watch(path: &Path, sender: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
    let checkout = path.join(".git");
    let git_dir = if checkout.is_dir() {
        checkout
    } else {
        path.to_owned()
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let reading = event.is_ok_and(|event| event.kind.is_access());
        if !reading {
            sender.try_send(()).ok();
        }
    })?;
    // Refs are replaced by a rename in their directory; packed ones in the directory above.
    watcher.watch(&git_dir.join("refs/heads"), RecursiveMode::Recursive)?;
    watcher.watch(&git_dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
