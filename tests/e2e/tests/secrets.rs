//! Planted secret values, a full story with failures, and then a search everywhere: nothing shows one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::emulator::TOKEN;
use fabrik_bed::{Bed, Options, repository};
use fabrik_e2e::faults;
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);
const HETZNER: &str = "planted-hetzner-token-7d1f0c";
const REFUSED_HETZNER: &str = "planted-refused-token-91ab3e";
/// Needs escaping in JSON.
const PASSWORD: &str = "planted\"pass\\word-5e0d77";
/// Stands where base64 is expected, and is none.
const MALFORMED: &str = "planted!malformed-c21f88";

#[tokio::test(flavor = "multi_thread")]
async fn no_planted_value_shows_anywhere() -> Result<()> {
    let bed = Bed::start(Options {
        fabrik: true,
        webhooks: true,
        ..Options::default()
    })
    .await?;
    bed.fabrik(0).kill();
    faults::set(&bed, json!({"tokens": [TOKEN, HETZNER]})).await?;
    let planted = planted(&bed)?;
    let seen = Seen::default();

    for format in ["human", "json"] {
        let mut run = Run::start(&bed, format, &seen)?;
        story(&bed, format, &run).await?;
        run.end()?;
    }

    let mut places: Vec<(String, Vec<u8>)> = seen.texts();
    for format in ["human", "json"] {
        let log = bed.dir().join(format!("planted-{format}.log"));
        places.push((format!("log {format}"), fs::read(log)?));
    }
    for dir in ["tmp", "home"] {
        read_all(&bed.dir().join(format!("planted-{dir}")), &mut places)?;
    }
    read_all(&state_dir(&bed)?, &mut places)?;
    let kinds = "fabrikclusters,fabrikunits,fabriknodes,fabrikledgers,configmaps,events,leases";
    let objects = bed.kubectl(&[
        "get",
        kinds,
        "--all-namespaces",
        "--show-managed-fields",
        "-o",
        "json",
    ])?;
    places.push(("objects".to_owned(), objects.into_bytes()));
    let requests =
        reqwest::get(format!("{}/_emulator/requests?since=0", bed.emulator_url())).await?;
    places.push(("requests".to_owned(), requests.bytes().await?.to_vec()));
    let state = faults::state(&bed).await?.to_string();
    ensure!(
        state.contains("user_data"),
        "the emulator shows no user data"
    );
    places.push(("emulator".to_owned(), state.into_bytes()));

    ensure!(
        seen.count() > 20,
        "hardly any process was seen: {}",
        seen.count()
    );
    let mut leaks = Vec::new();
    for (place, content) in &places {
        for (name, form) in &planted {
            if let Some(at) = find(content, form) {
                let around =
                    &content[at.saturating_sub(120)..(at + form.len() + 20).min(content.len())];
                leaks.push(format!(
                    "{name} in {place}: …{}…",
                    String::from_utf8_lossy(around)
                ));
            }
        }
    }
    ensure!(
        leaks.is_empty(),
        "{} leaks:\n{}",
        leaks.len(),
        leaks.join("\n")
    );
    println!(
        "{} places searched for {} forms",
        places.len(),
        planted.len()
    );
    bed.shutdown().await;
    Ok(())
}

