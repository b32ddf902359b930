"""What it takes to make a cluster out of nothing: rescue systems, snapshots, prices, tokens."""

import requests
from hcloud import Client
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType
from hcloud.servers.domain import Server
from hcloud.ssh_keys import SSHKey

from bench import CONTROL, ENDPOINT, KEY, client, finish, gone, held, order, refused, settings


def machine(server):
    """What the control API shows of a server."""
    servers = requests.get(f"{CONTROL}/state").json()["servers"]
    return next(shown for shown in servers if shown["id"] == server.id)


def boots(server):
    """What each boot of the server booted."""
    events = requests.get(f"{CONTROL}/events").json()["events"]
    return [e["boots"] for e in events if e["server"] == server.id and "boots" in e]


def rescue():
    key = client.ssh_keys.create(name="seed", public_key=KEY)
    server = order("rescued", start_after_create=False).server
    assert server.status == Server.STATUS_OFF and machine(server)["boots"] is None
    refused("invalid_input", server.enable_rescue, type="freebsd64")
    refused("invalid_input", server.enable_rescue, ssh_keys=[1])
    with held():
        enabled = server.enable_rescue(type="linux64", ssh_keys=[key.id])
        assert enabled.action.command == "enable_rescue" and enabled.root_password
        refused("locked", server.power_on)
        server.reload()
        assert not server.rescue_enabled
        finish(enabled.action)
    server.reload()
    assert server.rescue_enabled
    server.power_on().wait_until_finished()
    server.reload()
    assert not server.rescue_enabled and machine(server)["boots"] == "rescue"
    access = {"root_password": enabled.root_password, "authorized_keys": [KEY]}
    assert machine(server)["rescue"] == access
    server.reboot().wait_until_finished()
    assert machine(server)["boots"] == "disk" and machine(server)["rescue"] is None

    server.enable_rescue().action.wait_until_finished()
    disabled = server.disable_rescue()
    assert disabled.command == "disable_rescue"
    disabled.wait_until_finished()
    server.reset().wait_until_finished()
    server.enable_rescue().action.wait_until_finished()
    rebooted = requests.post(f"{CONTROL}/servers/{server.id}/rebooted")
    assert rebooted.json() == {"boots": "rescue"}
    assert boots(server) == ["rescue", "disk", "disk", "rescue"]
    gone(server)
    assert key.delete() is True


def snapshots():
    server = order("imaged", labels={"temporary": ""}).server
    refused("invalid_input", server.create_image, type="backup")
    refused("invalid_input", server.create_image, labels={"hetzner.cloud/x": "y"})
    with held():
        made = server.create_image(
            description="NixOS 1", type="snapshot", labels={"version": "1", "cluster": "c1"}
        )
        image = made.image
        assert made.action.command == "create_image"
        assert (image.status, image.type, image.name) == ("creating", "snapshot", None)
        assert image.image_size is None and image.created_from.id == server.id
        refused("locked", server.power_off)
        refused("locked", server.delete)
        refused("locked", image.delete)
        refused("invalid_input", client.servers.create, name="early", image=image,
                server_type=ServerType(name="cx23"))
        finish(made.action)
    image.reload()
    assert (image.status, image.architecture, image.disk_size) == ("available", "x86", 40)
    assert image.description == "NixOS 1" and image.image_size > 0
    events = requests.get(f"{CONTROL}/events").json()["events"]
    assert [e["server"] for e in events if e.get("image") == image.id] == [server.id]

    server.power_off().wait_until_finished()
    later = server.create_image(labels={"version": "2", "cluster": "c1"})
    later.action.wait_until_finished()
    find = client.images.get_all
    assert {i.id for i in find(label_selector="cluster=c1")} == {image.id, later.image.id}
    found = find(type="snapshot", label_selector="version==2", architecture="x86")
    assert [i.id for i in found] == [later.image.id]
    assert find(type="snapshot", architecture="arm") == []
    newest = find(type="snapshot", sort=["created:desc", "id:desc"])
    assert [i.id for i in newest] == [later.image.id, image.id]
    commands = [action.command for action in image.get_actions()]
    assert commands == ["create_image"]

    image = image.update(description="NixOS 1.1", labels={"version": "1.1"})
    assert (image.description, image.labels) == ("NixOS 1.1", {"version": "1.1"})
    image.change_protection(delete=True).wait_until_finished()
    image.reload()
    assert image.protection == {"delete": True}
    assert refused("protected", image.delete).message == "image is delete protected"
    image.change_protection(delete=False).wait_until_finished()
    assert client.images.actions.get_all() != []
    system = client.images.get_by_name_and_architecture("debian-12", "x86")
    refused("unsupported_error", system.delete)
    refused("unsupported_error", system.update, description="mine")
    refused("unsupported_error", system.change_protection, delete=True)

    settings(snapshot_limit=2)
    error = refused("resource_limit_exceeded", server.create_image)
    assert error.details["limits"] == [{"name": "snapshot_limit"}]
    settings(snapshot_limit=100)
    from_snapshot(image)
    gone(server)
    image.reload()
    assert image.status == "available"
    assert image.delete() is True and later.image.delete() is True
    refused("not_found", client.images.get_by_id, image.id)
    refused("not_found", image.delete)
    assert find(type="snapshot") == []


