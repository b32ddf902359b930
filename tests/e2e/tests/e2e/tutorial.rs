//! `docs/tutorial.md` from its first command to its last, by the real binary, in an empty project of the emulator. What the
//! page shows is compared with what comes.
//!
//! Not the page's, but the bed's: the flake and its lock file (there is no network), the image, and the flags by which fabrik
//! finds an emulator in Hetzner's place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fabrik_bed::emulator::TOKEN;
use fabrik_bed::parts::Parts;
use fabrik_bed::{Bed, Options, Transport, system};
use fabrik_e2e::{HETZNER_KINDS, list};
use serde_json::Value;

use self::page::{Exchange, Page, Piece, edit};
use self::terminal::Seen;

mod page;
mod terminal;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tutorial.md");
const REPOSITORY: &str = "git@git.example.com:ops/demo.git";
const ADDRESS: &str = "203.0.113.7/32";
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea alice\n";
/// The longest command waits for a server that boots, or for a rollout.
const COMMAND: Duration = Duration::from_secs(300);
/// What only looks is repeated until it sees what the page shows.
const LOOKS: [&str; 3] = ["fabrik status", "fabrik plan", "kubectl get"];
const SOON: Duration = Duration::from_secs(120);
/// All else that ends in a colon is half a line.
const ASKS: [&str; 3] = ["fabrik init", "fabrik seed", "fabrik destroy"];
/// What is taken over is looked at this long after the command before.
const COME_TO_REST: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_is_true() -> Result<()> {
    let bed = Bed::start(Options {
        servers: 0,
        systems: true,
        transport: Transport::Ssh,
        action_duration: Duration::from_millis(50),
        ..Options::default()
    })
    .await?;
    let mut page = Page::read(Path::new(PAGE))?;
    let mut person = Person::new(&bed)?;
    let played = tokio::task::block_in_place(|| person.follow(&bed, &mut page));
    page.end()?;
    played.with_context(|| format!("the logs are in {}", bed.logs().display()))?;
    let url = format!("{}/_emulator/state", bed.emulator_url());
    let state: Value = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .get(url)
        .send()
        .await?
        .json()
        .await?;
    for kind in HETZNER_KINDS {
        ensure!(list(&state, kind).is_empty(), "{kind} are left: {state:#}");
    }
    bed.shutdown().await;
    Ok(())
}

/// Whoever follows the page.
struct Person {
    home: PathBuf,
    /// Whatever holds for all later commands: where they are, and their environment.
    so_far: String,
}

impl Person {
    fn new(bed: &Bed) -> Result<Self> {
        let home = bed.dir().join("laptop");
        fs::create_dir_all(home.join(".ssh"))?;
        fs::create_dir_all(home.join("bin"))?;
        fs::write(home.join(".ssh/id_ed25519.pub"), SSH_KEY)?;
        fs::write(
            home.join(".gitconfig"),
            "[user]\nname = Alice\nemail = alice@example.com\n[init]\ndefaultBranch = main\n",
        )?;
        symlink(Parts::nix()?, home.join("bin/nix"))?;
        bed.write_image(&home.join("disk.img"))?;
        Ok(Self {
            home,
            so_far: String::new(),
        })
    }