/// Success and failure of everything that handles a secret. What `status` and the listener say meanwhile is written to
/// the folder that is searched.
async fn story(bed: &Bed, format: &str, run: &Run) -> Result<()> {
    let git = bed.git();
    let secret = |path: &str, text: &str| -> Result<()> {
        git.write(
            path,
            repository::sops_encrypt(git, bed.parts(), path, text.as_bytes())?,
        )
    };
    let value = serde_json::to_string(PASSWORD)?;
    let object = |name: &str, namespace: &str, rest: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n{rest}\n"
        )
    };
    let word = format!("stringData: {{password: {value}}}");

    bed.default_repo(1)?;
    secret(repository::TOKEN_FILE, &format!("token: {HETZNER}\n"))?;
    secret(
        "manifests/good/secret.yaml",
        &object("good", "default", &word),
    )?;
    git.commit_and_push("Have a secret")?;
    bed.wait_until(
        "the Secret is applied and a worker is there",
        DEADLINE,
        async || {
            run.sample(bed).await;
            let found = bed
                .kubectl(&["get", "secret", "good", "-o", "name"])
                .is_ok();
            Ok((found && faults::workers(bed).await?.len() == 1).then_some(()))
        },
    )
    .await?;

    // Refused by the API server, each in a way of its own.
    secret(
        "manifests/nowhere/secret.yaml",
        &object("nowhere", "no-such-namespace", &word),
    )?;
    secret(
        "manifests/typed/secret.yaml",
        &object(
            "typed",
            "default",
            &format!("type: kubernetes.io/tls\n{word}"),
        ),
    )?;
    let malformed = format!("data: {{password: \"{MALFORMED}\"}}");
    secret(
        "manifests/malformed/secret.yaml",
        &object("malformed", "default", &malformed),
    )?;
    let commit = git.commit_and_push("Have secrets that can't be applied")?;
    told(bed, run, &commit, format).await?;
    for unit in ["nowhere", "typed", "malformed"] {
        git.remove(&format!("manifests/{unit}"))?;
    }
    let nested = format!("stringData: {{password: {{deep: {value}}}}}");
    secret(
        "manifests/nested/secret.yaml",
        &object("nested", "default", &nested),
    )?;
    let commit = git.commit_and_push("Have a secret of the wrong shape")?;
    told(bed, run, &commit, format).await?;
    git.remove("manifests/nested")?;

    // A token that Hetzner refuses.
    secret(
        repository::TOKEN_FILE,
        &format!("token: {REFUSED_HETZNER}\n"),
    )?;
    let commit = git.commit_and_push("Have a token that Hetzner refuses")?;
    told(bed, run, &commit, format).await?;

    // Commits that are refused: a damaged secret, and a token file without its key.
    let good = git.read("manifests/good/secret.yaml")?;
    git.write(
        "manifests/good/secret.yaml",
        good.replace("mac: ENC[AES256_GCM,data:", "mac: ENC[AES256_GCM,data:AAAA"),
    )?;
    secret(repository::TOKEN_FILE, &format!("other: {HETZNER}\n"))?;
    let commit = git.commit_and_push("Damage the secrets")?;
    told(bed, run, &commit, format).await?;
    git.write("manifests/good/secret.yaml", good)?;
    secret(repository::TOKEN_FILE, &format!("token: {HETZNER}\n"))?;
    let commit = git.commit_and_push("Mend them")?;
    told(bed, run, &commit, format).await
}

/// Waits until fabrik has told of a commit, then lets it run into what is wrong with it.
async fn told(bed: &Bed, run: &Run, commit: &str, format: &str) -> Result<()> {
    bed.wait_until(
        &format!("the {format} log tells of {commit}"),
        DEADLINE,
        async || {
            run.sample(bed).await;
            let objects = bed.kubectl(&["get", "fabrikclusters", "-o", "json"])?;
            Ok(objects.contains(commit).then_some(()))
        },
    )
    .await?;
    for _ in 0..15 {
        run.sample(bed).await;
    }
    Ok(())
}

/// Every secret that this cluster has, in each form in which it could show.
fn planted(bed: &Bed) -> Result<Vec<(String, Vec<u8>)>> {
    let mut values: Vec<(String, Vec<u8>)> = [HETZNER, REFUSED_HETZNER, PASSWORD, MALFORMED]
        .iter()
        .map(|v| ((*v).to_owned(), v.as_bytes().to_vec()))
        .collect();
    for file in [
        "age.key",
        "signing.key",
        "deploy.key",
        "webhook.secret",
        "leader.token",
        "applier.token",
    ] {
        let content = fs::read(bed.fabrik(0).dir().join(file)).with_context(|| file.to_owned())?;
        // The longest line that is no comment or frame is the secret, or enough of it.
        let lines = content
            .split(|b| *b == b'\n')
            .filter(|l| !l.starts_with(b"#") && !l.starts_with(b"-----"));
        let line = lines
            .max_by_key(|l| l.len())
            .context("an empty key file")?
            .to_vec();
        let line = line.rsplit(|b| *b == b':').next().unwrap_or(&line).to_vec();
        ensure!(
            line.len() >= 16,
            "{file} has no secret that could be recognised"
        );
        values.push((file.to_owned(), line));
    }
    let mut forms = Vec::new();
    for (name, value) in values {
        let text = serde_json::to_string(&String::from_utf8_lossy(&value))?;
        let escaped = text.trim_matches('"').as_bytes().to_vec();
        for form in BTreeSet::from([value.clone(), base64(&value)?, escaped]) {
            forms.push((name.clone(), form));
        }
    }
    Ok(forms)
}

fn base64(value: &[u8]) -> Result<Vec<u8>> {
    let encoded = serde_json::to_value(k8s_openapi::ByteString(value.to_vec()))?;
    let text = encoded.as_str().context("base64")?.trim_end_matches('=');
    // The last character may differ when more bytes follow.
    Ok(text.as_bytes()[..text.len() - 1].to_vec())
}

