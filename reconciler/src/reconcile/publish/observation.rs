//! Publishes the observation that `fabrik plan` works from.

use std::time::Duration;

use fabrik_core::names::{LEADER_MANAGER, NAMESPACE};
use fabrik_core::observed::{Datastore, Observed};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::warn;

use super::teller::Teller;
use crate::cluster::user_data::Joining;
use crate::report::observed::{CONFIG_MAP, CONFIG_MAP_KEY, Document};

pub struct Observation {
    client: Client,
    joining: Option<Joining>,
    /// What was published last, without what changes by itself.
    published: Option<Observed>,
    /// When that was observed, or what did not differ from it.
    known: watch::Sender<Timestamp>,
}

impl Observation {
    /// With it: as of when readers know all that was observed.
    pub fn new(client: Client, joining: Option<Joining>) -> (Self, watch::Receiver<Timestamp>) {
        let (known, published) = watch::channel(Timestamp::UNIX_EPOCH);
        let observation = Self {
            client,
            joining,
            published: None,
            known,
        };
        (observation, published)
    }
}

impl Teller for Observation {
    /// None before the first pass that saw all that there is.
    type News = Option<Observed>;
    const WHAT: &'static str = "the observation";
    const PERIOD: Duration = Duration::from_secs(2);

    async fn tell(&mut self, news: &Option<Observed>) -> Result<(), kube::Error> {
        let Some(observed) = news else {
            return Ok(());
        };
        let lasting = lasting(observed);
        if self.published.as_ref() == Some(&lasting) {
            self.known.send_replace(observed.at);
            return Ok(());
        }
        let joining = self.joining.as_ref();
        let document = Document {
            joining: joining.map(|joining| joining.without_workers(&observed.hetzner)),
            ..Document::new(observed.clone(), Timestamp::now())
        };
        let document = match document.publish() {
            Ok(document) => document,
            Err(error) => {
                warn!(%error, "the observation is not published");
                return Ok(());
            }
        };
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.to_owned()),
                ..ObjectMeta::default()
            },
            binary_data: Some([(CONFIG_MAP_KEY.to_owned(), ByteString(document))].into()),
            ..ConfigMap::default()
        };
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
        let params = PatchParams::apply(LEADER_MANAGER).force();
        api.patch(CONFIG_MAP, &params, &Patch::Apply(&map)).await?;
        self.published = Some(lasting);
        self.known.send_replace(observed.at);
        Ok(())
    }
}

/// Without what changes while nothing happens.
fn lasting(observed: &Observed) -> Observed {
    let mut lasting = observed.clone();
    lasting.at = Timestamp::UNIX_EPOCH;
    // How far etcd's members have come changes with each write, this one among them.
    if let Datastore::Etcd(etcd) = &mut lasting.datastore {
        let members = etcd.members.iter_mut().flatten();
        members.for_each(|m| m.lag = 0);
    }
    for node in lasting.nodes.values_mut() {
        (node.heard, node.lease_unread) = (None, false);
    }
    lasting
}
