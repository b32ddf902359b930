//! The laptop and the first server: host keys, what is handed over, and what comes back, all over SSH and under a pinned host
//! key (`fabrik receive` is the other side).

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use fabrik_core::id::ServerId;
use fabrik_core::names::API_PORT;
use fabrik_core::seed::{Stage, Step};
use ssh_key::{Algorithm, PublicKey};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::{Instant, sleep, timeout};

use super::SeedError;
use super::carry_out::Seed;
use super::error::last_line;
use super::progress::Task;
use super::ssh::{Failure, Ssh, heard, tell};
use super::state::{self, Host};
use crate::handover::{Bundle, Cluster, Repository, VERSION};
use crate::secrets::Secret;

const HOST_KEY_LIMIT: Duration = Duration::from_secs(60);
/// k3s starts for the first time, and founding waits for its API.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(1800);
/// Between two looks at the status.
const STATUS_PAUSE: Duration = Duration::from_secs(5);
/// k3s' own, of an admin (docs.k3s.io, "Cluster Access").
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// A week: to look at the new cluster, and to make others.
const KUBECONFIG_LIFE: &str = "168h";

/// Where the first server is, and what a person could look at where it does not answer.
#[derive(Debug, Clone)]
pub struct Door {
    pub address: String,
    pub port: u16,
    pub advice: String,
}

impl Door {
    pub fn at_hetzner(seed: &Seed<'_>, address: Ipv4Addr) -> Self {
        let from = seed.spec.firewall.ssh_from.join(", ");
        Self {
            address: address.to_string(),
            port: seed.options.ssh_port,
            advice: format!(
                "Is this laptop's public address in [firewall] ssh-from ({from})? Does the image boot (Hetzner's console shows \
                 its screen)? Then repeat this"
            ),
        }
    }
}

/// The first server, while a step is carried out on it.
pub struct Conversation<'a, 'b> {
    seed: &'a mut Seed<'b>,
    server: ServerId,
    door: Door,
}

impl<'a, 'b> Conversation<'a, 'b> {
    pub fn new(seed: &'a mut Seed<'b>, server: ServerId, door: Door) -> Self {
        Self { seed, server, door }
    }

    pub async fn carry_out(&mut self, step: &Step, task: &Task) -> Result<(), SeedError> {
        match step {
            Step::Meet { .. } => self.meet().await?,
            Step::UseHostKey { .. } => self.use_host_key().await?,
            Step::HandOver { .. } => self.hand_over(task).await?,
            Step::AwaitCommit { .. } => self.await_commit(task).await?,
            Step::WriteKubeconfig { .. } => self.write_kubeconfig().await?,
            _ => self.part().await?,
        }
        let stage = match step {
            Step::Meet { .. } => Stage::Met,
            Step::UseHostKey { .. } => Stage::Trusted,
            Step::HandOver { .. } => Stage::Founded,
            Step::AwaitCommit { .. } => Stage::CarriedOut,
            Step::WriteKubeconfig { .. } => Stage::KubeconfigWritten,
            _ => Stage::Parted,
        };
        self.seed.state.reach(self.server, stage)
    }

    /// By the host key of the user data, which whoever reads the machine's metadata has too: nothing is said over it but what
    /// the machine's own key is.
    async fn meet(&mut self) -> Result<(), SeedError> {
        let ssh = self.by_first_key()?;
        ssh.answers(self.seed.options.boot_limit, &self.door.advice)
            .await?;
        let command = "fabrik receive host-key";
        let told = ssh.say(command).await?;
        let key = public_key(&told).ok_or_else(|| SeedError::Answer {
            command: command.to_owned(),
        })?;
        let record = &mut self.seed.state.record;
        record.host_key = Some(key);
        record.address = Some(self.door.address.clone());
        Ok(())
    }

