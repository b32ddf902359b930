//! The public half of the key that this machine's sshd shows. Reported, so that a person's ssh need not trust whoever answers
//! first.

use std::fs::File;
use std::io::Read as _;

use ssh_key::{Algorithm, PublicKey};

use super::AgentConfig;

/// Where sshd has it (sshd_config(5), "HostKey"), and NixOS makes it (`services.openssh.hostKeys`).
const FILE: &str = "/etc/ssh/ssh_host_ed25519_key.pub";
/// A line with a comment is a tenth of that.
const MAX_BYTES: u64 = 1024;

/// The keys of the machine, in OpenSSH's words and without comments. A file that is missing or holds no such key is none.
pub fn read(config: &AgentConfig) -> Vec<String> {
    let mut text = String::new();
    let read = File::open(config.on_machine(FILE))
        .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
    read.ok().and_then(|_| bare(&text)).into_iter().collect()
}

/// `ssh-ed25519` and its base64, where `line` is such a key and well formed.
pub fn bare(line: &str) -> Option<String> {
    let mut key = PublicKey::from_openssh(line.trim()).ok()?;
    key.set_comment("");
    let is_plain = key.algorithm() == Algorithm::Ed25519;
    is_plain.then(|| key.to_openssh().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk";

    #[test]
    fn only_a_whole_ed25519_key_is_one_and_its_comment_is_none_of_it() {
        for line in [KEY.to_owned(), format!("{KEY} root@web\u{7}\n")] {
            assert_eq!(bare(&line).as_deref(), Some(KEY));
        }
        for other in [
            "",
            "ssh-ed25519",
            &KEY[..KEY.len() - 4],
            "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBE==",
            &format!("{KEY}\n{KEY}\n"),
            "\u{1b}[2J",
        ] {
            assert_eq!(bare(other), None, "{other}");
        }
    }
}
