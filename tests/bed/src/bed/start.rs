//! How a bed comes up: parts, a place, the emulator with the servers, git, the control plane,
//! and fabrik when it is wanted.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::{join_all, try_join_all};
use hetzner_emulator::Emulator;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Bed, Options, OwnRuntime};
use crate::agent;
use crate::balancer::Balancer;
use crate::clusters::Clusters;
use crate::control_plane::{API_PORT, ControlPlane, EtcdCluster, Settings, Trust};
use crate::disks::Disks;
use crate::emulator::Hetzner;
use crate::fabrik::{self, Fabrik, Founding, Place, Systems};
use crate::fleet::Fleet;
use crate::git::Git;
use crate::kubeconfig::Endpoint;
use crate::machine::{Machine, Role, Surroundings};
use crate::parts::Parts;
use crate::pki;
use crate::rights;
use crate::server::Server;
use crate::slot::Slot;
use crate::supervisor;
use crate::switch::Switch;
use crate::system::{Build, Image};

const BOOT_DEADLINE: Duration = Duration::from_secs(150);
const FABRIK_PORT: u16 = 9640;
const CACHE_PORT: u16 = 9642;
pub(crate) const EMULATOR_PORT: u16 = 8080;

/// Where `fabrik run` of this server listens.
pub(super) fn fabrik_listen(server: &Server) -> String {
    format!("{}:{FABRIK_PORT}", server.control_plane.address())
}

/// Where `fabrik run` of this server has its binary cache.
pub(crate) fn fabrik_cache(server: &Server) -> SocketAddr {
    (server.control_plane.address(), CACHE_PORT).into()
}

/// Each server has an address of its own for the emulator, so that the journal shows who asked.
pub(super) fn hetzner_door(server: &Server) -> SocketAddr {
    (server.control_plane.address(), EMULATOR_PORT).into()
}

/// `runtime` is the one of `handle`: it becomes part of the bed.
pub(super) async fn bed(options: Options, handle: Handle, runtime: OwnRuntime) -> Result<Bed> {
    // Somebody in this process may have installed one already; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match options.servers {
        0 if options.fabrik => bail!("an empty bed has nobody to found it: Options::fabrik"),
        0 | 1 | 3 => {}
        servers => bail!("a bed has 1 or 3 servers, or begins empty, and has not {servers}"),
    }
    let parts = Arc::new(prepare_parts(&options).await?);
    let slot = Slot::take()?;
    // Machines get their addresses from 127.N.0.0/17; services of the bed have this one.
    let services = slot.address(255, 1);
    let (emulator, hetzner) = start_emulator(&slot, services, &options).await?;
    let git = Git::start(slot.dir(), services, &parts, &slot.dirs()).await?;
    let trust = Arc::new(Trust::new()?);
    let clusters = Clusters::default();
    clusters.add(&trust);
    let switch = match options.servers {
        0 => Some(Switch::start(slot.dir(), &slot.dirs()).await?),
        _ => None,
    };
    let surroundings = Arc::new(Surroundings {
        runtime: handle,
        parts: Arc::clone(&parts),
        hetzner: hetzner.clone(),
        dir: slot.dir().to_owned(),
        dirs: slot.dirs(),
        disks: Disks::new(slot.dir()),
        kubelet_version: format!("v{}+k3s1", options.kubernetes_version),
        clusters,
        switch,
        services,
        node_monitor_grace_period: options.node_monitor_grace_period,
        cluster: options.cluster.clone(),
        image: image(&options, &slot).await?,
        former_fabrik: options.former_fabrik.clone(),
        script: options.script,
    });
    let (servers, server_machines) =
        create_servers(&options, &slot, services, &surroundings, &trust).await?;
    let emulator_address = SocketAddr::from((services, EMULATOR_PORT));
    let doors = servers
        .iter()
        .map(|server| Balancer::start(hetzner_door(server), vec![emulator_address]));
    let hetzner_doors = try_join_all(doors).await?;
    let fleet = Fleet::start(surroundings, &server_machines);
    let api_servers = match options.servers {
        0 => fleet.api_servers(),
        _ => watch::Sender::new(api_servers(&servers)).subscribe(),
    };
    let balancer_address = SocketAddr::from((services, API_PORT));
    let open = watch::Sender::new(true).subscribe();
    let balancer = Balancer::through(balancer_address, api_servers, open).await?;
    let bed = Bed {
        fleet,
        servers,
        server_machines,
        _balancer: balancer,
        _hetzner_doors: hetzner_doors,
        balancer_endpoint: Endpoint {
            url: format!("https://{balancer_address}"),
            // The balancer's address is in the servers' certificates, where the bed made them.
            through_balancer: options.servers == 0,
        },
        git,
        emulator,
        hetzner,
        trust,
        parts,
        options,
        reader: Mutex::default(),
        _runtime: runtime,
        slot,
    };
    if bed.options.servers == 0 {
        return Ok(bed);
    }
    bed.wait_for_servers().await?;
    let admin = bed.kubeconfig_text("bed-admin", Some("system:masters"))?;
    pki::write_private(&bed.kubeconfig(), admin.as_bytes())?;
    let client = bed.kube().await?;
    rights::grant_all(&client).await?;
    if bed.options.fabrik {
        bed.found().await?;
    }
    Ok(bed)
}

