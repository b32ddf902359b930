//! `fabrik agent` on a folder that looks like a machine: real Nix, TLS and processes; stand-ins for NixOS' and systemd's
//! programs. It hears through a channel what it would hear of an API server.

mod agent {
    pub mod cache;
    pub mod machine;
    pub mod nix;
}

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::sync::atomic::Ordering;

use fabrik::cluster::resources::FabrikNodeSpec;
use fabrik_core::system::{Action, Needs, Phase};

use agent::cache::Authority;
use agent::machine::{Machine, wait_for};

const SECONDS: u32 = 600;
const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_system_is_fetched_through_the_leaders_cache_tried_and_kept() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "");
    machine.leader.offer(&new);
    let key = machine.path("etc/ssh/ssh_host_ed25519_key.pub");
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    fs::write(key, format!("{HOST_KEY} root@node\n")).unwrap();
    machine.start_agent();
    machine.show(machine.spec(1, &new));
    let status = machine
        .until(|s| s.state.as_deref() == Some("Staged"))
        .await;
    assert_eq!(status.ssh_host_keys, [HOST_KEY]);
    let staged = status.report.unwrap().staged.unwrap();
    assert_eq!(
        (staged.system, staged.needs),
        (new.output.clone(), Needs::Switch)
    );
    assert!(machine.served.load(Ordering::Relaxed) > 0);

    machine.order(&new, Needs::Switch, Action::Try, SECONDS);
    machine.until_phase(Phase::Trying).await;
    machine.runs_and_boots(&new.output, &machine.old.output);
    let once = machine.name_once("nixos-generation-1.conf");
    machine.order(&new, Needs::Switch, Action::Keep, SECONDS);
    machine.until_phase(Phase::Kept).await;
    machine.runs_and_boots(&new.output, &new.output);
    assert!(!once.exists(), "the next boot is an ordinary one");
    let mounted = fs::read_to_string(machine.path("mounted")).unwrap();
    assert_eq!(mounted, "remount,sync\nremount,async\n");
    let path = new.output;
    assert_eq!(
        machine.switched(),
        [format!("test {path}"), format!("boot {path}")]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_kernel_is_booted_once_and_kept() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.18", "");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Reboot, Action::Try, SECONDS);
    machine.reboot().await;
    let trying = machine.until_phase(Phase::Trying).await;
    assert_eq!(trying.message, "");
    machine.runs_and_boots(&new.output, &machine.old.output);
    machine.order(&new, Needs::Reboot, Action::Keep, SECONDS);
    machine.until_phase(Phase::Kept).await;
    machine.power_cut().await;
    machine.runs_and_boots(&new.output, &new.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_that_does_not_boot_and_one_that_is_sick_are_left() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.18", "panics");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Reboot, Action::Try, SECONDS);
    machine.reboot().await;
    let back = machine.until_phase(Phase::WentBack).await;
    assert_eq!(back.message, "the machine came up on the old system");
    let entries = fs::read_dir(machine.path("boot/loader/entries")).unwrap();
    assert_eq!(entries.count(), 1, "nothing of it is left in the menu");

    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.18", "");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Reboot, Action::Try, SECONDS);
    machine.reboot().await;
    machine.until_phase(Phase::Trying).await;
    machine.order(&new, Needs::Reboot, Action::GoBack, SECONDS);
    machine.reboot().await;
    let back = machine.until_phase(Phase::WentBack).await;
    assert_eq!(back.message, "as ordered");
    machine.runs_and_boots(&machine.old.output, &machine.old.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_that_can_not_be_prepared_says_nothing_of_the_system() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.18", "");
    machine.leader.offer(&new);
    fs::write(
        machine.path("sw/nix-env"),
        "#!/bin/sh\necho 'read-only file system' >&2\nexit 1\n",
    )
    .unwrap();
    machine.start_agent();
    machine.order(&new, Needs::Reboot, Action::Try, SECONDS);
    let back = machine.until_phase(Phase::WentBack).await;
    assert!(back.unheard);
    assert!(back.message.contains("read-only"), "{}", back.message);
    machine.runs_and_boots(&machine.old.output, &machine.old.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_tidied_up_keeps_no_machine_from_its_way_back() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.18", "");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Reboot, Action::Try, SECONDS);
    machine.reboot().await;
    machine.until_phase(Phase::Trying).await;
    let tool = machine.path("sw/nix-env");
    let works = machine.path("sw/nix-env.works");
    fs::rename(&tool, &works).unwrap();
    machine.order(&new, Needs::Reboot, Action::GoBack, SECONDS);
    wait_for(|| machine.path("run/reboot").exists()).await;
    fs::rename(&works, &tool).unwrap();
    machine.reboot().await;
    machine.until_phase(Phase::WentBack).await;
    machine.runs_and_boots(&machine.old.output, &machine.old.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activation_that_fails_and_one_that_nobody_calls_well_are_taken_back() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "fails");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Switch, Action::Try, SECONDS);
    let back = machine.until_phase(Phase::WentBack).await;
    assert!(
        back.message.contains("units failed: web.service"),
        "{}",
        back.message
    );
    machine.runs_and_boots(&machine.old.output, &machine.old.output);

    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.show(machine.spec(1, &new));
    machine
        .until(|s| s.state.as_deref() == Some("Staged"))
        .await;
    machine.order(&new, Needs::Switch, Action::Try, 5);
    machine.until_phase(Phase::Trying).await;
    let back = machine.until_phase(Phase::WentBack).await;
    assert!(back.unheard);
    machine.runs_and_boots(&machine.old.output, &machine.old.output);
}

/// The program says that of any unit of the machine, the old system's among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_always_fails_keeps_no_node_from_its_way_back() {
    let mut machine = Machine::new().await;
    fs::write(machine.path("crash-loop"), "").unwrap();
    let new = machine.leader.build("new", "6.12", "");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Switch, Action::Try, SECONDS);
    let back = machine.until_phase(Phase::WentBack).await;
    assert!(back.message.contains("web.service"), "{}", back.message);
    machine.runs_and_boots(&machine.old.output, &machine.old.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boot_menu_that_nobody_can_read_is_told_and_does_not_stop_the_agent() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.show(machine.spec(1, &new));
    machine
        .until(|s| s.state.as_deref() == Some("Staged"))
        .await;
    machine.order(&new, Needs::Switch, Action::Try, 5);
    machine.until_phase(Phase::Trying).await;
    let conf = machine.path("boot/loader/loader.conf");
    fs::write(conf, "default nixos-*\n").unwrap();
    // It looks again when it hears something.
    machine.order(&new, Needs::Switch, Action::Try, 5);
    let told = machine
        .until(|s| s.report.as_ref().is_some_and(|r| r.default.is_none()))
        .await;
    let said = told.message.unwrap();
    assert!(said.contains("names no one system"), "{said}");
    let back = machine.until_phase(Phase::WentBack).await;
    assert!(back.unheard);
    machine.runs_and_boots(&machine.old.output, &machine.old.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_system_whose_files_can_not_be_read_is_no_staged_one() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "switch-inhibitors");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.show(machine.spec(1, &new));
    let told = machine.until(|s| s.message.is_some()).await;
    let said = told.message.unwrap();
    assert!(said.contains("switch-inhibitors"), "{said}");
    assert_eq!(told.report.unwrap().staged, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_finds_its_work_again() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "blocks");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Switch, Action::Try, SECONDS);
    machine.until_phase(Phase::Accepted).await;
    machine.restart_agent().await;
    machine.until_phase(Phase::Applying).await;
    // In the middle of the activation, which goes on without it.
    let running = machine.path("run/current-system");
    wait_for(|| fs::read_link(&running).unwrap().as_os_str() == new.output.as_str()).await;
    machine.restart_agent().await;
    machine.until_phase(Phase::Applying).await;
    fs::write(machine.path("run/go-on"), "").unwrap();
    machine.until_phase(Phase::Trying).await;
    machine.restart_agent().await;
    machine.until_phase(Phase::Trying).await;
    machine.order(&new, Needs::Switch, Action::GoBack, SECONDS);
    machine.until_phase(Phase::GoingBack).await;
    machine.restart_agent().await;
    machine.until_phase(Phase::WentBack).await;
    let path = &new.output;
    machine.runs_and_boots(&machine.old.output, &machine.old.output);
    let tried = machine
        .switched()
        .iter()
        .filter(|s| **s == format!("test {path}"))
        .count();
    assert_eq!(
        tried, 1,
        "what it had begun is found again, not begun again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_activation_that_outlives_its_unit_is_ended_before_the_way_back() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "blocks");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Switch, Action::Try, SECONDS);
    machine.until_phase(Phase::Applying).await;
    let running = machine.path("run/current-system");
    wait_for(|| fs::read_link(&running).unwrap().as_os_str() == new.output.as_str()).await;
    machine.kill_unit("fabrik-try-1.service");
    let activation = machine.unit("nixos-rebuild-switch-to-configuration.service");
    assert!(activation.exists());
    let back = machine.until_phase(Phase::GoingBack).await;
    assert!(!activation.exists());
    let said = back.message;
    assert!(said.contains("ended before it said"), "{said}");
    machine.until_phase(Phase::WentBack).await;
    machine.runs_and_boots(&machine.old.output, &machine.old.output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_systemd_does_not_answer_nothing_is_begun() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "blocks");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Switch, Action::Try, SECONDS);
    machine.until_phase(Phase::Applying).await;
    let running = machine.path("run/current-system");
    wait_for(|| fs::read_link(&running).unwrap().as_os_str() == new.output.as_str()).await;
    machine.kill_agent().await;
    let deaf = machine.path("run/deaf");
    fs::write(&deaf, "").unwrap();
    machine.start_agent();
    wait_for(|| machine.path("run/asked").exists()).await;
    fs::remove_file(deaf).unwrap();
    fs::write(machine.path("run/go-on"), "").unwrap();
    machine.until_phase(Phase::Trying).await;
    assert_eq!(machine.switched(), [format!("test {}", new.output)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_that_fails_in_the_middle_of_an_activation_ends_it() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "blocks");
    machine.leader.offer(&new);
    machine.start_agent();
    machine.order(&new, Needs::Switch, Action::Try, SECONDS);
    machine.until_phase(Phase::Applying).await;
    let running = machine.path("run/current-system");
    wait_for(|| fs::read_link(&running).unwrap().as_os_str() == new.output.as_str()).await;
    machine.power_cut().await;
    machine.start_agent();
    let back = machine.until_phase(Phase::WentBack).await;
    assert_eq!(back.message, "the machine came up on the old system");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_fetched_that_is_not_signed_by_the_cluster() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "");
    let stranger = tempfile::tempdir().unwrap();
    let stranger = agent::nix::Leader::new(stranger.path());
    let ours = std::mem::replace(&mut machine.leader, stranger);
    let forged = machine.spec(9, &new);
    machine.leader = ours;
    machine.leader.offer(&new);
    machine.start_agent();
    machine.show(forged);
    let said = machine
        .until(|s| s.message.is_some())
        .await
        .message
        .unwrap();
    assert!(said.contains("is not signed by fabrik-demo-1"), "{said}");
    assert_eq!(machine.served.load(Ordering::Relaxed), 0);

    // A genuine one, of a system that somebody else has signed in the cache.
    for file in fs::read_dir(machine.leader.cache()).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|e| e == "narinfo") {
            let text = fs::read_to_string(&file).unwrap();
            let start = text.find("Sig: ").unwrap();
            fs::write(
                &file,
                format!("{}Sig: fabrik-demo-1:AAAA\n", &text[..start]),
            )
            .unwrap();
        }
    }
    machine.show(machine.spec(1, &new));
    let fetching = |s: &fabrik::cluster::resources::FabrikNodeStatus| {
        s.message
            .as_ref()
            .is_some_and(|m| m.contains("can't be fetched"))
    };
    let said = machine.until(fetching).await.message.unwrap();
    assert!(said.contains("nor built from"), "{said}");
    assert!(machine.served.load(Ordering::Relaxed) > 0);
}

