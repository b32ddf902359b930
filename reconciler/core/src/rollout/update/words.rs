//! What a person is told of a node at each stage.

use super::Stage;

impl Stage<'_> {
    /// What it is called, without what is in it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Withdrawn(_) => "withdrawn",
            Self::OutOfTime(_) => "out-of-time",
            Self::Cordon => "cordon",
            Self::Drain(..) => "drain",
            Self::Force(..) => "force",
            Self::HandOver { .. } => "hand-over",
            Self::Snapshot { .. } => "snapshot",
            Self::Try => "try",
            Self::Unsent(_) => "unsent",
            Self::Unordered => "unordered",
            Self::Applying => "applying",
            Self::Reset => "reset",
            Self::Verifying(_) => "verifying",
            Self::Keep => "keep",
            Self::Keeping => "keeping",
            Self::GoBack(_) => "go-back",
            Self::GoingBack => "going-back",
            Self::Done => "done",
            Self::WentBack(_) => "went-back",
            Self::TryAgain => "try-again",
            Self::Stuck(_) => "stuck",
            Self::Released => "released",
        }
    }

    /// Completes "node w-1 …".
    pub fn words(&self) -> String {
        match self {
            Self::Lost => "is gone".to_owned(),
            Self::Withdrawn(why) => format!("gives its ticket back: {why}"),
            Self::OutOfTime(why) => format!("is taken back: {why}"),
            Self::Cordon => "is about to be cordoned".to_owned(),
            Self::Drain(left, policy) => format!("is drained: {}", left.words(*policy)),
            Self::Force(left, policy) => {
                format!("is drained by force: {}", left.words(*policy))
            }
            Self::HandOver { to } => format!("hands etcd's leadership over to {to}"),
            Self::Snapshot { name } => format!("waits for the etcd snapshot {name}"),
            Self::Try => "is told to try the new system".to_owned(),
            Self::Unsent(why) => format!("is not told to try the new system now: {why}"),
            Self::Unordered => "was not told to try the new system in time".to_owned(),
            Self::Applying => "starts the new system".to_owned(),
            Self::Reset => "is silent beyond its deadline: its machine is reset".to_owned(),
            Self::Verifying(missing) => format!("runs the new system; {missing}"),
            Self::Keep => "is well on the new system".to_owned(),
            Self::Keeping => "makes the new system its default".to_owned(),
            Self::GoBack(why) => format!("has to go back: {why}"),
            Self::GoingBack => "goes back to the old system".to_owned(),
            Self::Done => "runs the new system".to_owned(),
            Self::WentBack(why) if why.is_empty() => "went back to the old system".to_owned(),
            Self::WentBack(why) => format!("went back to the old system: {why}"),
            Self::TryAgain => {
                "went back because nobody had spoken in time, and tries once more".to_owned()
            }
            Self::Stuck(why) => format!("needs a person: {why}"),
            Self::Released => "was stuck, and a person took its ticket away".to_owned(),
        }
    }
}