    /// It may answer by its own key already: an earlier run was not told.
    async fn use_host_key(&mut self) -> Result<(), SeedError> {
        let own = self.by_own_key()?;
        if let Ok(output) = own.run("true").await?
            && output.status.success()
        {
            return Ok(());
        }
        let first = self.by_first_key()?;
        let command = "fabrik receive host-key --use";
        // sshd restarts under it: that the connection broke says nothing.
        if let Ok(output) = first.run(command).await? {
            first.expect_success(command, output)?;
        }
        own.answers(HOST_KEY_LIMIT, &self.door.advice).await
    }

    async fn hand_over(&mut self, task: &Task) -> Result<(), SeedError> {
        let own = self.by_own_key()?;
        own.answers(self.seed.options.boot_limit, &self.door.advice)
            .await?;
        let bundle = self.bundle()?;
        // From here on it may be the cluster.
        self.seed.state.reach(self.server, Stage::HandingOver)?;
        let line = "fabrik receive identity";
        let mut command = own.command(line);
        command.stdin(Stdio::piped());
        let mut child = command.spawn().map_err(SeedError::missing("ssh"))?;
        tell(&mut child, &bundle).await;
        let mut last = String::new();
        let stderr = child.stderr.take();
        let listen = async {
            let Some(stderr) = stderr else { return };
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(said)) = lines.next_line().await {
                last = last_line(said.as_bytes());
                task.note(&last);
            }
        };
        let done = timeout(HAND_OVER_LIMIT, async {
            let ((), output) = tokio::join!(listen, child.wait_with_output());
            output
        });
        let Ok(output) = done.await else {
            let said = format!("no end within {} s", HAND_OVER_LIMIT.as_secs());
            return Err(own.error(&Failure::Silent(said), AGAIN));
        };
        let mut output = output?;
        output.stderr = last.into_bytes();
        let output = heard(output).map_err(|failure| own.error(&failure, AGAIN))?;
        own.expect_success(line, output)?;
        Ok(())
    }

    fn bundle(&self) -> Result<Secret, SeedError> {
        let seed = &self.seed;
        let token = match &seed.place.token_file {
            Some(file) => {
                let token = std::fs::read(file).map_err(SeedError::file(file))?;
                Some(Secret::new(token).trimmed())
            }
            None => None,
        };
        let bundle = Bundle {
            fabrik: VERSION,
            cluster: Cluster {
                name: seed.spec.name.clone(),
                id: seed.state.record.cluster_id.clone(),
            },
            repository: Repository {
                url: seed.place.url.clone(),
                branch: seed.place.branch.clone(),
                known_hosts: seed.place.known_hosts.clone(),
                token,
            },
            age_key: seed.age_key.clone().ok_or(SeedError::NoAgeKey)?,
            deploy_key: seed.state.deploy_key()?,
            signing_key: seed.state.signing_key()?,
            webhook_secret: seed.state.webhook_secret()?,
            k3s_token: seed.state.k3s_token()?,
            hetzner_endpoint: seed.options.other_endpoint().map(str::to_owned),
            k3s_server_urls: Vec::new(),
        };
        Ok(bundle.text())
    }

    /// Has the server itself wait, and shows what its status says meanwhile.
    async fn await_commit(&mut self, task: &Task) -> Result<(), SeedError> {
        let own = self.by_own_key()?;
        let deadline = Instant::now() + self.seed.options.timeout;
        let kubeconfig = format!("--kubeconfig {KUBECONFIG}");
        let look = format!("fabrik status {kubeconfig}");
        let wait = async {
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let secs = left.as_secs().max(1);
                let commit = self.seed.commit;
                let line = format!("fabrik wait {commit} --timeout {secs}s {kubeconfig}");
                let limit = left + Duration::from_secs(60);
                match own.run_within(limit, &line).await? {
                    Ok(output) => return Ok(output),
                    Err(failure) if left.is_zero() => return Err(own.error(&failure, AGAIN)),
                    Err(_) => sleep(STATUS_PAUSE).await,
                }
            }
        };
        let output = tokio::select! {
            output = wait => output?,
            never = follow(&own, &look, task) => match never {},
        };
        if output.status.success() {
            return Ok(());
        }
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            task.tell(&last_line(line.as_bytes()))?;
        }
        // With it a person can look for themselves.
        self.write_kubeconfig().await?;
        Err(SeedError::NotCarriedOut {
            kubeconfig: self.kubeconfig(),
        })
    }

    /// The server makes one that ends by itself: its own admin file stays there.
    async fn write_kubeconfig(&self) -> Result<(), SeedError> {
        let own = self.by_own_key()?;
        let line = format!(
            "fabrik kubeconfig --kubeconfig {KUBECONFIG} --else-server https://{}:{API_PORT} --as seed --valid-for {KUBECONFIG_LIFE} \
             --output -",
            self.api_host()
        );
        let kubeconfig = Secret::new(own.say(&line).await?);
        state::write(&self.kubeconfig(), kubeconfig.expose())
    }

    /// What its certificate bears, and this laptop reaches.
    fn api_host(&self) -> &str {
        let name = self.seed.spec.api.name.as_ref();
        let name = name.filter(|_| self.server.is_own());
        name.unwrap_or(&self.door.address)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.seed.kubeconfig()
    }

    /// Where it does not let this laptop in any more, that was done before.
    async fn part(&self) -> Result<(), SeedError> {
        let own = self.by_own_key()?;
        let line = "fabrik receive done";
        match own.run(line).await? {
            Ok(output) => own.expect_success(line, output).map(drop),
            Err(Failure::Denied(_)) => Ok(()),
            Err(failure) => Err(own.error(&failure, AGAIN)),
        }
    }

    fn by_first_key(&self) -> Result<Ssh, SeedError> {
        let (_, public) = self.seed.state.first_host_key()?;
        self.ssh(Host::First, &public)
    }

    pub(super) fn by_own_key(&self) -> Result<Ssh, SeedError> {
        let public = self
            .seed
            .state
            .record
            .host_key
            .as_deref()
            .unwrap_or_default();
        self.ssh(Host::Own, public)
    }

    fn ssh(&self, host: Host, public: &str) -> Result<Ssh, SeedError> {
        const ALIAS: &str = "first-server";
        Ok(Ssh {
            about: "the first server",
            address: self.door.address.clone(),
            port: self.door.port,
            user: "root".to_owned(),
            key: self.seed.keys.temporary.clone(),
            alias: ALIAS,
            known_hosts: self.seed.state.known_host(host, ALIAS, Some(public))?,
            learns: false,
        })
    }
}