/// `fabrik run` with a home and a folder for temporary files that are searched, watched while it runs.
struct Run {
    child: Child,
    stop: Arc<AtomicBool>,
    seen: Seen,
}

impl Run {
    fn start(bed: &Bed, format: &str, seen: &Seen) -> Result<Self> {
        let config = bed.founding()?.config;
        let config = config.to_str().context("a path in UTF-8")?;
        let log = fs::File::create(bed.dir().join(format!("planted-{format}.log")))?;
        let mut command: Command =
            bed.fabrik_cmd(&["run", "--config", config, "--log-format", format])?;
        for (variable, dir) in [("TMPDIR", "planted-tmp"), ("HOME", "planted-home")] {
            let dir = bed.dir().join(dir);
            fs::create_dir_all(&dir)?;
            command.env(variable, dir);
        }
        command.env_remove("KUBECONFIG").env("RUST_LOG", "debug");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let stop = Arc::new(AtomicBool::new(false));
        let run = Self {
            stop: Arc::clone(&stop),
            seen: seen.clone(),
            child,
        };
        let (pid, seen, tmp) = (run.child.id(), seen.clone(), bed.dir().join("planted-tmp"));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                seen.processes(pid);
                let mut files = Vec::new();
                // Files may go while they are read.
                let _ = read_all(&tmp, &mut files);
                for (name, content) in files {
                    seen.add(&name, content);
                }
            }
        });
        Ok(run)
    }

    /// What fabrik says to who asks.
    async fn sample(&self, bed: &Bed) {
        for output in ["human", "json"] {
            let status = bed
                .fabrik_cmd(&["status", "--output", output])
                .and_then(|mut c| Ok(c.output()?));
            if let Ok(output) = status {
                self.seen
                    .add("status", [output.stdout, output.stderr].concat());
            }
        }
        let config = bed
            .founding()
            .and_then(|f| Ok(fs::read_to_string(f.config)?))
            .unwrap_or_default();
        let listen = config
            .lines()
            .find_map(|l| l.strip_prefix("listen = "))
            .unwrap_or_default()
            .trim_matches('"');
        for page in ["metrics", "healthz", "readyz", "observed"] {
            let Ok(answer) = reqwest::get(format!("http://{listen}/{page}")).await else {
                continue;
            };
            let Ok(bytes) = answer.bytes().await else {
                continue;
            };
            self.seen.add(page, unpacked(&bytes));
        }
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.end();
    }
}

/// By the real gzip; what is not packed is as it is.
fn unpacked(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let packed = bytes.to_vec();
    let run = || -> Result<Vec<u8>> {
        let mut gzip = Command::new("gzip")
            .arg("-dc")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut input = gzip.stdin.take().context("stdin")?;
        let writer = std::thread::spawn(move || input.write_all(&packed));
        let output = gzip.wait_with_output()?;
        let _ = writer.join();
        ensure!(output.status.success());
        Ok(output.stdout)
    };
    run().unwrap_or_else(|_| bytes.to_vec())
}

/// Where it was read, and what.
type Samples = BTreeSet<(String, Vec<u8>)>;

/// Everything that was seen, each thing once.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Samples>>);

impl Seen {
    fn add(&self, place: &str, content: Vec<u8>) {
        if let Ok(mut seen) = self.0.lock() {
            seen.insert((place.to_owned(), content));
        }
    }

    fn texts(&self) -> Vec<(String, Vec<u8>)> {
        self.0
            .lock()
            .map(|seen| seen.iter().cloned().collect())
            .unwrap_or_default()
    }

    fn count(&self) -> usize {
        self.texts().len()
    }

    /// Command line and environment of a process and its descendants.
    fn processes(&self, pid: u32) {
        let proc = Path::new("/proc").join(pid.to_string());
        for what in ["cmdline", "environ"] {
            if let Ok(content) = fs::read(proc.join(what)) {
                self.add(&format!("{what} of a process"), content);
            }
        }
        for task in fs::read_dir(proc.join("task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|c| c.parse().ok()) {
                self.processes(child);
            }
        }
    }
}

fn read_all(dir: &Path, into: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path, into)?;
        } else if path.is_file() {
            into.push((path.display().to_string(), fs::read(&path)?));
        }
    }
    Ok(())
}

fn state_dir(bed: &Bed) -> Result<std::path::PathBuf> {
    let config = fs::read_to_string(bed.founding()?.config)?;
    let line = config.lines().find_map(|l| l.strip_prefix("state-dir = "));
    Ok(line.context("no state-dir")?.trim_matches('"').into())
}

fn find(content: &[u8], form: &[u8]) -> Option<usize> {
    content
        .windows(form.len())
        .position(|window| window == form)
}