async fn prepare_parts(options: &Options) -> Result<Parts> {
    let mut versions = options.other_kubernetes_versions.clone();
    versions.push(options.kubernetes_version.clone());
    let prepare = move || {
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        Parts::prepare(&versions)
    };
    tokio::task::spawn_blocking(prepare).await?
}

/// Builds what the disks of machines with systems are made from.
async fn image(options: &Options, slot: &Slot) -> Result<Option<Image>> {
    if !options.systems {
        return Ok(None);
    }
    let (dir, version) = (slot.dir().join("image"), options.kubernetes_version.clone());
    let fabrik = Build::at_first(options.former_fabrik.as_deref());
    let build = move || Image::build(&dir, &Parts::nix()?, &version, fabrik);
    Ok(Some(tokio::task::spawn_blocking(build).await??))
}

async fn start_emulator(
    slot: &Slot,
    services: Ipv4Addr,
    options: &Options,
) -> Result<(Emulator, Hetzner)> {
    let network = format!("{}/17", slot.address(0, 0));
    let emulator = Emulator::start(hetzner_emulator::Options {
        listen: SocketAddr::from((services, EMULATOR_PORT)),
        tokens: Vec::new(),
        ipv4_pool: network.parse()?,
        action_duration: options.action_duration,
    });
    let emulator = emulator.await.context("starting the Hetzner emulator")?;
    let hetzner = Hetzner::new(&emulator.url())?;
    Ok((emulator, hetzner))
}

/// Creates the servers of the control plane at the emulator, and what will run on them.
async fn create_servers(
    options: &Options,
    slot: &Slot,
    balancer: Ipv4Addr,
    surroundings: &Arc<Surroundings>,
    trust: &Arc<Trust>,
) -> Result<(Vec<Arc<Server>>, Vec<Machine>)> {
    let mut created = Vec::new();
    for number in 1..=options.servers {
        let name = format!("server-{number}");
        let body = json!({
            "name": name,
            "server_type": "cx23",
            "image": "debian-12",
            "location": "fsn1",
            "labels": {"role": "server", "fabrik.dev/role": "server"},
        });
        let (id, address) = surroundings.hetzner.create_server(&body).await?;
        created.push((id, name, address));
    }
    let members: Vec<_> = created
        .iter()
        .map(|(_, name, ip)| format!("{name}=https://{ip}:2380"))
        .collect();
    let api_servers: Vec<_> = created
        .iter()
        .map(|(_, _, ip)| SocketAddr::from((*ip, API_PORT)))
        .collect();
    let mut servers = Vec::new();
    let mut machines = Vec::new();
    for (id, name, address) in created {
        let dir = slot.dir().join(&name);
        let settings = Settings {
            name: name.clone(),
            member: name.clone(),
            address,
            at_all_addresses: false,
            balancer,
            kubernetes_version: options.kubernetes_version.clone(),
            dir: dir.clone(),
            dirs: slot.dirs(),
            node_monitor_grace_period: options.node_monitor_grace_period,
        };
        let etcd = EtcdCluster {
            members: members.join(","),
            existing: false,
        };
        let parts = Arc::clone(&surroundings.parts);
        let control_plane = ControlPlane::new(settings, parts, Arc::clone(trust), etcd)?;
        let program = options.former_fabrik.clone();
        let fabrik = Fabrik::new(
            &name,
            &dir,
            &slot.dirs(),
            Arc::clone(&surroundings.parts),
            program.map_or_else(fabrik::binary, Ok)?,
        );
        let trust = Arc::clone(trust);
        let server = Server::new(
            control_plane,
            fabrik,
            Arc::clone(&trust),
            api_servers.clone(),
            surroundings.parts.etcdctl.clone(),
        );
        let server = Arc::new(server);
        let role = Role::Server {
            server: Arc::clone(&server),
            trust,
        };
        machines.push(Machine::new(
            id,
            &name,
            address,
            role,
            Arc::clone(surroundings),
        )?);
        servers.push(server);
    }
    Ok((servers, machines))
}

