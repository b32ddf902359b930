//! Planted secret values, a full story with failures, and then a search everywhere: nothing shows one.
//!
//! The search proves itself: in each place it must find something that is no secret. And each failure must have happened.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fabrik_bed::audit::Event;
use fabrik_bed::emulator::TOKEN;
use fabrik_bed::{Bed, Options, repository};
use fabrik_e2e::faults::{self, APPLIER, AuditTail};
use fabrik_e2e::search::{find, forms, in_the_cluster, leaks, without_user_data};
use fabrik_e2e::watch::{Sample, Seen, Watched, files};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(120);
const HETZNER: &str = "planted-hetzner-token-7d1f0c";
const REFUSED_HETZNER: &str = "planted-refused-token-91ab3e";
/// Needs escaping in JSON.
const PASSWORD: &str = "planted\"pass\\word-5e0d77";
/// Stands where base64 is expected, and is none.
const MALFORMED: &str = "planted!malformed-c21f88";
/// No secret: it is part of names, and planted where no name of ours gets to.
const VISIBLE: &str = "visible-3b9d10";
/// Every place that is searched, and what must be found there.
const CONTROLS: [(&str, &str); 17] = [
    ("log human", VISIBLE),
    ("log json", VISIBLE),
    ("status", VISIBLE),
    ("metrics", "fabrik_"),
    ("healthz", "ok"),
    ("readyz", "ok"),
    ("observed", VISIBLE),
    ("cmdline", "sops"),
    ("environ", VISIBLE),
    ("tmp", VISIBLE),
    ("home", VISIBLE),
    ("state", VISIBLE),
    ("git objects", VISIBLE),
    ("objects", VISIBLE),
    ("fabrik-observed", VISIBLE),
    ("emulator", "demo-workers-"),
    ("user data", VISIBLE),
];

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
    let dir = bed.dir().join("watched");
    for part in ["tmp", "home"] {
        fs::create_dir_all(dir.join(part))?;
        fs::write(dir.join(part).join("control"), VISIBLE)?;
    }
    let seen = Seen::default();
    for format in ["human", "json"] {
        let run = Watched::start(&bed, &dir, format, ("FABRIK_E2E_CONTROL", VISIBLE), &seen)?;
        story(&bed, &run).await?;
        run.end()?;
    }
    fs::write(state_dir(&bed)?.join("control"), VISIBLE)?;

    let mut places = seen.samples();
    places.extend(on_disk(&bed, &dir)?);
    places.extend(in_the_cluster(&bed)?);
    let emulator = at_the_emulator(&bed).await?;
    places.push(("emulator".to_owned(), without_user_data(&emulator)));
    let user_data = ("user data".to_owned(), emulator.to_string().into_bytes());
    let tokens = forms(join_tokens(&emulator)?)?;
    let mut searched = leaks(&places, &tokens);
    places.push(user_data);
    for (place, control) in CONTROLS {
        let shows =
            |(p, content): &Sample| p == place && find(content, control.as_bytes()).is_some();
        ensure!(
            places.iter().any(shows),
            "the search is blind: no `{control}` in {place}"
        );
    }
    // User data is where join tokens belong, and no other secret.
    ensure!(
        leaks(&places, &tokens).len() > searched.len(),
        "no join token in user data"
    );
    searched.extend(leaks(&places, &forms(secrets(&bed)?)?));
    ensure!(
        searched.is_empty(),
        "{} leaks:\n{}",
        searched.len(),
        searched.join("\n")
    );
    println!("{} places searched", places.len());
    bed.shutdown().await;
    Ok(())
}

