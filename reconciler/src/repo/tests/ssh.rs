//! A real sshd on a port of its own.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Instant;

use super::*;

struct Sshd {
    child: Child,
    port: u16,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn keygen(path: &Path) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status();
    assert!(
        status
            .expect("ssh-keygen is needed: apt-get install openssh-client")
            .success()
    );
}

/// Host key `host`, another one `other`, the accepted key `user` and the `stranger`, all in the world's directory.
fn sshd(world: &World) -> Sshd {
    let dir = world.dir.path();
    for key in ["host", "other", "user", "stranger"] {
        keygen(&dir.join(key));
    }
    fs::copy(dir.join("user.pub"), dir.join("authorized")).unwrap();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nAcceptEnv GIT_PROTOCOL\n\
         SetEnv HOME={0}\n",
        dir.display()
    );
    fs::write(dir.join("sshd_config"), config).unwrap();
    fs::create_dir_all("/run/sshd").ok();
    let child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stderr(Stdio::null())
        .spawn()
        .expect("sshd is needed: apt-get install openssh-server");
    let sshd = Sshd { child, port };
    let deadline = Instant::now() + FETCH_DEADLINE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "sshd does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    sshd
}

fn config(world: &World, sshd: &Sshd, key: &str, host_key: &str) -> RepositoryConfig {
    let dir = world.dir.path();
    let known_hosts = dir.join("known hosts 100%");
    let host_key = match host_key {
        "" => String::new(),
        name => fs::read_to_string(dir.join(name).with_extension("pub")).unwrap(),
    };
    let line = match host_key.as_str() {
        "" => String::new(),
        key => format!("[127.0.0.1]:{} {key}", sshd.port),
    };
    fs::write(&known_hosts, line).unwrap();
    let user = Command::new("id").arg("-un").output().unwrap().stdout;
    let user = String::from_utf8(user).unwrap();
    let path = world.upstream().display().to_string();
    let mut config = RepositoryConfig::at(format!(
        "ssh://{}@127.0.0.1:{}{path}",
        user.trim(),
        sshd.port
    ));
    config.deploy_key_file = Some(dir.join(key));
    config.known_hosts_file = Some(known_hosts);
    config
}

#[tokio::test]
async fn the_deploy_key_opens_the_pinned_host_and_every_fault_is_told_apart() {
    let world = World::new();
    let head = world.push("a", "one");
    let sshd = sshd(&world);
    let fetch = async |config: RepositoryConfig| {
        let dir = tempfile::tempdir_in(world.dir.path()).unwrap();
        Repository::open(config, dir.path()).unwrap().fetch().await
    };
    assert_eq!(
        fetch(config(&world, &sshd, "user", "host")).await.unwrap(),
        head
    );

    let error = fetch(config(&world, &sshd, "stranger", "host"))
        .await
        .unwrap_err();
    assert!(matches!(error, RepoError::NotAccepted { .. }), "{error:?}");
    assert!(
        error.to_string().contains("Permission denied (publickey"),
        "{error}"
    );

    let error = fetch(config(&world, &sshd, "user", "")).await.unwrap_err();
    assert!(
        matches!(error, RepoError::HostKeyUnknown { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("Host key verification failed"),
        "{error}"
    );

    let error = fetch(config(&world, &sshd, "user", "other"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RepoError::HostKeyChanged { .. }),
        "{error:?}"
    );

    let mut elsewhere = config(&world, &sshd, "user", "host");
    elsewhere.url = elsewhere.url.replace("up.git", "none.git");
    let error = fetch(elsewhere).await.unwrap_err();
    assert!(
        matches!(error, RepoError::NotARepository { .. }),
        "{error:?}"
    );

    let error = fetch(config(&world, &sshd, "no-such-key", "host"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RepoError::CredentialFile { .. }),
        "{error:?}"
    );

    let mut closed = config(&world, &sshd, "user", "host");
    drop(sshd);
    closed.branch = "main".to_owned();
    let error = fetch(closed).await.unwrap_err();
    assert!(matches!(error, RepoError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("Connection refused"), "{error}");
}
