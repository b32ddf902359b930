//! Hetzner, the first server and the laptop in memory, and a seed that may be killed at each step.

use fabrik_core::effect::Effect;
use fabrik_core::id::{PoolName, ServerId};
use fabrik_core::infrastructure::Placement;
use fabrik_core::observed::Power;
use fabrik_core::seed::{
    Architecture, Extent, First, Ground, Image, ImageDigest, ImageServer, Laptop, Next, Observed,
    Rescue, Snapshot, SnapshotState, Stage, Step, Wanted, next,
};
use jiff::{SignedDuration, Timestamp};

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// Killed before anything happened.
    NotBegun,
    /// It was done, and the laptop wrote nothing down.
    Unheard,
    /// Hetzner or the server was left in the middle of it.
    HalfWay,
    /// Killed before anything happened, and a person comes back with another image.
    OtherImage,
}

pub struct World {
    pub wanted: Wanted,
    pub seen: Observed,
    pub told: Vec<String>,
    /// How often the cluster was founded on a new machine.
    pub firsts_founded: usize,
    pub foreign_deleted: usize,
    pub spoke_only_after_the_host_key_was_changed: bool,
    /// What the temporary server's disk holds, whole.
    disk: Option<String>,
    has_other_host_key: bool,
    is_founded: bool,
    missing: usize,
    last_id: u64,
}

/// The snapshots of another pool are nobody's business here.
const FOREIGN_POOL: &str = "others";

impl World {
    pub fn new(extent: Extent) -> Self {
        let mut world = Self {
            wanted: Wanted {
                cluster: "demo".parse().unwrap(),
                images: vec![image("servers", "a")],
                extent,
            },
            seen: Observed {
                key: None,
                snapshots: Vec::new(),
                image_server: None,
                ground: Some(missing("demo")),
                first: None,
                laptop: Laptop {
                    server: None,
                    stage: Stage::Unmet,
                    has_secrets: true,
                },
            },
            told: Vec::new(),
            firsts_founded: 0,
            foreign_deleted: 0,
            spoke_only_after_the_host_key_was_changed: true,
            disk: None,
            has_other_host_key: false,
            is_founded: false,
            missing: 2,
            last_id: 100,
        };
        world.snapshot(FOREIGN_POOL, "f", 0);
        world
    }

    pub fn old_snapshots(&mut self, count: usize) {
        for n in 0..count {
            self.snapshot("servers", "e", n);
        }
    }

    /// Goes on until it is done, with one fate after the other, and then without faults.
    pub fn walk(&mut self, fates: Vec<Fate>, patience: usize) {
        let mut fates = fates.into_iter();
        let mut faultless = 0;
        loop {
            let step = match next(&self.wanted, &self.seen) {
                Next::Done => return,
                Next::Stop(stop) => panic!("{stop}, after {:?}", self.told),
                Next::Do(step) => step,
            };
            let name = format!("{step:?}");
            let end = name.find([' ', '(']).unwrap_or(name.len());
            self.told.push(name[..end].to_owned());
            let fate = fates.next().unwrap_or(Fate::Done);
            faultless = if fate == Fate::Done { faultless + 1 } else { 0 };
            assert!(faultless < patience, "no end: {:?}", self.told);
            match fate {
                Fate::NotBegun => {}
                Fate::OtherImage => self.want_another_image(),
                _ => self.carry_out(step, fate),
            }
        }
    }

    /// Where the first server is made, none is looked for.
    fn want_another_image(&mut self) {
        let wanted = &mut self.wanted.images[0];
        if self.seen.first.is_none() {
            let letter = if wanted.digest == digest("a") {
                "c"
            } else {
                "a"
            };
            wanted.digest = digest(letter);
        }
    }

    pub fn server_of_image(&self) -> Option<&ImageServer> {
        self.seen.image_server.as_ref()
    }