/// Success and failure of everything that handles a secret.
async fn story(bed: &Bed, run: &Watched) -> Result<()> {
    let git = bed.git();
    let secret = |path: &str, text: &str| -> Result<()> {
        git.write(
            path,
            repository::sops_encrypt(git, bed.parts(), path, text.as_bytes())?,
        )
    };
    let value = serde_json::to_string(PASSWORD)?;
    let object = |name: &str, namespace: &str, rest: &str| {
        let path = format!("manifests/{name}/secret.yaml");
        let metadata = format!("{{name: {name}, namespace: {namespace}}}");
        let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {metadata}\n{rest}\n");
        secret(&path, &text)
    };
    let word = format!("stringData: {{password: {value}}}");

    bed.default_repo(1)?;
    secret(repository::TOKEN_FILE, &format!("token: {HETZNER}\n"))?;
    let control = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"v": VISIBLE},
        "metadata": {"name": VISIBLE, "namespace": "default", "labels": {"v": VISIBLE}}});
    git.write("manifests/control/map.yaml", control.to_string())?;
    let spec = git.read("cluster.toml")?;
    let labelled = spec.replace(
        "count = 1\n",
        &format!("count = 1\nlabels = {{ control = \"{VISIBLE}\" }}\n"),
    );
    git.write("cluster.toml", labelled)?;
    object("good", "default", &word)?;
    git.commit_and_push("Have a secret")?;
    let there = "the Secret is applied and a worker is there";
    bed.wait_until(there, DEADLINE, async || {
        run.sample(bed).await?;
        let found = bed
            .kubectl(&["get", "secret", "good", "-o", "name"])
            .is_ok();
        Ok((found && faults::workers(bed).await?.len() == 1).then_some(()))
    })
    .await?;

    // Refused by the API server, each in a way of its own.
    let refused = ["nowhere", "typed", "malformed", "nested"].map(|n| format!("{n}-{VISIBLE}"));
    let [nowhere, typed, malformed, nested] = &refused;
    let untyped = format!("type: kubernetes.io/tls\n{word}");
    let no_base64 = format!("data: {{password: \"{MALFORMED}\"}}");
    let deep = format!("stringData: {{password: {{deep: {value}}}}}");
    object(nowhere, "no-such-namespace", &word)?;
    object(typed, "default", &untyped)?;
    object(malformed, "default", &no_base64)?;
    object(nested, "default", &deep)?;
    let mut audit = AuditTail::new(bed, 0)?;
    let commit = git.commit_and_push("Have secrets that can't be applied")?;
    let names: Vec<&str> = refused.iter().map(String::as_str).collect();
    told(bed, run, &commit, &names).await?;
    refused_by_the_api_server(bed, &mut audit, &refused).await?;
    for unit in &refused {
        git.remove(&format!("manifests/{unit}"))?;
    }

    // A token that Hetzner refuses.
    secret(
        repository::TOKEN_FILE,
        &format!("token: {REFUSED_HETZNER}\n"),
    )?;
    let since = faults::last_request(bed).await?;
    let commit = git.commit_and_push("Have a token that Hetzner refuses")?;
    told(bed, run, &commit, &["does not accept the token"]).await?;
    let unauthorized = |r: &faults::Request| r.status == 401;
    let met = faults::requests(bed, since).await?;
    ensure!(
        met.iter().any(unauthorized),
        "Hetzner refused nothing: {met:#?}"
    );

    // Commits that are refused: a damaged secret, and a token file without its key.
    let path = "manifests/good/secret.yaml";
    let good = git.read(path)?;
    let mac = "mac: ENC[AES256_GCM,data:";
    let damaged = good.replace(mac, &format!("{mac}AAAA"));
    ensure!(damaged != good, "{path} has no MAC");
    git.write(path, damaged)?;
    secret(repository::TOKEN_FILE, &format!("other: {HETZNER}\n"))?;
    let commit = git.commit_and_push("Damage the secrets")?;
    told(bed, run, &commit, &[path, repository::TOKEN_FILE]).await?;
    ensure!(
        status(bed)?["refused"]["commit"] == commit.as_str(),
        "{commit} is not refused"
    );
    git.write(path, good)?;
    secret(repository::TOKEN_FILE, &format!("token: {HETZNER}\n"))?;
    let commit = git.commit_and_push("Mend them")?;
    bed.wait_until("all is well again", DEADLINE, async || {
        run.sample(bed).await?;
        Ok((status(bed)?["appliedCommit"] == commit.as_str()).then_some(()))
    })
    .await
}

/// Waits until the log and the status name all of these for the commit.
async fn told(bed: &Bed, run: &Watched, commit: &str, names: &[&str]) -> Result<()> {
    let before = run.log()?.len();
    let what = format!("fabrik tells {names:?}");
    let told = bed.wait_until(&what, DEADLINE, async || {
        run.sample(bed).await?;
        let (log, status) = (run.log()?, status(bed)?);
        let units = bed.kubectl(&["get", "fabrikunits", "-o", "json"])?;
        let (log, text) = (
            log.get(before..).unwrap_or_default(),
            format!("{status}{units}"),
        );
        ensure!(
            status["headCommit"] == commit,
            "{commit} is not seen: {text}"
        );
        for name in names {
            ensure!(text.contains(name), "no {name} in the status {text}");
            ensure!(log.contains(name), "no {name} in the log");
        }
        Ok(Some(()))
    });
    told.await.with_context(|| run.log().unwrap_or_default())
}

