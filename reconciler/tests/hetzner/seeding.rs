//! What a seed needs of Hetzner: the temporary server's life, snapshots, prices, and who has which name.

use fabrik::hetzner::HetznerError;
use fabrik::hetzner::seeding::{
    create_image_server, delete_image_server, delete_key, delete_snapshot, enable_rescue, find_key,
    holders, machines, mark_written, offer, paper, power_off, power_on, register_key, snapshots,
    take_snapshot,
};
use fabrik_core::destroy::Kind;
use fabrik_core::effect::Choice;
use fabrik_core::id::ServerId;
use fabrik_core::observed::Power;
use fabrik_core::seed::{Architecture, Image, ImageDigest, Rescue, SnapshotState};
use serde_json::json;

use super::world::{Bed, KEY, spec};

fn image() -> Image {
    Image {
        pool: "servers".parse().unwrap(),
        digest: ImageDigest::of_sha256(&"a".repeat(64)).unwrap(),
        architecture: Architecture::X86,
        k3s: Some(36),
    }
}

#[tokio::test]
async fn a_temporary_server_becomes_a_snapshot_and_goes() {
    let bed = Bed::start().await;
    let (client, cluster) = (&bed.client, &bed.cluster);
    let (key, is_new) = register_key(client, cluster, "demo.seed", KEY)
        .await
        .unwrap();
    let again = register_key(client, cluster, "demo.seed", KEY)
        .await
        .unwrap();
    assert_eq!((is_new, again), (true, (key, false)));

    let choices = ["fsn1", "hel1"].map(|location| Choice {
        server_type: "cx23".to_owned(),
        location: location.to_owned(),
    });
    for _ in 0..2 {
        let made = create_image_server(client, cluster, "demo-image", "word", &choices).await;
        made.unwrap();
    }
    let seen = async || machines(client, cluster).await.unwrap().image.unwrap();
    let (server, address) = seen().await;
    assert!(address.is_some());
    let is = (server.power, server.rescue, server.architecture);
    assert_eq!(is, (Power::Off, Rescue::None, Some(Architecture::X86)));
    enable_rescue(client, cluster, server.id, key)
        .await
        .unwrap();
    assert_eq!(seen().await.0.rescue, Rescue::Armed);
    power_on(client, cluster, server.id).await.unwrap();
    let is = seen().await.0;
    assert_eq!((is.power, is.rescue), (Power::Running, Rescue::None));
    let state = bed.control("state").await;
    let lets_in = json!([KEY]);
    assert_eq!(state["servers"][0]["rescue"]["authorized_keys"], lets_in);

    let digest = image().digest;
    mark_written(client, cluster, server.id, Some(digest.as_str()))
        .await
        .unwrap();
    assert_eq!(seen().await.0.written.as_deref(), Some(digest.as_str()));
    power_off(client, cluster, server.id).await.unwrap();
    let labels = paper(cluster, "demo", &image());
    take_snapshot(client, cluster, server.id, labels)
        .await
        .unwrap();
    let made = snapshots(client, cluster).await.unwrap();
    assert_eq!(made.len(), 1);
    let is = (made[0].digest.as_str(), made[0].state);
    assert_eq!(is, (digest.as_str(), SnapshotState::Available));
    delete_image_server(client, cluster, server.id)
        .await
        .unwrap();
    assert!(machines(client, cluster).await.unwrap().image.is_none());
    delete_snapshot(client, cluster, made[0].id).await.unwrap();
    assert!(snapshots(client, cluster).await.unwrap().is_empty());
    delete_key(client, cluster, key).await.unwrap();
    assert_eq!(find_key(client, cluster, "demo.seed").await, Ok(None));
}