    pub fn newest(&self, pool: &PoolName) -> Option<String> {
        let of_pool = self.seen.snapshots.iter().filter(|s| s.pool == *pool);
        let newest = of_pool.max_by_key(|s| (s.created, s.id))?;
        (newest.state == SnapshotState::Available).then(|| newest.digest.clone())
    }

    pub fn of_pool(&self, pool: &str) -> usize {
        let of_pool = |s: &&Snapshot| s.pool.as_str() == pool;
        self.seen.snapshots.iter().filter(of_pool).count()
    }

    pub fn begin_image_server(&mut self, power: Power, rescue: Rescue) {
        self.seen.image_server = Some(ImageServer {
            id: ServerId(1),
            architecture: Some(Architecture::X86),
            power,
            rescue,
            written: None,
        });
    }

    pub fn written(&mut self, digest: Option<String>) {
        self.image_server().written = digest;
    }

    fn image_server(&mut self) -> &mut ImageServer {
        self.seen.image_server.as_mut().expect("a temporary server")
    }

    fn snapshot(&mut self, pool: &str, letter: &str, age: usize) {
        let id = self.id();
        let Image { pool, digest, .. } = image(pool, letter);
        self.seen.snapshots.push(Snapshot {
            id,
            pool,
            digest: digest.into(),
            created: at(0) - SignedDuration::from_hours(1) * i32::try_from(age + 1).unwrap(),
            state: SnapshotState::Available,
            protected: false,
        });
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn carry_out(&mut self, step: Step, fate: Fate) {
        let half_way = fate == Fate::HalfWay;
        match step {
            Step::RegisterKey => self.seen.key = Some(self.id()),
            Step::DeleteKey { key } => {
                assert_eq!(self.seen.key.take(), Some(key));
            }
            Step::CreateImageServer { image } => {
                assert!(self.seen.image_server.is_none(), "two temporary servers");
                let id = ServerId(self.id());
                self.disk = None;
                self.seen.image_server = Some(ImageServer {
                    id,
                    architecture: Some(image.architecture),
                    power: Power::Changing,
                    rescue: Rescue::None,
                    written: None,
                });
            }
            Step::EnableRescue { .. } => {
                let server = self.image_server();
                assert_eq!(server.power, Power::Off);
                server.rescue = Rescue::Armed;
            }
            Step::PowerOn { .. } | Step::AwaitServer { .. } => self.settle(half_way),
            Step::PowerOff { .. } => self.image_server().power = Power::Off,
            Step::WriteImage { image, .. } => {
                assert_eq!(self.image_server().power, Power::Running);
                self.disk = None;
                if !half_way {
                    let digest = image.digest.as_str();
                    self.disk = Some(digest.to_owned());
                    self.image_server().written = Some(digest.to_owned());
                }
            }
            Step::ForgetWritten { .. } => self.image_server().written = None,
            Step::TakeSnapshot { image, .. } => self.take_snapshot(&image, half_way),
            Step::AwaitSnapshot { snapshot } => {
                let state = if half_way {
                    SnapshotState::Broken
                } else {
                    SnapshotState::Available
                };
                for made in &mut self.seen.snapshots {
                    if made.id == snapshot {
                        made.state = state;
                    }
                }
            }
            Step::DeleteSnapshot { snapshot } => {
                let gone = self.seen.snapshots.iter().find(|s| s.id == snapshot);
                let is_foreign = gone.is_some_and(|s| s.pool.as_str() == FOREIGN_POOL);
                self.foreign_deleted += usize::from(is_foreign);
                self.seen.snapshots.retain(|s| s.id != snapshot);
            }
            Step::DeleteImageServer { .. } => self.seen.image_server = None,
            Step::Make(_) => {
                self.missing -= 1;
                let ground = match self.missing {
                    0 => ready(),
                    _ => missing("demo-servers-1"),
                };
                self.seen.ground = Some(ground);
            }
            Step::CreateFirstServer { snapshot, .. } => {
                let made_of = self.seen.snapshots.iter().find(|s| s.id == snapshot);
                let digest = made_of.map(|s| s.digest.as_str());
                assert_eq!(digest, Some(self.wanted.images[0].digest.as_str()));
                self.seen.first = Some(First {
                    id: ServerId(self.id()),
                    power: Power::Changing,
                });
            }
            Step::Meet { .. }
            | Step::UseHostKey { .. }
            | Step::HandOver { .. }
            | Step::AwaitCommit { .. }
            | Step::WriteKubeconfig { .. }
            | Step::Part { .. } => self.speak(&step, fate),
            Step::ForgetSecrets => self.seen.laptop.has_secrets = false,
        }
    }

    /// Where Hetzner does it only half, the next look shows that it is still at it.
    fn settle(&mut self, half_way: bool) {
        let settled = |before: Power, wanted: Power| match before {
            Power::Off if half_way => Power::Changing,
            _ => wanted,
        };
        if let Some(first) = &mut self.seen.first {
            first.power = settled(first.power, Power::Running);
        } else {
            let server = self.image_server();
            let armed = server.rescue == Rescue::Armed;
            let boots = if armed { Power::Running } else { Power::Off };
            server.power = match server.power {
                // It runs after the next look.
                Power::Off => Power::Changing,
                _ => boots,
            };
            if server.power == Power::Running {
                server.rescue = Rescue::None;
            }
        }
    }

    fn take_snapshot(&mut self, image: &Image, half_way: bool) {
        let server = self.image_server();
        assert_eq!(server.power, Power::Off, "a disk in use is copied");
        assert_eq!(self.disk.as_deref(), Some(image.digest.as_str()));
        let id = self.id();
        self.seen.snapshots.push(Snapshot {
            id,
            pool: image.pool.clone(),
            digest: image.digest.as_str().to_owned(),
            created: at(id),
            state: if half_way {
                SnapshotState::Creating
            } else {
                SnapshotState::Available
            },
            protected: false,
        });
    }

    /// What is said to the first server; the laptop writes down what it has heard.
    fn speak(&mut self, step: &Step, fate: Fate) {
        let first = self.seen.first.as_ref().expect("a first server").id;
        let stage = match step {
            Step::Meet { .. } => Stage::Met,
            Step::UseHostKey { .. } => {
                self.has_other_host_key = true;
                Stage::Trusted
            }
            Step::HandOver { .. } => {
                self.spoke_only_after_the_host_key_was_changed &= self.has_other_host_key;
                self.firsts_founded += usize::from(!self.is_founded);
                self.is_founded = true;
                Stage::Founded
            }
            Step::AwaitCommit { .. } => Stage::CarriedOut,
            Step::WriteKubeconfig { .. } => Stage::KubeconfigWritten,
            _ => Stage::Parted,
        };
        let laptop = &mut self.seen.laptop;
        if fate == Fate::Done {
            laptop.server = Some(first);
            laptop.stage = stage;
        } else if stage == Stage::Founded {
            laptop.stage = Stage::HandingOver;
        }
    }
}

pub fn image(pool: &str, letter: &str) -> Image {
    Image {
        pool: pool.parse().unwrap(),
        digest: digest(letter),
        architecture: Architecture::X86,
        k3s: None,
    }
}

pub fn digest(letter: &str) -> ImageDigest {
    ImageDigest::of_sha256(&letter.repeat(64)).unwrap()
}

/// A time for each number, one after the other.
pub fn at(id: u64) -> Timestamp {
    let noon: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
    noon + SignedDuration::from_secs(id.try_into().unwrap())
}

fn missing(name: &str) -> Ground {
    Ground::Missing(Effect::CreateFirewall {
        name: name.to_owned(),
        rules: Vec::new(),
    })
}

fn ready() -> Ground {
    Ground::Ready(Placement {
        network: 1,
        firewall: 2,
        ssh_keys: Vec::new(),
        group: None,
    })
}