async fn refused_by_the_api_server(
    bed: &Bed,
    audit: &mut AuditTail,
    names: &[String],
) -> Result<()> {
    let mut refused = BTreeSet::new();
    // What has not the shape of a Secret is answered by a 500.
    let refusal = |event: &Event| {
        let object = event.object_ref.as_ref()?;
        let code = event.response_status.as_ref()?.code;
        let applied = event.user.username == APPLIER && object.resource == "secrets";
        (applied && code >= 400).then(|| object.name.clone())
    };
    bed.wait_until(&format!("it refuses {names:?}"), DEADLINE, async || {
        refused.extend(audit.completed()?.iter().filter_map(refusal));
        let left: Vec<_> = names
            .iter()
            .filter(|name| !refused.contains(*name))
            .collect();
        ensure!(left.is_empty(), "not refused: {left:?}");
        Ok(Some(()))
    })
    .await
}

fn status(bed: &Bed) -> Result<Value> {
    let text = bed.kubectl(&["get", "fabrikcluster", "demo", "-o", "json"])?;
    let mut object: Value = serde_json::from_str(&text)?;
    Ok(object["status"].take())
}

fn on_disk(bed: &Bed, dir: &Path) -> Result<Vec<Sample>> {
    let mut places = Vec::new();
    for format in ["human", "json"] {
        let log = fs::read(dir.join(format!("{format}.log")))?;
        places.push((format!("log {format}"), log));
    }
    let state = state_dir(bed)?;
    for (place, dir) in [
        ("tmp", dir.join("tmp")),
        ("home", dir.join("home")),
        ("state", state.clone()),
    ] {
        let contents = files(&dir)?.into_iter();
        places.extend(contents.map(|(_, content)| (place.to_owned(), content)));
    }
    // They are packed in the files.
    for clone in fs::read_dir(state.join("repository"))? {
        let clone = clone?.path();
        if clone.is_dir() {
            let mut git = Command::new("git");
            git.arg("--git-dir").arg(clone);
            let objects = git.args(["cat-file", "--batch", "--batch-all-objects"]);
            places.push(("git objects".to_owned(), objects.output()?.stdout));
        }
    }
    Ok(places)
}

/// What it was asked for, and what it has.
async fn at_the_emulator(bed: &Bed) -> Result<Value> {
    let url = format!("{}/_emulator/requests?since=0", bed.emulator_url());
    let requests: Value = reqwest::get(url).await?.json().await?;
    Ok(json!({"requests": requests, "state": faults::state(bed).await?}))
}

/// The secret parts of the tokens that new servers got.
fn join_tokens(emulator: &Value) -> Result<Vec<Sample>> {
    let mut tokens = Vec::new();
    let requests = emulator["requests"]["requests"].as_array();
    for request in requests.context("no requests")? {
        let Some(text) = request["body"]["user_data"].as_str() else {
            continue;
        };
        let data: Value = serde_json::from_str(text)?;
        let token = data["token"].as_str().context("no join token")?;
        let (_, secret) = token.rsplit_once('.').context("a join token")?;
        ensure!(secret.len() == 16, "no join token: {} long", secret.len());
        tokens.push(("a join token".to_owned(), secret.as_bytes().to_vec()));
    }
    ensure!(!tokens.is_empty(), "no server got a join token");
    Ok(tokens)
}

/// Every lasting secret that this cluster has.
fn secrets(bed: &Bed) -> Result<Vec<Sample>> {
    let mut values: Vec<Sample> = [HETZNER, REFUSED_HETZNER, PASSWORD, MALFORMED]
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
    Ok(values)
}

fn state_dir(bed: &Bed) -> Result<PathBuf> {
    let config = fs::read_to_string(bed.founding()?.config)?;
    let line = config.lines().find_map(|l| l.strip_prefix("state-dir = "));
    Ok(line.context("no state-dir")?.trim_matches('"').into())
}

#[test]
fn a_value_is_found_in_each_form() -> Result<()> {
    let value = "pass\"word\\-5e0d77";
    let forms = forms(vec![("it".to_owned(), value.into())])?;
    let found = |content: &str| !leaks(&[("there".to_owned(), content.into())], &forms).is_empty();
    ensure!(found("a pass\"word\\-5e0d77!"), "plain");
    ensure!(found(r#"{"a": "pass\"word\\-5e0d77"}"#), "escaped");
    // printf 'pass"word\\-5e0d77' | base64
    ensure!(found("x: cGFzcyJ3b3JkXC01ZTBkNzc="), "in base64");
    ensure!(!found("pass word"), "in something else");
    Ok(())
}
