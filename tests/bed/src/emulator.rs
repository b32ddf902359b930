//! The bed's own way to the Hetzner emulator: as a user of the API, and as the machines behind it.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// The token that the bed uses and that the cluster repository carries.
pub const TOKEN: &str = "bed-hetzner-token";

/// A client of one emulator.
#[derive(Clone, Debug)]
pub struct Hetzner {
    http: reqwest::Client,
    /// Without a path: `http://127.N.255.1:8080`.
    base: String,
}

/// What happened to a server.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    pub seq: u64,
    pub kind: EventKind,
    pub server: u64,
    pub name: String,
    pub ipv4: Option<Ipv4Addr>,
    /// What the machine boots, where it boots.
    pub boots: Option<Boots>,
    /// The image that the event is about.
    pub image: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boots {
    Disk,
    Rescue,
}

/// What a rescue system has of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescue {
    pub disk_bytes: u64,
    /// Lines of its `authorized_keys`.
    pub authorized_keys: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Created,
    Running,
    ShutdownRequested,
    Off,
    Rebooted,
    Reset,
    Snapshot,
    ImageDeleted,
    Deleted,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Events {
    events: Vec<Event>,
}

impl Hetzner {
    const LONG_POLL: Duration = Duration::from_secs(20);

    pub fn new(base: &str) -> Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
        })
    }

    /// Its URL, without a path.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// What a Hetzner client is configured with.
    pub fn endpoint(&self) -> String {
        format!("{}/v1", self.base)
    }

    /// Any call of the API; an error answer is an error.
    pub async fn call(&self, method: reqwest::Method, path: &str, body: &Value) -> Result<Value> {
        let url = format!("{}{path}", self.endpoint());
        let mut request = self.http.request(method.clone(), url).bearer_auth(TOKEN);
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{method} {path}: {status}: {text}");
        }
        if text.is_empty() {
            Ok(Value::Null)
        } else {
            Ok(serde_json::from_str(&text)?)
        }
    }

    /// Creates a server as any user of the API would, and returns its id and public address.
    pub async fn create_server(&self, body: &Value) -> Result<(u64, Ipv4Addr)> {
        let answer = self.call(reqwest::Method::POST, "/servers", body).await?;
        let server = &answer["server"];
        let id = server["id"].as_u64().context("the new server has no id")?;
        let address = server["public_net"]["ipv4"]["ip"]
            .as_str()
            .context("no public address")?;
        Ok((id, address.parse()?))
    }

    /// `poweron`, `poweroff`, `reboot`, `reset`, `shutdown`.
    pub async fn action(&self, server: u64, action: &str) -> Result<()> {
        let path = format!("/servers/{server}/actions/{action}");
        self.call(reqwest::Method::POST, &path, &json!({}))
            .await
            .map(drop)
    }

    pub async fn delete_server(&self, server: u64) -> Result<()> {
        let path = format!("/servers/{server}");
        self.call(reqwest::Method::DELETE, &path, &Value::Null)
            .await
            .map(drop)
    }

    /// Adds labels to those that a server has.
    pub async fn label_server(&self, server: u64, added: &[(&str, &str)]) -> Result<()> {
        let path = format!("/servers/{server}");
        let known = self.call(reqwest::Method::GET, &path, &Value::Null).await?;
        let mut labels = known["server"]["labels"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        labels.extend(
            added
                .iter()
                .map(|(key, value)| ((*key).to_owned(), json!(value))),
        );
        self.call(reqwest::Method::PUT, &path, &json!({"labels": labels}))
            .await
            .map(drop)
    }

    /// A document of the metadata service, as seen from inside the server; `None` when it has none.
    pub async fn metadata(&self, server: u64, path: &str) -> Result<Option<String>> {
        let url = format!("{}/_emulator/servers/{server}/hetzner/v1/{path}", self.base);
        let response = self.http.get(url).send().await?;
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(response.error_for_status()?.text().await?))
    }

    /// The rescue system that a server runs.
    pub async fn rescue(&self, server: u64) -> Result<Rescue> {
        const GIGABYTE: u64 = 1_000_000_000;
        let url = format!("{}/_emulator/state", self.base);
        let state: Value = self.http.get(url).send().await?.json().await?;
        let servers = state["servers"].as_array();
        let found = servers.and_then(|all| all.iter().find(|one| one["id"] == server));
        let found = found.with_context(|| format!("no server {server}"))?;
        let keys = found["rescue"]["authorized_keys"].as_array();
        let keys = keys.with_context(|| format!("server {server} has no rescue system"))?;
        let keys = keys.iter().filter_map(Value::as_str).map(str::to_owned);
        let disk = found["primary_disk_size"].as_u64();
        Ok(Rescue {
            disk_bytes: disk.context("a server without a disk")? * GIGABYTE,
            authorized_keys: keys.collect(),
        })
    }

    /// A server that hangs does not answer the power button.
    pub async fn set_hung(&self, server: u64, hung: bool) -> Result<()> {
        let url = format!("{}/_emulator/servers/{server}/hung", self.base);
        self.http
            .put(url)
            .json(&json!({"hung": hung}))
            .send()
            .await?
            .error_for_status()?;
        Ok(())
    }

    /// The machine says that it has switched itself off.
    pub async fn halted(&self, server: u64) -> Result<()> {
        let url = format!("{}/_emulator/servers/{server}/halted", self.base);
        self.http.post(url).send().await?.error_for_status()?;
        Ok(())
    }

    /// What happened after event number `since`; waits until there is something, or for a while.
    pub async fn events(&self, since: u64) -> Result<Vec<Event>> {
        let wait_ms = Self::LONG_POLL.as_millis();
        let url = format!(
            "{}/_emulator/events?since={since}&wait_ms={wait_ms}",
            self.base
        );
        let response = self.http.get(url).send().await?.error_for_status()?;
        Ok(response.json::<Events>().await?.events)
    }
}
