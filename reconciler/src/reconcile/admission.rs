//! From the tip of the branch to the commit in force, or to a refusal with every reason.
//!
//! A refused commit changes nothing: the last admitted one stays in force, also after a restart.

use fabrik_core::desired::Desired;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::id::CommitId;
use fabrik_core::ledger::{Change, Ledger};
use jiff::Timestamp;
use std::sync::Arc;
use tracing::{error, info};

use super::leader::{InForce, Leader};
use super::status::Refusal;
use crate::gate::{self, Access, Candidate, Faulty};
use crate::hetzner;

/// Fetches, and takes the tip of the branch into force if it may be. An error is one of reaching git or the ledger, and
/// says nothing about the commit.
pub async fn fetch(leader: &mut Leader) -> Result<(), String> {
    let ledger = leader.ledger.lock().await.read().await?;
    // Also where git can't be reached: what is in force is in our clone.
    let head = leader.replica.repository.fetch().await;
    leader
        .replica
        .health
        .repository(head.as_ref().map(drop).map_err(ToString::to_string));
    if let Some(admitted) = ledger.admitted.as_ref().map(|a| a.commit.clone()) {
        let loaded = leader
            .in_force
            .as_ref()
            .is_some_and(|f| f.desired.commit == admitted);
        if !loaded {
            load(leader, &admitted).await?;
        }
    }
    let head = head.map_err(|e| e.to_string())?;
    leader.head = Some(head.clone());
    if ledger.admitted.as_ref().is_some_and(|a| a.commit == head) {
        leader.refusal = None;
        return Ok(());
    }
    if leader.refusal.as_ref().is_some_and(|r| r.commit == head) {
        return Ok(());
    }
    consider(leader, &ledger, &head).await
}

/// Reads the commit that is in force already: it was admitted, and is not judged again.
async fn load(leader: &mut Leader, commit: &CommitId) -> Result<(), String> {
    let said = |faults: &[Diagnostic]| {
        let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
        format!(
            "the commit in force, {commit}, can't be read any more:\n{}",
            all.join("\n")
        )
    };
    let candidate = read(leader, commit)
        .await?
        .map_err(|faulty| said(&faulty.diagnostics))?;
    enter_into_force(leader, commit, candidate)
}

async fn consider(leader: &mut Leader, ledger: &Ledger, head: &CommitId) -> Result<(), String> {
    let descends = match &ledger.admitted {
        None => true,
        Some(admitted) => leader
            .replica
            .repository
            .descends(head, &admitted.commit)
            .map_err(|e| e.to_string())?,
    };
    let read = read(leader, head).await?;
    let judged = gate::judge(
        read,
        &gate::Standing {
            ledger,
            commit: head,
            descends,
            in_force: leader.in_force.as_ref().map(|f| &f.desired.spec),
        },
    );
    match judged {
        Err(diagnostics) => {
            refuse(leader, head, diagnostics).await;
            Ok(())
        }
        Ok(candidate) => admit(leader, head, candidate).await,
    }
}

async fn read(leader: &Leader, commit: &CommitId) -> Result<Result<Candidate, Faulty>, String> {
    let repository = leader.replica.repository.clone();
    let of = commit.clone();
    let tree = tokio::task::spawn_blocking(move || repository.tree(&of)).await;
    let tree = match tree.map_err(|e| e.to_string())? {
        Ok(tree) => tree,
        Err(error) => {
            let fault = error.into_diagnostic().map_err(|e| e.to_string())?;
            return Ok(Err(Faulty::of(fault)));
        }
    };
    gate::read_commit(&tree, Access::Cluster(&leader.replica.sops))
        .await
        .map_err(|e| e.to_string())
}

async fn refuse(leader: &mut Leader, commit: &CommitId, diagnostics: Vec<Diagnostic>) {
    let news = leader
        .refusal
        .as_ref()
        .is_none_or(|r| r.commit != *commit || r.diagnostics != diagnostics);
    if news {
        for diagnostic in &diagnostics {
            error!(commit = commit.short(), "refused: {diagnostic}");
        }
        leader.replica.metrics.refused();
        let all: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        leader
            .events
            .warning(
                "Refused",
                "Admit",
                &format!("{}: {}", commit.short(), all.join("\n")),
            )
            .await;
        leader.refusal = Some(Refusal {
            commit: commit.clone(),
            at: Timestamp::now(),
            diagnostics,
        });
    }
}

async fn admit(leader: &mut Leader, commit: &CommitId, candidate: Candidate) -> Result<(), String> {
    let change = Change::Admit {
        commit: commit.clone(),
        foundation: candidate.spec.foundation(),
    };
    let now = Timestamp::now();
    leader
        .replica
        .repository
        .pin(commit)
        .map_err(|e| e.to_string())?;
    leader
        .ledger
        .lock()
        .await
        .write(&[change], now, &leader.authority)
        .await?;
    info!(commit = commit.short(), "admitted");
    leader.replica.metrics.admitted(now);
    leader.refusal = None;
    leader.backoff.clear();
    enter_into_force(leader, commit, candidate)?;
    leader
        .events
        .normal(
            "Admitted",
            "Admit",
            &format!("{} is in force", commit.short()),
        )
        .await;
    Ok(())
}

fn enter_into_force(
    leader: &mut Leader,
    commit: &CommitId,
    candidate: Candidate,
) -> Result<(), String> {
    let Some(token) = &candidate.token else {
        return Err(
            "the Hetzner token was not opened; is the age key of this node there?".to_owned(),
        );
    };
    let endpoint = &leader.replica.config.hetzner.endpoint;
    let hetzner =
        hetzner::Client::new(endpoint, hetzner::Token::from(token)).map_err(|e| e.to_string())?;
    let desired = Desired {
        commit: commit.clone(),
        units: candidate.inventories(),
        spec: candidate.spec,
    };
    leader.in_force = Some(Arc::new(InForce {
        desired,
        objects: candidate.units,
        hetzner,
    }));
    Ok(())
}
