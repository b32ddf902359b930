//! A seed of a cluster that was seeded before. It needs this laptop no more: only what is left of keys goes.

use fabrik_core::id::CommitId;
use fabrik_core::seed::cost::Offer;
use fabrik_core::seed::own::First;
use fabrik_core::seed::{Extent, Stop, Wanted};
use fabrik_core::spec::Spec;

use super::carry_out::Seed;
use super::options::SeedOptions;
use super::progress::tell;
use super::repository::Place;
use super::run::{Ending, go, what_next};
use super::state::State;
use super::{SeedError, image, own};
use crate::hetzner::{Client, seeding};

/// Says so, unless the cluster is no more, or an image was named that is none of its own.
pub async fn over(
    options: &SeedOptions,
    spec: &Spec,
    commit: &CommitId,
    first: Option<&First>,
    (place, client, state): (Place, Option<Client>, State),
) -> Result<Ending, SeedError> {
    let cluster = &spec.name;
    if let Some(client) = &client {
        let machines = seeding::machines(client, &state.record.cluster_id).await?;
        if !machines.has_nodes {
            return Err(Stop::NoServerLeft(cluster.clone()).into());
        }
    }
    let mut files = options.images.iter().map(|image| &image.file);
    if let Some(file) = files.find(|file| !image::is_known(file, &state)) {
        let (cluster, file) = (cluster.clone(), file.clone());
        return Err(SeedError::ImageAlone { cluster, file });
    }
    let by = match state.record.server {
        Some(_) => "before",
        None => "from another machine",
    };
    let next = what_next(&state, options);
    if state.laptop().has_secrets {
        let mut seed = Seed {
            options,
            spec,
            commit,
            place,
            client,
            keys: state.keys()?,
            state,
            age_key: None,
            // What a run has left goes as if images were wanted, and none.
            wanted: Wanted {
                cluster: cluster.clone(),
                images: Vec::new(),
                extent: Extent::Images,
            },
            disks: Vec::new(),
            offer: Offer::default(),
            awaited: None,
        };
        match first {
            Some(first) => own::go(&mut seed, first, None).await?,
            None => go(&mut seed).await?,
        }
    }
    tell(format_args!("{cluster} was seeded {by}. {next}"))?;
    Ok(Ending::Done)
}
