//! What `fabrik seed` does next where the first server is a machine of the user's own. It is there already, and known by a host
//! key that nobody but the user has named: nothing is made, and no key has to be exchanged before secrets may go to it.

use super::{Laptop, Stage, Step, Stop};
use crate::id::{ClusterId, MachineName, NodeName, PoolName, ServerId};
use crate::spec::{Machine, Spec};

/// The machine that becomes the first server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    pub name: MachineName,
    pub machine: Machine,
    pub node: NodeName,
    pub id: ServerId,
}

/// What comes now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Next {
    /// Puts the pool's system on its disk, if it is not there, and tells it who it is.
    Install,
    Do(Step),
    Done,
}

/// The first one by its name, unless the laptop has begun with another one.
pub fn first(spec: &Spec, cluster: &ClusterId, laptop: &Laptop) -> Option<First> {
    let all = spec.own_servers.iter().map(|(name, machine)| {
        let node = NodeName::of_machine(&spec.name, &PoolName::servers(), name);
        First {
            name: name.clone(),
            machine: machine.clone(),
            id: ServerId::of_machine(cluster, &node),
            node,
        }
    });
    let begun = |first: &First| laptop.server == Some(first.id);
    all.clone().find(begun).or_else(|| all.clone().next())
}

/// The one step that comes next.
///
/// # Errors
/// Another machine may be the cluster already.
pub fn next(first: &First, laptop: &Laptop) -> Result<Next, Stop> {
    let server = first.id;
    let is_other = laptop.server.is_some_and(|known| known != server);
    Ok(match laptop.stage {
        Stage::Parted if laptop.has_secrets => Next::Do(Step::ForgetSecrets),
        Stage::Parted => Next::Done,
        stage if is_other && stage >= Stage::HandingOver => {
            return Err(Stop::OtherMachine(first.node.clone()));
        }
        _ if is_other => Next::Install,
        Stage::Unmet | Stage::Met => Next::Install,
        Stage::Trusted | Stage::HandingOver => Next::Do(Step::HandOver { server }),
        Stage::Founded => Next::Do(Step::AwaitCommit { server }),
        Stage::CarriedOut => Next::Do(Step::WriteKubeconfig { server }),
        Stage::KubeconfigWritten => Next::Do(Step::Part { server }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            address: "192.168.1.20".to_owned(),
            port: 22,
            user: "root".to_owned(),
            host_key: "ssh-ed25519 AAAA".to_owned(),
            disk: "/dev/sda".to_owned(),
            node_ip: "192.168.1.20".parse().unwrap(),
        }
    }

    fn first(node: &str) -> First {
        let node: NodeName = node.parse().unwrap();
        let cluster = "abcdefgh01234567".parse().unwrap();
        First {
            name: "attic".parse().unwrap(),
            machine: machine(),
            id: ServerId::of_machine(&cluster, &node),
            node,
        }
    }

    #[test]
    fn each_stage_has_one_step_and_the_last_has_none() {
        let first = first("demo-servers-attic");
        let mut laptop = Laptop {
            server: None,
            stage: Stage::Unmet,
            has_secrets: true,
        };
        assert_eq!(next(&first, &laptop), Ok(Next::Install));
        laptop.server = Some(first.id);
        let mut steps = Vec::new();
        for stage in [
            Stage::Met,
            Stage::Trusted,
            Stage::HandingOver,
            Stage::Founded,
            Stage::CarriedOut,
            Stage::KubeconfigWritten,
            Stage::Parted,
        ] {
            laptop.stage = stage;
            steps.push(next(&first, &laptop).unwrap());
        }
        let server = first.id;
        let expected = [
            Next::Install,
            Next::Do(Step::HandOver { server }),
            Next::Do(Step::HandOver { server }),
            Next::Do(Step::AwaitCommit { server }),
            Next::Do(Step::WriteKubeconfig { server }),
            Next::Do(Step::Part { server }),
            Next::Do(Step::ForgetSecrets),
        ];
        assert_eq!(steps, expected);
        laptop.has_secrets = false;
        assert_eq!(next(&first, &laptop), Ok(Next::Done));
    }

    #[test]
    fn no_second_machine_is_given_the_keys_of_one_cluster() {
        let other = first("demo-servers-cellar");
        let mut laptop = Laptop {
            server: Some(first("demo-servers-attic").id),
            stage: Stage::Trusted,
            has_secrets: true,
        };
        assert_eq!(next(&other, &laptop), Ok(Next::Install));
        laptop.stage = Stage::HandingOver;
        let stop = Stop::OtherMachine(other.node.clone());
        assert_eq!(next(&other, &laptop), Err(stop));
    }
}