fn api_servers(servers: &[Arc<Server>]) -> Vec<SocketAddr> {
    let address = |server: &Arc<Server>| (server.control_plane.address(), API_PORT).into();
    servers.iter().map(address).collect()
}

impl Bed {
    async fn wait_for_servers(&self) -> Result<()> {
        let machines = &self.server_machines;
        let waits = join_all(
            machines
                .iter()
                .map(|machine| machine.wait_running(BOOT_DEADLINE)),
        );
        for waited in waits.await {
            waited.map_err(|error| error.context(crate::wait::log_tails(&self.logs())))?;
        }
        Ok(())
    }

    /// Founds the cluster, server by server, and starts `fabrik run` on each.
    async fn found(&self) -> Result<()> {
        let mut elder = None;
        for (number, server) in self.servers.iter().enumerate() {
            server.fabrik.found(&self.place(number), elder).await?;
            elder = elder.or(Some(&server.fabrik));
        }
        let founding = self.founding()?;
        self.git.authorize(&founding.deploy_key)?;
        let label = [("fabrik.dev/cluster", founding.cluster_id.as_str())];
        let labelled = self
            .server_machines
            .iter()
            .map(|m| self.hetzner.label_server(m.id(), &label));
        try_join_all(labelled).await?;
        if self.options.systems {
            self.install_agents(&founding)?;
        }
        if self.options.webhooks {
            self.git.set_webhooks(self.webhooks()?);
        }
        self.servers
            .iter()
            .try_for_each(|server| server.fabrik.start())
    }

    /// `fabrik run` gets a Nix, a cache and an etcd; the servers' own agents start.
    fn install_agents(&self, founding: &Founding) -> Result<()> {
        let servers = self.servers.iter();
        let cache_urls = servers.map(|server| format!("https://{}", fabrik_cache(server)));
        let public_key = std::fs::read_to_string(self.fabrik(0).dir().join("signing.pub"))?;
        let cluster = agent::Cluster {
            name: self.options.cluster.clone(),
            id: founding.cluster_id.clone(),
            public_key: public_key.trim().to_owned(),
            cache_urls: cache_urls.collect(),
        };
        for (server, machine) in self.servers.iter().zip(&self.server_machines) {
            let root = machine.root().context("a server without a disk")?;
            let systems = Systems {
                cache: fabrik_cache(server),
                etcd: format!("https://{}:2379", server.control_plane.address()),
                certificates: server.control_plane.dir(),
            };
            server.fabrik.give_systems(&root, &systems)?;
            machine.install_agent(cluster.clone());
        }
        Ok(())
    }

    fn place(&self, number: usize) -> Place {
        let server = self.server(number);
        // Each server asks its own API server first.
        let mut ordered: Vec<_> = self.servers.iter().map(|s| &s.control_plane).collect();
        ordered.rotate_left(number);
        let join_urls = ordered
            .iter()
            .map(|c| format!("https://{}:{}", c.address(), supervisor::PORT));
        Place {
            admin_kubeconfig: server.control_plane.dir().join("admin.kubeconfig"),
            cluster: self.options.cluster.clone(),
            repository: self.repository_url(),
            branch: "main".to_owned(),
            join_urls: join_urls.collect(),
            api_servers: ordered.iter().map(|c| c.url()).collect(),
            known_hosts: self.git.known_hosts().to_owned(),
            hetzner_endpoint: format!("http://{}/v1", hetzner_door(server)),
            listen: fabrik_listen(server),
            poll: format!("{}ms", self.options.poll.as_millis()),
        }
    }
}