const AGAIN: &str = "Repeat this: it goes on";

/// Shows what is new in the cluster's status, for as long as somebody waits.
async fn follow(own: &Ssh, look: &str, task: &Task) -> Infallible {
    let mut shown = String::new();
    loop {
        if let Ok(Ok(output)) = own.run(look).await
            && output.status.success()
        {
            let page = String::from_utf8_lossy(&output.stdout).into_owned();
            let is_new = |line: &&str| !line.is_empty() && !shown.lines().any(|l| l == *line);
            for line in page.lines().filter(is_new) {
                let line = last_line(line.as_bytes());
                // Whoever does not read on does not stop the cluster.
                task.tell(&format!("  {line}")).ok();
            }
            shown = page;
        }
        sleep(STATUS_PAUSE).await;
    }
}

/// Type and base64 of what a machine says to be its host key, if it is one that is asked for.
fn public_key(told: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(told).ok()?;
    let mut key = PublicKey::from_openssh(text.trim()).ok()?;
    if key.algorithm() != Algorithm::Ed25519 {
        return None;
    }
    key.set_comment("");
    key.to_openssh().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_key_is_taken_as_nothing_but_one() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea";
        let with_comment = format!("{key} root@demo\n");
        assert_eq!(public_key(with_comment.as_bytes()).as_deref(), Some(key));
        for other in [
            "",
            "ssh-ed25519 AAAA",
            "error: no",
            &format!("{key}\nevil ssh-rsa AAAA"),
        ] {
            assert_eq!(public_key(other.as_bytes()), None, "{other}");
        }
    }
}