    fn follow(&mut self, bed: &Bed, page: &mut Page) -> Result<()> {
        for piece in page.pieces() {
            match piece {
                Piece::Text(_) => {}
                Piece::File { path, text, .. } => self.write(path, text)?,
                Piece::Session(exchanges) => {
                    for exchange in exchanges {
                        self.play(bed, exchange)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn play(&mut self, bed: &Bed, exchange: &mut Exchange) -> Result<()> {
        let command = exchange.command.clone();
        if command.starts_with("cd ") || command.starts_with("export ") {
            self.so_far.extend([command.as_str(), " && "]);
            return Ok(());
        }
        let until = Instant::now()
            + if page::is_blessed() {
                COME_TO_REST
            } else {
                SOON
            };
        let is_look = LOOKS.iter().any(|look| command.starts_with(look));
        loop {
            let seen = self.run(bed, &command, &exchange.shown)?;
            if !exchange.is(&seen.text) && is_look && Instant::now() < until {
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            exchange.settle(&seen.text)?;
            return self.after(bed, &command, &seen);
        }
    }

    /// What a person does at the forge, and what stands in for what needs a network.
    fn after(&self, bed: &Bed, command: &str, seen: &Seen) -> Result<()> {
        if command.starts_with("fabrik init") {
            let version = &bed.options().kubernetes_version;
            system::write_stand_in(&self.repository(), version)?;
        }
        let mut lines = seen.text.lines().map(str::trim);
        match lines.find(|line| line.starts_with("ssh-ed25519 ")) {
            Some(key) if command.starts_with("fabrik seed") => bed.git_servers().authorize(key),
            _ => Ok(()),
        }
    }

    fn run(&self, bed: &Bed, command: &str, shown: &str) -> Result<Seen> {
        let asks = ASKS.iter().any(|asks| command.starts_with(asks));
        let answer = |question: &str| {
            if !asks {
                return None;
            }
            if question.contains("token") {
                return Some(TOKEN.to_owned());
            }
            let question = self.of_page(bed, question).ok()?;
            let answer = shown.lines().find_map(|line| line.strip_prefix(&question));
            answer.map(|answer| answer.trim().to_owned())
        };
        let line = self.so_far.clone() + &self.of_bed(bed, command)?;
        let seen = terminal::run(self.shell(bed)?, &line, COMMAND, answer)?;
        Ok(Seen {
            text: self.of_page(bed, &seen.text)?,
            code: seen.code,
        })
    }

    fn shell(&self, bed: &Bed) -> Result<Command> {
        let bare = bed.fabrik_cmd(&[])?;
        let program = Path::new(bare.get_program());
        let path = bare
            .get_envs()
            .find_map(|(name, value)| (name == "PATH").then_some(value?));
        let dirs = std::env::split_paths(path.context("fabrik_cmd sets PATH")?);
        let dirs = [
            self.home.join("bin"),
            program.parent().context("a folder")?.to_owned(),
        ]
        .into_iter()
        .chain(dirs);
        let mut shell = Command::new("script");
        shell
            .env_clear()
            .env("PATH", std::env::join_paths(dirs)?)
            .env("HOME", &self.home)
            .env("TERM", "dumb")
            .env("SHELL", "/bin/sh")
            .env("USER", "alice")
            .env("LANG", "C.UTF-8")
            .env("NIX_CONFIG", self.nix_config())
            .current_dir(&self.home);
        Ok(shell)
    }

    /// In a store of its own, and without a network.
    fn nix_config(&self) -> String {
        let store = self.home.join("store");
        format!(
            "store = {}\nbuild-users-group =\nsubstituters =\n",
            store.display()
        )
    }

    /// A file of the page: `cluster.toml` is edited, others are written whole.
    fn write(&self, path: &str, text: &str) -> Result<()> {
        let file = self.repository().join(path);
        fs::create_dir_all(file.parent().context("a folder")?)?;
        if path == "cluster.toml" {
            let there = fs::read_to_string(&file)?;
            return Ok(fs::write(
                file,
                edit(&there, &text.replace(ADDRESS, "127.0.0.0/8")),
            )?);
        }
        if path.starts_with("nixos/") {
            self.change_systems()?;
        }
        Ok(fs::write(file, text)?)
    }

    /// The bed's systems are made of a file of their own.
    fn change_systems(&self) -> Result<()> {
        let file = self.repository().join("systems.json");
        let there = fs::read_to_string(&file)?;
        let changed = there.replace("\"package\": \"1\"", "\"package\": \"2\"");
        ensure!(there != changed, "{there}");
        Ok(fs::write(file, changed)?)
    }

    fn repository(&self) -> PathBuf {
        self.home.join("demo")
    }

    /// A command of the page, as it has to be said here.
    fn of_bed(&self, bed: &Bed, command: &str) -> Result<String> {
        let bare = bed.git_servers().path();
        let endpoint = bed.hetzner().endpoint();
        let more = match command.split(' ').nth(1) {
            Some("init") => " --no-lock".to_owned(),
            Some("seed") => format!(
                " --image {} --repository {} --known-hosts {} --hetzner-endpoint {endpoint} --timeout 3m",
                self.home.join("disk.img").display(),
                bed.repository_url(),
                bed.git_servers().known_hosts().display(),
            ),
            Some("destroy") => format!(" --hetzner-endpoint {endpoint}"),
            _ => String::new(),
        };
        let bare = bare.to_str().context("a path in UTF-8")?;
        Ok(command.replace(REPOSITORY, bare) + &more)
    }

    /// What was seen here, with the page's names.
    fn of_page(&self, bed: &Bed, text: &str) -> Result<String> {
        let bare = bed.git_servers().path();
        let text = text
            .replace(&bed.repository_url(), REPOSITORY)
            .replace(bare.to_str().context("a path in UTF-8")?, REPOSITORY)
            .replace("127.0.0.0/8", ADDRESS)
            .replace(
                self.home.to_str().context("a path in UTF-8")?,
                "/home/alice",
            );
        let host = format!("127.{}.255.1", bed.number());
        Ok(text
            .replace(&host, "git.example.com")
            .replace("root@git.example.com", "git@git.example.com"))
    }
}
