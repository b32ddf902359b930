//! From the tip of the branch to the commit in force, or to a refusal with every reason.
//!
//! A refused commit changes nothing: the last admitted one stays in force, also after a restart.

use fabrik_core::desired::Desired;
use fabrik_core::diagnostic::Diagnostic;
use fabrik_core::id::CommitId;
use fabrik_core::ledger::{Change, Ledger};
use fabrik_core::spec::Spec;
use futures::FutureExt as _;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{error, info};

use super::leader::{InForce, Leader};
use super::status::Refusal;
use crate::gate::{self, Access, Candidate, Faulty};
use crate::hetzner;
use crate::join::{Desk, Judge};

/// Why the commit in force is not at hand, and what it says as far as it can be told.
struct Unreadable {
    problem: String,
    spec: Option<Spec>,
}

/// Fetches, and takes the tip of the branch into force if it may be. An error is one of reaching git or the ledger or of
/// reading what is in force, and says nothing about the tip.
pub async fn fetch(leader: &mut Leader) -> Result<(), String> {
    let ledger = leader.ledger.lock().await.read().await?;
    // Also where git can't be reached: what is in force is in our clone.
    let head = leader.replica.repository.fetch().await;
    leader
        .replica
        .health
        .repository(head.as_ref().map(drop).map_err(ToString::to_string));
    // The checks may have become stricter, the age key another one, the clone new: the tip may be what mends it.
    let unreadable = load(leader, &ledger).await.err();
    let admitted = match head {
        Ok(head) => look_at(leader, &ledger, head, unreadable.as_ref()).await,
        Err(error) => Err(error.to_string()),
    };
    match (admitted, unreadable) {
        (Ok(true), _) | (Ok(false), None) => Ok(()),
        (Ok(false), Some(unreadable)) => Err(unreadable.problem),
        (Err(problem), None) => Err(problem),
        (Err(problem), Some(unreadable)) => Err(format!("{}\n{problem}", unreadable.problem)),
    }
}

/// Reads the commit that is in force already, if it is not at hand: it was admitted, and is not judged again.
async fn load(leader: &mut Leader, ledger: &Ledger) -> Result<(), Unreadable> {
    let Some(commit) = ledger.admitted.as_ref().map(|a| &a.commit) else {
        return Ok(());
    };
    if spec_at_hand(leader, commit).is_some() {
        return Ok(());
    }
    let unreadable = |why: &str, spec: Option<Spec>| Unreadable {
        problem: format!("the commit in force, {commit}, can't be read any more:\n{why}"),
        spec,
    };
    match read(leader, commit, Access::InForce(&leader.replica.sops)).await {
        Ok(Ok(candidate)) => {
            let spec = candidate.spec.clone();
            enter_into_force(leader, commit, candidate).map_err(|problem| Unreadable {
                problem,
                spec: Some(spec),
            })
        }
        Ok(Err(faulty)) => {
            let all: Vec<String> = faulty.diagnostics.iter().map(ToString::to_string).collect();
            Err(unreadable(&all.join("\n"), faulty.spec))
        }
        Err(problem) => Err(unreadable(&problem, None)),
    }
}

/// Takes the tip of the branch into force if it may be, and returns whether it was. One that was refused is looked at again
/// only where a person asks, or another reason than the commit itself may have played a part.
async fn look_at(
    leader: &mut Leader,
    ledger: &Ledger,
    head: CommitId,
    unreadable: Option<&Unreadable>,
) -> Result<bool, String> {
    leader.head = Some(head.clone());
    if ledger.admitted.as_ref().is_some_and(|a| a.commit == head) {
        leader.refusal = None;
        return Ok(false);
    }
    let again = std::mem::take(&mut leader.look_again) || unreadable.is_some();
    if !again && leader.refusal.as_ref().is_some_and(|r| r.commit == head) {
        return Ok(false);
    }
    consider(leader, ledger, &head, unreadable).await
}