/// k3s ends only when it is known that it starts no more, and only by the cluster's word about this boot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_retires_says_so_before_its_k3s_ends() {
    let mut machine = Machine::new().await;
    let mut k3s = std::process::Command::new("sleep")
        .arg("600")
        .process_group(0)
        .spawn()
        .unwrap();
    let unit = machine.path("run/units/k3s.service");
    fs::create_dir_all(unit.parent().unwrap()).unwrap();
    fs::write(&unit, k3s.id().to_string()).unwrap();
    machine.start_agent();
    let folder = tempfile::tempdir().unwrap();
    let stranger = agent::nix::Leader::new(folder.path());
    let running = machine.until(|s| s.report.is_some()).await;
    let boot = running.report.unwrap().boot;
    let number: u32 = boot.as_str().rsplit('-').next().unwrap().parse().unwrap();
    let is_retired = |s: &fabrik::cluster::resources::FabrikNodeStatus| {
        s.report.as_ref().is_some_and(|r| r.retired)
    };
    // By another key, of another boot, and too late: it goes on fetching.
    for (sequence, name) in [(1, "one"), (2, "other"), (3, "third")] {
        let new = machine.leader.build(name, "6.12", "");
        machine.leader.offer(&new);
        let spec = machine.spec(sequence, &new);
        match sequence {
            1 => machine.show_retirement(spec, &stranger, number, 600, None),
            2 => machine.show_retirement(spec, &machine.leader, number + 1, 600, None),
            _ => machine.show_retirement(spec, &machine.leader, number, -1, None),
        }
        let staged = |s: &fabrik::cluster::resources::FabrikNodeStatus| {
            let staged = s.report.as_ref().and_then(|r| r.staged.as_ref());
            staged.is_some_and(|staged| staged.system == new.output)
        };
        assert!(!machine.until(staged).await.report.unwrap().retired);
    }

    let new = machine.leader.build("one", "6.12", "");
    let spec = machine.spec(3, &new);
    machine.show_retirement(spec.clone(), &machine.leader, number, 600, None);
    let said = machine.until(is_retired).await;
    assert!(unit.exists(), "nobody knows yet");
    machine.show_retirement(spec, &machine.leader, number, 600, Some(said));
    wait_for(|| !unit.exists()).await;
    assert!(!k3s.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_publication_is_told_and_not_obeyed() {
    let mut machine = Machine::new().await;
    let (old, new) = (
        machine.leader.build("old", "6.12", ""),
        machine.leader.build("new", "6.12", ""),
    );
    machine.leader.offer(&new);
    machine.start_agent();
    machine.show(machine.spec(2, &new));
    machine
        .until(|s| s.state.as_deref() == Some("Staged"))
        .await;
    machine.show(machine.spec(1, &old));
    let told = machine.until(|s| s.message.is_some()).await;
    let said = told.message.unwrap();
    assert!(said.contains("this node has seen number 2"), "{said}");
    // It may have heard already that nothing is wanted that it may have.
    let staged = told.report.unwrap().staged;
    assert!(staged.is_none_or(|staged| staged.system == new.output));
    machine.show(machine.spec(2, &new));
    let is_new = |s: &fabrik::cluster::resources::FabrikNodeStatus| {
        let staged = s.report.as_ref().and_then(|r| r.staged.as_ref());
        staged.is_some_and(|staged| staged.system == new.output)
    };
    machine.until(|s| s.message.is_none() && is_new(s)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_front_has_the_nodes_certificate_and_the_one_that_it_has_now() {
    let machine = Machine::new().await;
    fs::create_dir_all(machine.leader.cache()).unwrap();
    fs::write(
        machine.leader.cache().join("nix-cache-info"),
        "StoreDir: /nix/store\n",
    )
    .unwrap();
    let mut config = machine.config.clone();
    // It was made when another server was there; who is there now it is told.
    let caches = std::mem::replace(
        &mut config.cache.urls,
        vec!["https://127.0.0.1:1".to_owned()],
    );
    let spec = FabrikNodeSpec {
        caches,
        ..machine.spec(1, &machine.old)
    };
    machine.show(spec);
    let seen = machine.seen.subscribe();
    let front = tokio::spawn(async move { fabrik::node::front::serve(&config, seen).await });
    let client = reqwest::Client::new();
    let ask = |path: &str| {
        client
            .get(format!("http://{}/{path}", machine.config.front))
            .send()
    };
    wait_for(|| std::net::TcpStream::connect(machine.config.front).is_ok()).await;
    let answer = ask("nix-cache-info").await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "StoreDir: /nix/store\n");
    assert_eq!(ask("nothing.narinfo").await.unwrap().status(), 404);
    let posted = client
        .post(format!("http://{}/", machine.config.front))
        .send();
    assert_eq!(posted.await.unwrap().status(), 405);
    // A certificate of another authority is refused by the cache, and the next good one is taken at once.
    machine
        .authority
        .write_kubeconfig(&Authority::new(), &machine.config.kubeconfig);
    assert_eq!(ask("nix-cache-info").await.unwrap().status(), 502);
    machine
        .authority
        .write_kubeconfig(&machine.authority, &machine.config.kubeconfig);
    assert_eq!(ask("nix-cache-info").await.unwrap().status(), 200);
    front.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_journal_that_it_can_not_read_it_reports_and_does_nothing() {
    let mut machine = Machine::new().await;
    let new = machine.leader.build("new", "6.12", "");
    machine.leader.offer(&new);
    fs::create_dir_all(&machine.config.state_dir).unwrap();
    fs::write(
        machine.config.state_dir.join("journal.json"),
        "{\"schema\": 99}",
    )
    .unwrap();
    machine.order(&new, Needs::Switch, Action::Try, SECONDS);
    machine.start_agent();
    let status = machine
        .until(|s| s.state.as_deref() == Some("Failed"))
        .await;
    let said = status.message.unwrap();
    assert!(said.contains("its layout is version 99"), "{said}");
    assert_eq!(status.report.unwrap().running, machine.old.output);
    assert_eq!(machine.switched(), Vec::<String>::new());
}