#[tokio::test]
async fn what_is_somebody_elses_is_told_and_never_touched() {
    let bed = Bed::start().await;
    let (client, cluster) = (&bed.client, &bed.cluster);
    let order = json!({"name": "demo-servers-abc234", "server_type": "cx23", "image": "debian-12",
        "location": "fsn1", "labels": {"fabrik.dev/cluster": "0000000000000000"}});
    let made = bed.post("servers", order).await;
    let id = made["server"]["id"].as_u64().unwrap();
    let network = json!({"name": "demo", "ip_range": "10.0.0.0/16"});
    bed.post("networks", network).await;
    let path = format!("servers/{id}/actions/create_image");
    let image = bed.post(&path, json!({"type": "snapshot"})).await;
    let key = bed
        .post("ssh_keys", json!({"name": "mine", "public_key": KEY}))
        .await;

    let told = holders(client, &spec(), cluster).await.unwrap().join("\n");
    assert!(
        told.contains("network `demo`") && told.contains("without a fabrik label"),
        "{told}"
    );
    assert!(
        told.contains("of fabrik cluster 0000000000000000"),
        "{told}"
    );
    let refused = |result: Result<(), HetznerError>| {
        let error = result.unwrap_err();
        assert!(matches!(error, HetznerError::NotOurs { .. }), "{error}");
    };
    let server = ServerId(id);
    refused(power_on(client, cluster, server).await);
    refused(power_off(client, cluster, server).await);
    refused(delete_image_server(client, cluster, server).await);
    refused(enable_rescue(client, cluster, server, 1).await);
    refused(delete_snapshot(client, cluster, image["image"]["id"].as_u64().unwrap()).await);
    refused(delete_key(client, cluster, key["ssh_key"]["id"].as_u64().unwrap()).await);
}

/// Of a copied repository: what leads to its original's servers.
#[tokio::test]
async fn what_another_cluster_of_this_name_is_reached_by_is_told_where_it_is_wanted() {
    let bed = Bed::start().await;
    let labels = json!({"fabrik.dev/cluster": "0000000000000000"});
    let balancer = json!({"name": "demo-api", "load_balancer_type": "lb11", "location": "fsn1", "labels": labels});
    bed.post("load_balancers", balancer).await;
    let address =
        json!({"name": "demo-api-ip", "type": "ipv4", "home_location": "fsn1", "labels": labels});
    bed.post("floating_ips", address).await;
    let holders = async |api: &str| {
        let text = format!(
            "[cluster]\nname = \"demo\"\n[kubernetes]\nversion = \"1.36.3+k3s1\"\n[hetzner]\n\
             token = {{ file = \"secrets/hetzner.yaml\", key = \"token\" }}\n{api}"
        );
        let spec = fabrik_core::spec::parse("cluster.toml", &text).unwrap();
        holders(&bed.client, &spec, &bed.cluster).await.unwrap()
    };
    assert_eq!(holders("").await, Vec::<String>::new(), "in nobody's way");
    let told = holders(
        "[api.load-balancer]\ntype = \"lb11\"\nlocation = \"fsn1\"\nprivate = true\n\
         [api.floating-ip]\ntype = \"ipv4\"\nlocation = \"fsn1\"\n",
    )
    .await
    .join("\n");
    for part in [
        "`demo-api`",
        "`demo-api-ip`",
        "of fabrik cluster 0000000000000000",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[tokio::test]
async fn an_offer_has_types_stock_and_prices() {
    let bed = Bed::start().await;
    let offer = offer(&bed.client).await.unwrap();
    let prices = &offer.prices;
    assert_eq!(
        (prices.currency.as_str(), prices.vat_rate.as_str()),
        ("EUR", "19.00")
    );
    assert!(
        !offer.server_types.contains_key("cx21"),
        "a retired type is offered"
    );
    let cx33 = &offer.server_types["cx33"];
    assert_eq!(
        (cx33.architecture, cx33.disk_gb),
        (Some(Architecture::X86), 80)
    );
    let place = cx33.locations["fsn1"];
    assert!(place.in_stock);
    assert_eq!(
        (place.price.net.to_string(), place.price.gross.to_string()),
        ("4.99".to_owned(), "5.94".to_owned())
    );
    let address = prices.place(Kind::PrimaryIp, "ipv4", "hel1").unwrap();
    assert_eq!(address.net.to_string(), "0.50");
}