async fn consider(
    leader: &mut Leader,
    ledger: &Ledger,
    head: &CommitId,
    unreadable: Option<&Unreadable>,
) -> Result<bool, String> {
    let admitted = ledger.admitted.as_ref().map(|a| &a.commit);
    let descends = match admitted {
        None => true,
        Some(admitted) => leader
            .replica
            .repository
            .descends(head, admitted)
            .map_err(|e| e.to_string())?,
    };
    let read = read(leader, head, Access::Cluster(&leader.replica.sops)).await?;
    let in_force = admitted
        .and_then(|commit| spec_at_hand(leader, commit))
        .or_else(|| unreadable?.spec.as_ref());
    let judged = gate::judge(
        read,
        &gate::Standing {
            ledger,
            commit: head,
            founded: &leader.replica.config.cluster.name,
            descends,
            in_force,
        },
    );
    match judged {
        Err(diagnostics) => {
            refuse(leader, head, diagnostics);
            Ok(false)
        }
        Ok(candidate) => admit(leader, head, candidate).await.map(|()| true),
    }
}

/// What a commit says, if it is the one that was loaded.
fn spec_at_hand<'a>(leader: &'a Leader, commit: &CommitId) -> Option<&'a Spec> {
    let desired = &leader.in_force.as_ref()?.desired;
    (desired.commit == *commit).then_some(&desired.spec)
}

async fn read(
    leader: &Leader,
    commit: &CommitId,
    access: Access<'_>,
) -> Result<Result<Candidate, Faulty>, String> {
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
    gate::read_commit(&tree, access)
        .await
        .map_err(|e| e.to_string())
}

fn refuse(leader: &mut Leader, commit: &CommitId, diagnostics: Vec<Diagnostic>) {
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
        leader.events.warning(
            "Refused",
            "Admit",
            &format!("{}: {}", commit.short(), all.join("\n")),
        );
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
        kubernetes: candidate.spec.kubernetes.version.clone(),
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
    leader.events.normal(
        "Admitted",
        "Admit",
        &format!("{} is in force", commit.short()),
    );
    Ok(())
}

fn enter_into_force(
    leader: &mut Leader,
    commit: &CommitId,
    candidate: Candidate,
) -> Result<(), String> {
    let hetzner = client(leader, &candidate)?;
    let desired = Desired {
        commit: commit.clone(),
        units: candidate.inventories(),
        targets: BTreeMap::new(),
        sources: candidate.node_secrets.sources,
        spec: candidate.spec,
    };
    open_desk(leader, hetzner.clone());
    leader.in_force = Some(Arc::new(InForce {
        desired,
        objects: candidate.units,
        node_secrets: candidate.node_secrets.values,
        hetzner,
    }));
    Ok(())
}

/// For the commit's project at Hetzner, where it has one.
fn client(leader: &Leader, candidate: &Candidate) -> Result<Option<hetzner::Client>, String> {
    if candidate.spec.hetzner.is_none() {
        return Ok(None);
    }
    let token = candidate.token.as_ref().ok_or_else(|| {
        "the Hetzner token was not opened; is the age key of this node there?".to_owned()
    })?;
    let endpoint = &leader.replica.config.hetzner.endpoint;
    let client = hetzner::Client::new(endpoint, hetzner::Token::from(token));
    let client = client.map_err(|e| e.to_string())?;
    Ok(Some(
        client.with_metrics(leader.replica.metrics.hetzner.clone()),
    ))
}

/// From now on new servers are judged with this token.
fn open_desk(leader: &Leader, hetzner: Option<hetzner::Client>) {
    let desk = Arc::new(Desk {
        config: Arc::new(leader.replica.config.clone()),
        ledger: Arc::clone(&leader.ledger),
        authority: leader.authority.clone(),
        hetzner,
        events: leader.events.clone(),
    });
    let judge: Judge = Arc::new(move |claim| {
        let desk = Arc::clone(&desk);
        async move { desk.judge(claim).await }.boxed()
    });
    leader.replica.join_desk.send_replace(Some(judge));
}
