//! Whether Hetzner would let the cluster be made. A token shows that it may write by making the seed's temporary key, which is
//! taken back where anything is wrong.

use fabrik_core::seed::cost::{Offer, groups};

use super::{About, Found, Line, Subject};
use crate::gate::SPEC_FILE;
use crate::hetzner::seeding;
use crate::hetzner::{Client, HetznerError};

pub async fn look(subject: &Subject<'_>, client: &Client) -> Found {
    let offer = seeding::offer(client).await;
    // Whoever is not reached, or does not know the token, says nothing about the rest, either.
    match &offer {
        Err(HetznerError::Unreachable { problem, .. }) => {
            let says = format!(
                "it can't be reached ({problem}), so nothing there was looked at. Has this laptop a network?"
            );
            return nothing_more(About::Hetzner, says);
        }
        Err(HetznerError::Unauthorized { message, .. }) => {
            let says = format!(
                "Hetzner refuses it ({message}), so nothing there was looked at. {}",
                make_another(subject)
            );
            return nothing_more(About::Token, says);
        }
        _ => {}
    }
    let (says, made_key) = match token(subject, client).await {
        Ok((says, made)) => (Ok(says.to_owned()), made),
        Err(why) => (Err(why), None),
    };
    let mut lines = vec![
        Line::new(About::Token, says),
        Line::new(About::Names, names(subject, client).await),
        Line::new(About::Network, network(subject, client).await),
    ];
    let has_first = has_first(subject, client).await;
    let stock = match (&offer, &has_first) {
        (Ok(offer), Ok(has_first)) => stock(subject, offer, *has_first),
        (Err(error), _) | (_, Err(error)) => Err(error.to_string()),
    };
    lines.push(Line::new(About::Stock, stock));
    Found {
        lines,
        has_first: has_first.unwrap_or_default(),
        offer: offer.ok(),
        change: None,
        made_key,
    }
}

fn nothing_more(about: About, says: String) -> Found {
    Found {
        lines: vec![Line::new(about, Err(says))],
        has_first: false,
        offer: None,
        change: None,
        made_key: None,
    }
}

fn make_another(subject: &Subject<'_>) -> String {
    let project = subject.spec.hetzner.as_ref();
    format!(
        "Make one that may read and write (the project's Security → API tokens), put it into {} (`sops edit`), and push",
        project.map_or(SPEC_FILE, |project| &project.token.file)
    )
}

/// What it may, and the key, where that was made now.
async fn token(
    subject: &Subject<'_>,
    client: &Client,
) -> Result<(&'static str, Option<u64>), String> {
    let cluster = &subject.state.record.cluster_id;
    let public = &subject.keys.temporary_public;
    let name = seeding::key_name(&subject.spec.name);
    let made = seeding::register_key(client, cluster, &name, public).await;
    match made {
        Ok((id, is_new)) => Ok(("reads and writes", is_new.then_some(id))),
        // Who has it is told with the names.
        Err(HetznerError::NameTaken { .. }) => Ok((
            "reads; whether it writes is seen once the names are free",
            None,
        )),
        Err(HetznerError::Unauthorized { message, .. }) => Err(format!(
            "Hetzner does not let it write ({message}). {}",
            make_another(subject)
        )),
        Err(error) => Err(error.to_string()),
    }
}

async fn names(subject: &Subject<'_>, client: &Client) -> Result<String, String> {
    let name = &subject.spec.name;
    let cluster = &subject.state.record.cluster_id;
    let holders = seeding::holders(client, subject.spec, cluster).await;
    let holders = holders.map_err(|error| error.to_string())?;
    if holders.is_empty() {
        return Ok(format!("nothing else is called {name} in this project"));
    }
    Err(format!(
        "others have names that {name} needs: {}. If they are this repository's, it was seeded from another machine: go on there, \
         or renew its images by `fabrik seed --image-only`; where that machine is lost half-way, remove them by `fabrik destroy`. \
         Else give this cluster another name or project, or rename them",
        holders.join("; ")
    ))
}

/// Networks at Hetzner know nothing of one another, so another's range is no matter; our own can't be changed.
async fn network(subject: &Subject<'_>, client: &Client) -> Result<String, String> {
    let cluster = &subject.state.record.cluster_id;
    let wanted = &subject.spec.network.range;
    let range = seeding::network_range(client, &subject.spec.name, cluster).await;
    match range.map_err(|error| error.to_string())? {
        None => Ok(format!("{wanted} will be made")),
        Some(range) if range == *wanted => Ok(format!("{wanted} is there")),
        Some(range) => Err(format!(
            "the cluster's network is there with {range}, and [network] range is {wanted}: write {range}, or remove the network"
        )),
    }
}

async fn has_first(subject: &Subject<'_>, client: &Client) -> Result<bool, HetznerError> {
    let machines = seeding::machines(client, &subject.state.record.cluster_id).await?;
    let there = machines.first.map(|(first, _)| first.id);
    Ok(subject.state.laptop().has_first(there))
}

fn stock(subject: &Subject<'_>, offer: &Offer, has_first: bool) -> Result<String, String> {
    let groups = groups(subject.spec);
    let faults: Vec<String> = groups
        .iter()
        .filter_map(|group| Some(format!("{}: {}", group.name, group.fault(offer)?)))
        .collect();
    if !faults.is_empty() && has_first {
        return Ok(format!(
            "{}; the cluster asks again by itself",
            faults.join("; ")
        ));
    }
    if !faults.is_empty() {
        return Err(format!(
            "{}. Name other server-types or locations, or wait",
            faults.join("; ")
        ));
    }
    let have = groups.iter().filter_map(|group| {
        let (choice, _) = group.first_in_stock(offer)?;
        Some(format!(
            "{} ({} in {})",
            group.name, choice.server_type, choice.location
        ))
    });
    Ok(format!(
        "there is for {}",
        have.collect::<Vec<_>>().join(", ")
    ))
}
