//! Which cluster a repository means, where the cluster itself can't be asked any more.

use std::collections::BTreeSet;

use super::{Kind, Resource};
use crate::id::{ClusterId, ClusterName, InvalidId};

/// Why the project does not tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    #[error(
        "nothing in this project at Hetzner bears the id of a cluster. There is nothing to destroy, or the token is another \
         project's"
    )]
    NoCluster,
    #[error("{} Say which by `fabrik destroy --cluster-id ID`", several(ids, name, of_network.as_deref()))]
    Several {
        name: ClusterName,
        ids: BTreeSet<String>,
        /// The id of the network that has the cluster's name.
        of_network: Option<String>,
    },
    #[error(
        "cluster {id} is in this project, and no network `{name}` or snapshot of it says that it is this one. If it is, `fabrik \
         destroy --cluster-id {id}` removes it; on the laptop that has seeded it, `fabrik seed --undo` does"
    )]
    NoNetwork { name: ClusterName, id: String },
    #[error(
        "cluster {id} in this project is called {called}, and this repository's {name}: it is another cluster, and is not \
         touched. Repeat this in its own repository"
    )]
    OtherName {
        name: ClusterName,
        id: String,
        called: String,
    },
    #[error("the label of network `{name}` is no cluster's id: {source}. It is not touched")]
    NoId {
        name: ClusterName,
        source: InvalidId,
    },
}

/// The id that the network called as the cluster bears, if the project holds no other cluster; where the network is gone, the
/// id of a snapshot of that cluster's.
///
/// # Errors
/// There is none, or it takes a person to tell.
pub fn which(project: &[Resource], name: &ClusterName) -> Result<ClusterId, Unclear> {
    let ids: BTreeSet<String> = project.iter().filter_map(|r| r.cluster.clone()).collect();
    let network = |r: &&Resource| r.key.kind == Kind::Network && r.name == name.as_str();
    let of_network = project.iter().find(network).and_then(|r| r.cluster.clone());
    let name = name.clone();
    if ids.len() > 1 {
        return Err(Unclear::Several {
            name,
            ids,
            of_network,
        });
    }
    let snapshot = |r: &&Resource| r.cluster_name.as_deref() == Some(name.as_str());
    let of_snapshot = project
        .iter()
        .find(snapshot)
        .and_then(|r| r.cluster.clone());
    match (of_network.or(of_snapshot), ids.into_iter().next()) {
        (Some(id), _) => id.parse().map_err(|source| Unclear::NoId { name, source }),
        (None, Some(id)) => Err(must_be_called(project, &id, &name)
            .err()
            .unwrap_or(Unclear::NoNetwork { name, id })),
        (None, None) => Err(Unclear::NoCluster),
    }
}

/// That a cluster whose id a person has given is not one of another name: its network is called as it is.
///
/// # Errors
/// It has a network, and none of that name.
pub fn must_be_called(project: &[Resource], id: &str, name: &ClusterName) -> Result<(), Unclear> {
    let networks = project.iter().filter(|r| r.key.kind == Kind::Network);
    let names = networks.filter(|r| r.cluster.as_deref() == Some(id));
    let names: Vec<&str> = names.map(|r| r.name.as_str()).collect();
    if names.is_empty() || names.contains(&name.as_str()) {
        return Ok(());
    }
    Err(Unclear::OtherName {
        name: name.clone(),
        id: id.to_owned(),
        called: names.join(" and "),
    })
}

fn several(ids: &BTreeSet<String>, name: &ClusterName, of_network: Option<&str>) -> String {
    let all: Vec<&str> = ids.iter().map(String::as_str).collect();
    let all = all.join(", ");
    match of_network {
        Some(id) => {
            format!("several clusters are in this project: {all}. Network `{name}` is of {id}.")
        }
        None => format!(
            "several clusters are in this project: {all}. No network `{name}` bears one of these ids."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{OURS, network, server};
    use super::*;

    const OTHER: &str = "0000000000000000";

    fn found(project: &[Resource]) -> Result<ClusterId, Unclear> {
        which(project, &"demo".parse().unwrap())
    }

    #[test]
    fn the_only_id_is_the_cluster_s_if_its_network_bears_it() {
        let ours = || network(1, "demo", Some(OURS));
        assert_eq!(
            found(&[ours(), server(2, Some(OURS))]),
            Ok(OURS.parse().unwrap())
        );
        assert_eq!(found(&[]), Err(Unclear::NoCluster));
        let unlabelled = network(1, "demo", None);
        assert_eq!(
            found(std::slice::from_ref(&unlabelled)),
            Err(Unclear::NoCluster)
        );
        for project in [
            vec![server(2, Some(OURS))],
            vec![unlabelled, server(2, Some(OURS))],
        ] {
            let told = found(&project).unwrap_err().to_string();
            assert!(told.contains(&format!("--cluster-id {OURS}")), "{told}");
        }
    }

    #[test]
    fn a_snapshot_tells_the_id_when_nothing_else_is_left() {
        let snapshot = |name: &str| Resource {
            cluster_name: Some(name.to_owned()),
            ..server(1, Some(OURS))
        };
        assert_eq!(found(&[snapshot("demo")]), Ok(OURS.parse().unwrap()));
        let other = found(&[snapshot("demo-2")]).unwrap_err();
        assert!(matches!(other, Unclear::NoNetwork { .. }), "{other}");
    }

    #[test]
    fn of_several_ids_none_is_chosen_not_even_that_of_the_network() {
        let project = [network(1, "demo", Some(OURS)), server(2, Some(OTHER))];
        let told = found(&project).unwrap_err().to_string();
        for part in [OTHER, OURS, "--cluster-id", "Network `demo` is of"] {
            assert!(told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_cluster_of_another_name_is_not_the_one_that_is_meant_whoever_gives_its_id() {
        let demo = "demo".parse().unwrap();
        let given = |project: &[Resource]| must_be_called(project, OURS, &demo);
        let called = |name: &str| network(1, name, Some(OURS));
        for other in ["demo-2", "de", "prod"] {
            let told = given(&[called(other)]).unwrap_err().to_string();
            assert!(told.contains(&format!("is called {other}")), "{told}");
            assert_eq!(found(&[called(other)]).unwrap_err().to_string(), told);
        }
        let own = network(2, "demo", Some(OURS));
        let others = network(1, "prod", Some(OTHER));
        assert_eq!(given(&[called("demo-2"), own]), Ok(()));
        assert_eq!(given(&[server(1, Some(OURS)), others]), Ok(()));
    }

    #[test]
    fn a_label_that_is_no_id_is_none() {
        let told = found(&[network(1, "demo", Some("Me!"))]).unwrap_err();
        assert!(matches!(told, Unclear::NoId { .. }), "{told}");
    }
}
