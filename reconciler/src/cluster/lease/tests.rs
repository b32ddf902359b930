//! Two or three candidates, a Lease in memory and a clock that the test drives.

use std::sync::Mutex;

use super::*;

/// A Lease that can be cut off from one replica.
#[derive(Clone)]
struct Memory {
    record: Arc<Mutex<Option<Record>>>,
    cut_off: Arc<Mutex<bool>>,
}

/// As founding leaves it.
impl Default for Memory {
    fn default() -> Self {
        let given_back = Record {
            holder: None,
            transitions: 0,
            version: "1".to_owned(),
            duration: LEASE,
        };
        Self {
            record: Arc::new(Mutex::new(Some(given_back))),
            cut_off: Arc::default(),
        }
    }
}

const LEASE: Duration = Duration::from_secs(12);

impl Memory {
    fn same_lease(&self) -> Self {
        Self {
            record: Arc::clone(&self.record),
            cut_off: Arc::default(),
        }
    }

    fn reach(&self) -> Result<(), LeaseError> {
        if *self.cut_off.lock().unwrap() {
            return Err(LeaseError::Unreachable {
                name: "lease".to_owned(),
                reason: "cut off".to_owned(),
            });
        }
        Ok(())
    }

    fn holder(&self) -> Option<String> {
        self.record
            .lock()
            .unwrap()
            .as_ref()
            .and_then(|r| r.holder.clone())
    }
}

impl LeaseStore for Memory {
    async fn last_epoch(&self) -> Result<u64, LeaseError> {
        self.reach()?;
        Ok(7)
    }

    async fn read(&self) -> Result<Option<Record>, LeaseError> {
        self.reach()?;
        Ok(self.record.lock().unwrap().clone())
    }

    async fn write(
        &self,
        holder: Option<&str>,
        transitions: u64,
        before: Option<&Record>,
    ) -> Result<Record, LeaseError> {
        self.reach()?;
        let mut record = self.record.lock().unwrap();
        if record.as_ref().map(|r| &r.version) != before.map(|r| &r.version) {
            return Err(LeaseError::Conflict);
        }
        let version = before
            .map_or(1, |r| r.version.parse::<u64>().unwrap() + 1)
            .to_string();
        let written = Record {
            holder: holder.map(str::to_owned),
            transitions,
            version,
            duration: LEASE,
        };
        *record = Some(written.clone());
        Ok(written)
    }
}

fn candidate(name: &str, lease: &Memory) -> Candidate<Memory> {
    Candidate::new(lease.clone(), name.to_owned(), LeaderElection::default())
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_in_order_is_followed_within_two_seconds() {
    let lease = Memory::default();
    let first = candidate("a", &lease).acquire().await;
    let second = tokio::spawn({
        let lease = lease.clone();
        async move { candidate("b", &lease).acquire().await }
    });
    sleep(Duration::from_secs(30)).await;
    assert!(
        !second.is_finished(),
        "a leader that renews is not replaced"
    );
    assert_eq!(first.authority.check(), Ok(()));

    let authority = first.authority.clone();
    let stopped = Instant::now();
    first.release().await;
    assert_eq!(authority.check(), Err(Lost));
    let second = second.await.unwrap();
    assert!(
        stopped.elapsed() <= Duration::from_secs(2),
        "{:?}",
        stopped.elapsed()
    );
    assert!(second.authority.epoch > authority.epoch);
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_followed_within_fifteen_seconds() {
    let lease = Memory::default();
    let first = candidate("a", &lease).acquire().await;
    let second = tokio::spawn({
        let lease = lease.clone();
        async move { candidate("b", &lease).acquire().await }
    });
    sleep(Duration::from_secs(5)).await;
    drop(first);
    let killed = Instant::now();
    second.await.unwrap();
    assert!(
        killed.elapsed() < Duration::from_secs(15),
        "{:?}",
        killed.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_up_too_late_does_not_take_its_next_step() {
    let lease = Memory::default();
    let leader = candidate("a", &lease).acquire().await;
    let (answer, answered) = tokio::sync::oneshot::channel();
    let mut went_on = false;
    let work = async {
        answered.await.unwrap();
        went_on = true;
    };
    let mut covered = Box::pin(leader.authority.covers(work));
    assert!(futures::poll!(covered.as_mut()).is_pending());

    // Frozen: nobody polls it, and nobody renews the lease.
    *lease.cut_off.lock().unwrap() = true;
    sleep(Duration::from_secs(9)).await;
    answer.send(()).unwrap();
    covered.await;
    assert!(!went_on);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_stops_before_another_one_starts() {
    let lease = Memory::default();
    let far_side = lease.same_lease();
    let first = candidate("a", &lease).acquire().await;
    let second = tokio::spawn(async move {
        let leadership = candidate("b", &far_side).acquire().await;
        (leadership, Instant::now())
    });
    sleep(Duration::from_secs(3)).await;
    *lease.cut_off.lock().unwrap() = true;
    first.authority.lost().await;
    let lost = Instant::now();
    assert_eq!(first.authority.check(), Err(Lost));
    let (_leadership, began) = second.await.unwrap();
    assert!(
        began > lost + Duration::from_secs(2),
        "the gap is {:?}",
        began - lost
    );
}

#[tokio::test(start_paused = true)]
async fn two_that_see_the_lease_end_at_once_do_not_both_lead() {
    let lease = Memory::default();
    let candidates: Vec<_> = (0..5)
        .map(|n| {
            let lease = lease.clone();
            tokio::spawn(async move {
                let leadership = candidate(&format!("c{n}"), &lease).acquire().await;
                let authority = leadership.authority.clone();
                (leadership, authority)
            })
        })
        .collect();
    sleep(Duration::from_secs(60)).await;
    let leading = candidates.iter().filter(|c| c.is_finished()).count();
    assert_eq!(leading, 1);
    assert!(lease.holder().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_stolen_lease_ends_the_leadership_at_the_next_renewal() {
    let lease = Memory::default();
    let first = candidate("a", &lease).acquire().await;
    let before = lease.record.lock().unwrap().clone();
    lease
        .write(Some("thief"), 9, before.as_ref())
        .await
        .unwrap();
    first.authority.lost().await;
    first.release().await;
    assert_eq!(
        lease.holder().as_deref(),
        Some("thief"),
        "what is not ours is not given back"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deleted_lease_makes_no_second_leader_and_no_older_epoch() {
    let lease = Memory::default();
    let first = candidate("a", &lease).acquire().await;
    let second = tokio::spawn({
        let lease = lease.clone();
        async move {
            let leadership = candidate("b", &lease).acquire().await;
            (leadership, Instant::now())
        }
    });
    sleep(Duration::from_secs(5)).await;
    *lease.record.lock().unwrap() = None;
    first.authority.lost().await;
    let lost = Instant::now();
    let (second, began) = second.await.unwrap();
    assert!(began > lost, "both led");
    assert_eq!(second.authority.epoch, 8, "it goes on from the ledger's");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_trusts_itself_for_longer_than_we_would_is_waited_for() {
    let lease = Memory::default();
    let held = Record {
        holder: Some("a".to_owned()),
        transitions: 3,
        version: "5".to_owned(),
        duration: LEASE * 3,
    };
    *lease.record.lock().unwrap() = Some(held);
    let began = Instant::now();
    candidate("b", &lease).acquire().await;
    assert!(began.elapsed() >= LEASE * 3, "{:?}", began.elapsed());
}