def from_snapshot(image):
    wrong = dict(name="wrong", image=Image(id=image.id), location=Location(name="fsn1"))
    error = refused("invalid_input", client.servers.create,
                    server_type=ServerType(name="cax11"), **wrong)
    assert error.message == "image has incompatible architecture"
    created = client.servers.create(
        name="copied", server_type=ServerType(name="cx23"), image=Image(id=image.id)
    )
    created.action.wait_until_finished()
    for action in created.next_actions:
        action.wait_until_finished()
    created.server.reload()
    assert created.server.image.id == image.id and created.server.image.type == "snapshot"
    gone(created.server)


def tokens():
    settings(read_only_tokens=["reads"])
    reader = Client(token="reads", api_endpoint=ENDPOINT)
    assert reader.servers.get_all() == []
    error = refused("token_readonly", reader.ssh_keys.create, name="me", public_key=KEY)
    assert error.message == "the token is only allowed to perform GET requests"
    refused("token_readonly", reader.ssh_keys.delete, SSHKey(id=1))
    answer = requests.post(f"{ENDPOINT}/networks", headers={"Authorization": "Bearer reads"})
    assert answer.status_code == 401
    settings(tokens=["writes"])
    assert reader.servers.get_all() == []
    refused("unauthorized", client.servers.get_all)
    settings(tokens=None, read_only_tokens=[])
    key = reader.ssh_keys.create(name="me", public_key=KEY)
    assert key.delete() is True


def prices():
    pricing = client._client.request(method="GET", url="/pricing")["pricing"]
    assert (pricing["currency"], pricing["vat_rate"]) == ("EUR", "19.00")
    names = {server_type["name"] for server_type in pricing["server_types"]}
    assert "cx23" in names and "cx21" not in names
    cx23 = client.server_types.get_by_name("cx23")
    listed = next(t for t in pricing["server_types"] if t["id"] == cx23.id)
    assert listed["prices"] == cx23.prices
    fsn1 = [p for kind in pricing["primary_ips"] if kind["type"] == "ipv4"
            for p in kind["prices"] if p["location"] == "fsn1"]
    assert float(fsn1[0]["price_monthly"]["net"]) > float(fsn1[0]["price_hourly"]["net"]) > 0
    assert {kind["type"] for kind in pricing["floating_ips"]} == {"ipv4", "ipv6"}
    for per_gb in [pricing["image"], pricing["volume"]]:
        assert float(per_gb["price_per_gb_month"]["gross"]) > 0
    assert pricing["server_backup"] == {"percentage": "20.00"}

    lb11 = client.load_balancer_types.get_by_name("lb11")
    assert (lb11.max_services, lb11.max_targets) == (5, 25)
    assert client.load_balancer_types.get_by_id(lb11.id).name == "lb11"
    assert len(client.load_balancer_types.get_all()) == 3
    listed = next(t for t in pricing["load_balancer_types"] if t["id"] == lb11.id)
    assert listed["prices"] == lb11.prices
    refused("deprecated_api_endpoint", client.datacenters.get_all)


STORIES = [rescue, snapshots, tokens, prices]
