//! A first server that is a machine of the user's own: looked at, installed where it has to be, and told who it is. All goes by
//! its pinned host key (`crate::machine`), and with the person's own keys until it knows the laptop's.

use std::io;

use fabrik_core::id::{MachineName, PoolName};
use fabrik_core::machines::means::{Found, Means, Wanted, means};
use fabrik_core::seed::own::{First, Next, next};
use fabrik_core::seed::{Stage, Step};
use fabrik_core::spec::Spec;

use super::carry_out::{Seed, words};
use super::progress::{self, Task};
use super::server::{Conversation, Door};
use super::state::State;
use super::{SeedError, confirm};
use crate::handover::host_key;
use crate::machine::{self, MachineError, Pinned};
use crate::node::identify::{Addresses, IDENTITY, Identity};
use crate::secrets::Secret;

const NOT_LET_IN: &str = "The seed's key was put into /root/.ssh/authorized_keys there: does the new system's sshd read that file? \
     It does not where nixos/ has `services.openssh.authorizedKeysInHomedir = false` or `authorizedKeysFiles` without it, nor \
     where others may write to /root/.ssh. Mend that, push, and repeat this";

/// What a look has shown.
pub struct Looked {
    /// In a line.
    pub says: String,
    /// What somebody has to agree to, and what they are told of it.
    pub change: Option<(Means, String)>,
}

/// Looks at it, and changes nothing.
pub async fn look(spec: &Spec, state: &State, first: &First) -> Result<Looked, MachineError> {
    let name = &first.name;
    if state.record.stage > Stage::Met && state.record.server == Some(first.id) {
        let says = format!("{name} is installed");
        return Ok(Looked { says, change: None });
    }
    let (_, found, means) = ask(spec, first).await?;
    let told = means.told(&found, &wanted(spec, first));
    Ok(Looked {
        says: format!("{name} answers by its host key: {found}"),
        change: (means != Means::Tell).then_some((means, told)),
    })
}

/// Step by step, until nothing is left to do. `agreed`: what somebody was shown, and has agreed to.
pub async fn go(
    seed: &mut Seed<'_>,
    first: &First,
    agreed: Option<Means>,
) -> Result<(), SeedError> {
    loop {
        let step = match next(first, &seed.state.laptop())? {
            Next::Done => return Ok(()),
            Next::Install => {
                install(seed, first, agreed).await?;
                continue;
            }
            Next::Do(step) => step,
        };
        let task = Task::begin(words(&step));
        if step == Step::ForgetSecrets {
            seed.state.forget_secrets()?;
        } else {
            let door = door(first);
            let mut conversation = Conversation::new(seed, first.id, door);
            conversation.carry_out(&step, &task).await?;
        }
        task.end()?;
    }
}

/// Removes what the laptop keeps of a cluster that has nothing at Hetzner. Its machines nobody undoes from here.
pub fn forget(spec: &Spec, state: Option<State>, said: Option<&str>) -> Result<(), SeedError> {
    let names: Vec<&str> = spec.own_servers.keys().map(MachineName::as_str).collect();
    progress::tell(format_args!(
        "{} has nothing at Hetzner. What this laptop keeps of it is removed. Its machines ({}) stay as they are: install them \
         anew, or wipe their disks, by hand.\n",
        spec.name,
        names.join(", ")
    ))?;
    confirm::ask(&spec.name, said)?;
    state.map_or(Ok(()), State::forget)
}

/// Until it knows who it is, and lets the laptop in.
async fn install(
    seed: &mut Seed<'_>,
    first: &First,
    agreed: Option<Means>,
) -> Result<(), SeedError> {
    let task = Task::begin(format!("{} knows who it is", first.name));
    seed.state.reach(first.id, Stage::Met)?;
    // It is asked again: much may have happened since somebody has agreed.
    let (way, _, means) = ask(seed.spec, first).await?;
    if means != Means::Tell && agreed != Some(means) {
        let machine = first.name.clone();
        return Err(SeedError::Changed { machine });
    }
    let dir = &seed.options.dir;
    machine::put(means, &way, dir, seed.commit, &PoolName::servers()).await?;
    task.tell(&format!("{} has its system", first.name))?;
    let way = way.installed();
    let line = host_key::let_in_line(&seed.keys.temporary_public);
    machine::when_it_answers(&way, "letting this laptop in", &line, None).await?;
    is_let_in(seed, first).await?;
    let then = "systemctl restart fabrik-identity.service";
    machine::tell(&way, IDENTITY, &identity(seed, first)?, then).await?;
    seed.state.reach(first.id, Stage::Trusted)?;
    Ok(task.end()?)
}

/// By the laptop's key, before the machine knows who it is: until then another system may take the place of one that does not.
async fn is_let_in(seed: &mut Seed<'_>, first: &First) -> Result<(), SeedError> {
    let record = &mut seed.state.record;
    record.host_key = Some(first.machine.host_key.clone());
    record.address = Some(first.machine.address.clone());
    let ssh = Conversation::new(seed, first.id, door(first)).by_own_key()?;
    let output = ssh.run("true").await?;
    let output = output.map_err(|failure| ssh.error(&failure, NOT_LET_IN))?;
    ssh.expect_success("true", output).map(drop)
}

async fn ask(spec: &Spec, first: &First) -> Result<(Pinned, Found, Means), MachineError> {
    let way = Pinned::new(&first.name, &first.machine, None)?;
    let (way, found) = machine::look(way).await?;
    let means = means(&found, &wanted(spec, first)).map_err(MachineError::unfit(&first.name))?;
    Ok((way, found, means))
}

fn wanted<'a>(spec: &'a Spec, first: &'a First) -> Wanted<'a> {
    Wanted {
        node: &first.node,
        server: first.id,
        system: spec.own_servers_system.as_deref().unwrap_or_default(),
        disk: &first.machine.disk,
        port: first.machine.port,
        has_ssh_keys: !spec.ssh_keys.is_empty(),
        firewall: &spec.firewall,
    }
}

/// As it would have kept it itself. No secret is in it.
fn identity(seed: &Seed<'_>, first: &First) -> Result<Secret, SeedError> {
    let addresses = Addresses {
        private: first.machine.node_ip,
        public: None,
        ipv6: None,
    };
    let of = (seed.spec.name.clone(), seed.state.record.cluster_id.clone());
    let identity = Identity::of_first_server(first.id, addresses, first.node.clone(), of);
    let text = serde_json::to_vec(&identity).map_err(io::Error::from)?;
    Ok(Secret::new(text))
}

fn door(first: &First) -> Door {
    Door {
        address: first.machine.address.clone(),
        port: first.machine.port,
        advice: "Does it run, does this laptop reach it there, and is that address in [firewall] ssh-from? Then repeat this"
            .to_owned(),
    }
}
