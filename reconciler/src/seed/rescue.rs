//! The rescue system of the temporary server, and how it proves whose it is.
//!
//! It makes a host key at each boot, and Hetzner tells nobody which. But it can read the user data of its server, which nobody
//! else can: Hetzner's API does not show them again. They are a word that this laptop has made. Who tells the digest of that word
//! and of the host key that was seen is that server; whoever stands in between has a key of their own, and not the word.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use fabrik_core::hex;
use fabrik_core::seed::Extent;
use fabrik_core::spec::Firewall;
use ring::digest::{SHA256, digest};

use super::SeedError;
use super::carry_out::Seed;
use super::error::last_line;
use super::progress::Task;
use super::ssh::Ssh;
use super::state::Host;
use crate::secrets::Secret;

/// A rescue system was seen to answer half a minute after the power came on (field measurements of
/// syself/cluster-api-provider-hetzner).
const LIMIT: Duration = Duration::from_secs(300);
const ADVICE: &str =
    "The server is made anew once; if it goes on, see whether this network lets SSH out";
const ALIAS: &str = "rescue";
/// Debian keeps the host key there, and the metadata service is the network's and no part of what was booted
/// (docs.hetzner.cloud, "Server metadata").
const PROOF: &str = "word=$(curl -fsS --retry 3 --max-time 10 http://169.254.169.254/hetzner/v1/userdata) && \
                     key=$(cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub) && \
                     printf '%s %s' \"$word\" \"$key\" | sha256sum";

/// The way in, once it answers and has proved its host key; `None` where it does not answer.
///
/// # Errors
/// It proves nothing; or the first server would not let this laptop in.
pub async fn reach(seed: &Seed<'_>, address: Ipv4Addr) -> Result<Option<Ssh>, SeedError> {
    let task = Task::begin("reached the rescue system");
    let ssh = Ssh {
        about: "the rescue system",
        address: address.to_string(),
        port: seed.options.ssh_port,
        user: "root".to_owned(),
        key: seed.keys.temporary.clone(),
        alias: ALIAS,
        known_hosts: seed.state.known_host(Host::Rescue, ALIAS, None)?,
        learns: true,
    };
    match ssh.answers(LIMIT, ADVICE).await {
        Ok(()) => task.end()?,
        Err(error @ (SeedError::Unreachable { .. } | SeedError::HostKey { .. })) => {
            task.tell(&error.to_string())?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    }
    if !seed.options.trust_rescue {
        let task = Task::begin("it is the temporary server's, and no other machine");
        let word = seed.state.rescue_word()?;
        prove(&ssh, &word).await?;
        task.end()?;
    }
    if seed.wanted.extent == Extent::Cluster {
        is_let_in(&ssh, &seed.spec.firewall).await?;
    }
    Ok(Some(ssh))
}

/// The first server lets in whom `[firewall]` names and nobody else; this one has no firewall, and sees where the laptop comes
/// from. Nothing is said where it does not tell.
async fn is_let_in(ssh: &Ssh, firewall: &Firewall) -> Result<(), SeedError> {
    let said = ssh.say("echo \"${SSH_CONNECTION%% *}\"").await?;
    let Ok(address) = String::from_utf8_lossy(&said).trim().parse::<IpAddr>() else {
        return Ok(());
    };
    if firewall.opens_ssh_to(address) {
        return Ok(());
    }
    Err(SeedError::ShutOut { address })
}

async fn prove(ssh: &Ssh, word: &Secret) -> Result<(), SeedError> {
    let output = ssh.run(PROOF).await?;
    let output = output.map_err(|failure| ssh.error(&failure, ADVICE))?;
    if !output.status.success() {
        let said = last_line(&output.stderr);
        return Err(SeedError::Unproven { said });
    }
    let told = String::from_utf8_lossy(&output.stdout);
    let told = told.split_whitespace().next().unwrap_or_default();
    if told == expected(&ssh.known_hosts, word)? {
        return Ok(());
    }
    let said = "it does not know what the temporary server was made with".to_owned();
    Err(SeedError::Unproven { said })
}

/// Of the host key that was learnt when it answered first.
fn expected(known_hosts: &Path, word: &Secret) -> Result<String, SeedError> {
    let known = fs::read_to_string(known_hosts).map_err(SeedError::file(known_hosts))?;
    let key = known.trim().strip_prefix(ALIAS).unwrap_or_default().trim();
    let word = word.expose_str().unwrap_or_default().trim();
    let found = digest(&SHA256, format!("{word} {key}").as_bytes());
    Ok(hex(found.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proves_a_host_key_is_of_the_word_and_of_that_key() {
        let dir = tempfile::tempdir().unwrap();
        let known_hosts = dir.path().join("known_hosts");
        let of = |word: &str, key: &str| {
            fs::write(&known_hosts, format!("rescue ssh-ed25519 {key}\n")).unwrap();
            expected(&known_hosts, &Secret::new(word.as_bytes().to_vec())).unwrap()
        };
        let proof = of("word\n", "AAAA");
        // printf '%s %s' word 'ssh-ed25519 AAAA' | sha256sum
        assert_eq!(
            proof,
            "e1c531a290498cfe3de94d97f1d341a9d75fd7baf74a76338742a67145c52b3a"
        );
        assert_ne!(of("word", "AAAB"), proof);
        assert_ne!(of("other", "AAAA"), proof);
    }
}
