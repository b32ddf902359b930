"""Drives the emulator with hcloud-python, Hetzner's own client, and asserts what it sees.

Usage: drive.py ENDPOINT   (such as http://127.0.0.1:8780/v1)

The emulator must be empty. Each function below is one story and leaves nothing behind.
"""

from hcloud.actions import ActionFailedException
from hcloud.firewalls.domain import (
    Firewall,
    FirewallResource,
    FirewallResourceLabelSelector,
    FirewallRule,
)
from hcloud.locations import Location
from hcloud.networks.domain import NetworkRoute, NetworkSubnet
from hcloud.servers.domain import Server, ServerCreatePublicNetwork

import addresses
import balancers
import seeding
from bench import FINGERPRINT, KEY, client, finish, gone, held, order, refused, settings, until


def catalog():
    fsn1 = client.locations.get_by_name("fsn1")
    assert (fsn1.network_zone, fsn1.country) == ("eu-central", "DE")
    assert client.locations.get_by_id(fsn1.id).name == "fsn1"
    names = {location.name for location in client.locations.get_all()}
    assert names == {"nbg1", "fsn1", "hel1", "ash", "hil", "sin"}

    cx33 = client.server_types.get_by_name("cx33")
    assert (cx33.cores, cx33.memory, cx33.disk, cx33.architecture) == (4, 8, 80, "x86")
    assert cx33.cpu_type == "shared" and cx33.storage_type == "local"
    assert float(cx33.prices[0]["price_monthly"]["net"]) > 0
    assert all(place.available for place in cx33.locations)
    assert client.server_types.get_by_id(cx33.id).name == "cx33"
    names = {server_type.name for server_type in client.server_types.get_all()}
    for name in ["cx23", "cx43", "cx53", "cpx12", "cpx22", "cpx32", "cpx42",
                 "cax11", "cax21", "cax31", "cax41", "ccx13", "ccx23"]:
        assert name in names, name
    for name in ["cx21", "cx31", "cpx11"]:
        assert name not in names, name
        refused("invalid_input", order, "retired", server_type=name)

    arm = client.images.get_by_name_and_architecture("debian-12", "arm")
    x86 = client.images.get_by_name_and_architecture("debian-12", "x86")
    assert arm.id != x86.id and (arm.type, arm.os_flavor) == ("system", "debian")
    assert client.images.get_by_id(arm.id).architecture == "arm"
    assert client.images.get_all(type="snapshot") == []
    assert {image.name for image in client.images.get_all(type="system")} > {"debian-13"}


def ssh_keys():
    key = client.ssh_keys.create(name="me", public_key=KEY, labels={"a": "b"})
    assert (key.fingerprint, key.public_key, key.labels) == (FINGERPRINT, KEY, {"a": "b"})
    assert client.ssh_keys.get_by_fingerprint(FINGERPRINT).id == key.id
    assert client.ssh_keys.get_by_name("me").id == key.id
    assert client.ssh_keys.get_all(label_selector="a=b")[0].id == key.id
    assert client.ssh_keys.get_all(label_selector="a!=b") == []
    error = refused("uniqueness_error", client.ssh_keys.create, name="me", public_key=KEY)
    assert error.details["fields"] == [{"name": "name"}]
    refused("uniqueness_error", client.ssh_keys.create, name="other", public_key=KEY)
    refused("invalid_input", client.ssh_keys.create, name="other", public_key="none")
    key = key.update(name="you", labels={"c": "d"})
    assert (key.name, key.labels) == ("you", {"c": "d"})
    assert key.delete() is True
    refused("not_found", client.ssh_keys.get_by_id, key.id)


def a_servers_life():
    with held():
        created = order("one", wait=False, labels={"role": "agent"}, user_data="#!cloud")
        server = created.server
        assert server.status == Server.STATUS_INIT and server.locked
        assert created.action.command == "create_server" and created.action.progress < 100
        assert [action.command for action in created.next_actions] == ["start_server"]
        assert created.root_password
        refused("locked", server.power_off)
        refused("locked", server.delete)
        finish(created.action)
        server.reload()
        assert server.status == Server.STATUS_STARTING
        finish(*created.next_actions)
        server.reload()
    assert server.status == Server.STATUS_RUNNING and not server.locked
    assert server.public_net.ipv4.ip.startswith("127.20.1.")
    assert server.public_net.ipv6.network_mask == "64"
    assert server.image.name == "debian-12" and server.server_type.name == "cx23"
    assert server.id > 2**32 and server.primary_disk_size == 40
    assert client.servers.get_by_name("one").id == server.id
    refused("uniqueness_error", order, "one", wait=False)

    for press, status in [
        (server.shutdown, Server.STATUS_OFF),
        (server.power_on, Server.STATUS_RUNNING),
        (server.reboot, Server.STATUS_RUNNING),
        (server.reset, Server.STATUS_RUNNING),
        (server.power_off, Server.STATUS_OFF),
    ]:
        press().wait_until_finished()
        server.reload()
        assert server.status == status, (press.__name__, server.status)
    try:
        server.reset().wait_until_finished()
        raise AssertionError("there is nothing to reset in a server that is off")
    except ActionFailedException as failed:
        assert failed.action.error["code"] == "action_failed"

    server = server.update(name="uno", labels={"role": "server"})
    assert (server.name, server.labels) == ("uno", {"role": "server"})
    refused("invalid_input", server.update, name="not_a_hostname")
    refused("invalid_input", server.update, labels={"hetzner.cloud/x": "y"})

    server.change_protection(delete=True, rebuild=True).wait_until_finished()
    server.reload()
    assert server.protection == {"delete": True, "rebuild": True}
    refused("protected", server.delete)
    server.change_protection(delete=False, rebuild=False).wait_until_finished()

    with held():
        deletion = server.delete()
        assert deletion.command == "delete_server"
        server.reload()
        assert server.status == Server.STATUS_DELETING
        finish(deletion)
    refused("not_found", client.servers.get_by_id, server.id)
    assert client.actions.get_by_id(deletion.id).status == "success"


def actions():
    server = order("acts").server
    with held():
        power = server.power_off()
        assert power.progress < 100 and power.finished is None
        finish(power)
    assert power.finished >= power.started and power.progress == 100
    commands = [action.command for action in server.get_actions(sort=["id:asc"])]
    assert commands == ["create_server", "start_server", "stop_server"]
    assert [a.command for a in server.get_actions(sort=["id:desc"])] == commands[::-1]
    assert client.servers.actions.get_by_id(power.id).command == "stop_server"
    assert power.id in {action.id for action in client.servers.actions.get_all()}
    assert client.networks.actions.get_all() == []
    found = client._client.request(
        method="GET", url="/actions", params={"id": [power.id, 1], "sort": ["status", "id"]}
    )
    assert [action["id"] for action in found["actions"]] == [power.id]
    refused("invalid_input", client._client.request, method="GET", url="/actions")
    refused("not_found", client.actions.get_by_id, 1)
    gone(server)


def wrong_orders():
    error = refused("invalid_input", order, "no_host", server_type="cx99", image="plan9")
    assert {"name", "server_type"} <= {field["name"] for field in error.details["fields"]}
    refused("invalid_input", order, "far", location=Location(name="sin"))
    refused("invalid_input", order, "nowhere", location=Location(name="moon"))
    refused("invalid_input", order, "arch", server_type="cax11", image="none")
    refused("invalid_input", order, "fat", user_data="x" * (32 * 1024 + 1))
    refused("invalid_input", order, "label", labels={"a b": "c"})
    refused("invalid_input", order, "lonely",
            public_net=ServerCreatePublicNetwork(enable_ipv4=False, enable_ipv6=False))
    assert client.servers.get_all() == []
    created = order("arm", server_type="cax11", location=Location(name="hel1"),
                    start_after_create=False, user_data="x" * (32 * 1024),
                    public_net=ServerCreatePublicNetwork(enable_ipv4=False, enable_ipv6=True))
    assert created.next_actions == [] and created.server.status == Server.STATUS_OFF
    assert created.server.image.architecture == "arm"
    assert created.server.location.name == "hel1"
    assert created.server.public_net.ipv4 is None
    gone(created.server)


def lists():
    for n in range(30):
        labels = {"n": str(n % 3), **({"even": ""} if n % 2 == 0 else {})}
        order(f"s{n:02}", wait=False, labels=labels, start_after_create=False)
    page = client.servers.get_list()
    assert len(page.servers) == 25 and page.meta.pagination.next_page == 2
    assert page.meta.pagination.total_entries == 30
    page = client.servers.get_list(page=2, per_page=20)
    assert len(page.servers) == 10 and page.meta.pagination.next_page is None
    assert len(client.servers.get_all()) == 30
    for selector, count in [
        ("n==0", 10), ("n=1", 10), ("n!=0", 20), ("even", 15), ("!even", 15),
        ("n in (0,1)", 20), ("n notin (0,1)", 10), ("even,n in (0)", 5), ("none", 0),
    ]:
        found = client.servers.get_all(label_selector=selector)
        assert len(found) == count, (selector, len(found))
    refused("invalid_input", client.servers.get_all, label_selector="n in (")
    refused("invalid_input", client.servers.get_list, per_page=51)
    newest = client._client.request(
        method="GET", url="/servers", params={"sort": "name:desc", "per_page": 2}
    )
    assert [server["name"] for server in newest["servers"]] == ["s29", "s28"]
    until("all servers are off",
          lambda: len(client.servers.get_all(status=[Server.STATUS_OFF])) == 30)
    assert client.servers.get_all(status=[Server.STATUS_RUNNING]) == []
    gone(*client.servers.get_all())


def networks():
    network = client.networks.create(
        name="net",
        ip_range="10.0.0.0/16",
        labels={"a": "b"},
        subnets=[NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.0.1.0/24")],
    )
    assert network.subnets[0].gateway == "10.0.0.1" and network.servers == []
    assert client.networks.get_by_name("net").id == network.id
    assert client.networks.get_all(label_selector="a")[0].id == network.id
    refused("uniqueness_error", client.networks.create, name="net", ip_range="10.0.0.0/16")
    refused("invalid_input", client.networks.create, name="public", ip_range="8.8.0.0/16")
    network = network.update(name="mesh", labels={})
    assert (network.name, network.labels) == ("mesh", {})

    subnet = NetworkSubnet(type="cloud", network_zone="us-east", ip_range="10.0.2.0/24")
    with held():
        adding = network.add_subnet(subnet)
        error = refused("conflict", network.add_subnet, subnet)
        assert "try again" in error.message
        finish(adding)
    network.reload()
    assert [s.ip_range for s in network.subnets] == ["10.0.1.0/24", "10.0.2.0/24"]
    refused("invalid_input", network.add_subnet, subnet)
    network.delete_subnet(subnet).wait_until_finished()

    route = NetworkRoute(destination="10.9.0.0/16", gateway="10.0.1.9")
    network.add_route(route).wait_until_finished()
    network.reload()
    assert [(r.destination, r.gateway) for r in network.routes] == [("10.9.0.0/16", "10.0.1.9")]
    first = NetworkRoute(destination="10.8.0.0/16", gateway="10.0.0.1")
    refused("invalid_input", network.add_route, first)
    network.delete_route(route).wait_until_finished()
    refused("not_found", network.delete_route, route)

    network.change_ip_range("10.0.0.0/15").wait_until_finished()
    refused("invalid_input", network.change_ip_range, "10.0.0.0/16")
    network.change_protection(delete=True).wait_until_finished()
    assert refused("protected", network.delete).message == "network is delete protected"
    network.change_protection(delete=False).wait_until_finished()
    network.reload()
    assert network.ip_range == "10.0.0.0/15" and network.protection == {"delete": False}
    commands = [action.command for action in network.get_actions()]
    assert commands[:2] == ["add_subnet", "delete_subnet"] and len(commands) == 7

    attached_servers(network)
    assert network.delete() is True
    refused("not_found", client.networks.get_by_id, network.id)


def attached_servers(network):
    server = order("inside", networks=[network]).server
    assert [net.ip for net in server.private_net] == ["10.0.1.1"]
    assert server.private_net[0].mac_address.startswith("86:00:")
    network.reload()
    assert [s.id for s in network.servers] == [server.id]
    refused("server_already_attached", server.attach_to_network, network)
    subnet = NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.0.1.0/24")
    refused("resource_in_use", network.delete_subnet, subnet)

    other = order("outside").server
    assert other.private_net == []
    refused("ip_not_available", other.attach_to_network, network, ip="10.0.1.1")
    refused("ip_not_available", other.attach_to_network, network, ip="10.0.0.1")
    other.attach_to_network(network, ip="10.0.1.77", alias_ips=["10.0.1.78"]).wait_until_finished()
    other.reload()
    assert (other.private_net[0].ip, other.private_net[0].alias_ips) == ("10.0.1.77", ["10.0.1.78"])
    other.detach_from_network(network).wait_until_finished()
    other.reload()
    assert other.private_net == []
    far = client.networks.create(name="far", ip_range="10.0.0.0/24")
    refused("no_subnet_available", other.attach_to_network, far)
    refused("networks_overlap", server.attach_to_network, far)
    assert far.delete() is True
    more = [
        client.networks.create(name=f"more-{n}", ip_range=f"10.{n}.0.0/16", subnets=[
            NetworkSubnet(type="cloud", network_zone="eu-central", ip_range=f"10.{n}.1.0/24")])
        for n in (10, 11, 12)
    ]
    for one in more[:2]:
        server.attach_to_network(one).wait_until_finished()
    refused("resource_limit_exceeded", server.attach_to_network, more[2])
    server.reload()
    assert len(server.private_net) == 3
    for one in more:
        assert one.delete() is True
    gone(server, other)


def firewalls():
    ssh = FirewallRule(direction="in", protocol="tcp", port="22",
                       source_ips=["203.0.113.0/24"], description="ssh")
    server = order("walled", labels={"role": "agent"}).server
    selected = FirewallResource(
        type=FirewallResource.TYPE_LABEL_SELECTOR,
        label_selector=FirewallResourceLabelSelector(selector="role=agent"),
    )
    with held():
        created = client.firewalls.create(
            name="wall", labels={"a": "b"}, rules=[ssh], resources=[selected]
        )
        firewall = created.firewall
        assert [a.command for a in created.actions] == ["set_firewall_rules", "apply_firewall"]
        refused("locked", firewall.set_rules, [])
        server.reload()
        assert server.public_net.firewalls[0].status == "pending"
        finish(*created.actions)
    server.reload()
    assert server.public_net.firewalls[0].firewall.id == firewall.id
    assert server.public_net.firewalls[0].status == "applied"
    applied = firewall.applied_to[0]
    assert applied.label_selector.selector == "role=agent"
    assert [resource.server.id for resource in applied.applied_to_resources] == [server.id]
    assert (firewall.rules[0].port, firewall.rules[0].source_ips) == ("22", ["203.0.113.0/24"])

    refused("uniqueness_error", client.firewalls.create, name="wall")
    refused("resource_in_use", firewall.delete)
    managed = FirewallResource(type=FirewallResource.TYPE_SERVER, server=server)
    refused("firewall_managed_by_label_selector", firewall.remove_from_resources, [managed])
    refused("firewall_already_applied", firewall.apply_to_resources, [selected])
    for action in firewall.remove_from_resources([selected]):
        action.wait_until_finished()
    for action in firewall.apply_to_resources([managed]):
        action.wait_until_finished()
    firewall.reload()
    assert [target.server.id for target in firewall.applied_to] == [server.id]

    ping = FirewallRule(direction="in", protocol="icmp", source_ips=["0.0.0.0/0", "::/0"])
    for action in firewall.set_rules([ssh, ping]):
        action.wait_until_finished()
    firewall.reload()
    assert [rule.protocol for rule in firewall.rules] == ["tcp", "icmp"]
    refused("invalid_input", firewall.set_rules, [ping] * 51)
    portless = FirewallRule(direction="in", protocol="tcp", source_ips=["::/0"])
    error = refused("invalid_input", firewall.set_rules, [portless])
    assert error.details["fields"][0]["name"] == "rules.0.port"
    commands = {action.command for action in firewall.get_actions()}
    assert commands == {"set_firewall_rules", "apply_firewall", "remove_firewall"}

    born = order("born-walled", firewalls=[Firewall(id=firewall.id)]).server
    assert born.public_net.firewalls[0].firewall.id == firewall.id
    firewall = firewall.update(name="fence", labels={"c": "d"})
    assert client.firewalls.get_by_name("fence").labels == {"c": "d"}
    assert client.firewalls.get_all(label_selector="c=d")[0].id == firewall.id
    gone(server, born)
    assert firewall.delete() is True
    refused("not_found", client.firewalls.get_by_id, firewall.id)


def placement_groups():
    created = client.placement_groups.create(name="spread", type="spread", labels={"a": "b"})
    group = created.placement_group
    assert created.action is None and (group.type, group.servers) == ("spread", [])
    refused("uniqueness_error", client.placement_groups.create, name="spread", type="spread")
    refused("invalid_input", client.placement_groups.create, name="heap", type="heap")
    members = [
        order(f"p{n}", wait=False, placement_group=group, start_after_create=False)
        for n in range(10)
    ]
    refused("placement_error", order, "eleventh", placement_group=group)
    for member in members:
        member.action.wait_until_finished()
    group.reload()
    assert group.servers == [member.server.id for member in members]
    refused("resource_in_use", group.delete)

    server = members[0].server
    server.reload()
    assert server.placement_group.id == group.id
    refused("already_in_placement_group", server.add_to_placement_group, group)
    server.remove_from_placement_group().wait_until_finished()
    server.power_on().wait_until_finished()
    refused("server_not_stopped", server.add_to_placement_group, group)
    server.power_off().wait_until_finished()
    server.add_to_placement_group(group).wait_until_finished()
    group = group.update(name="wide", labels={})
    assert client.placement_groups.get_by_name("wide").id == group.id
    assert client.placement_groups.get_all(label_selector="a") == []
    assert len(client.placement_groups.get_list(type="spread").placement_groups) == 1
    gone(*[member.server for member in members])
    assert group.delete() is True
    refused("not_found", client.placement_groups.get_by_id, group.id)


def budget_and_stock():
    settings(out_of_stock={"cx23": ["fsn1"]})
    refused("resource_unavailable", order, "sold-out", location=Location(name="fsn1"))
    cx23 = client.server_types.get_by_name("cx23")
    assert {p.location.name for p in cx23.locations if not p.available} == {"fsn1"}
    settings(out_of_stock={}, server_limit=0)
    error = refused("resource_limit_exceeded", order, "too-many")
    assert error.details["limits"] == [{"name": "server_limit"}]
    settings(server_limit=100, rate_limit={"remaining": 1, "refill_per_second": 0})
    client.servers.get_all()
    refused("rate_limit_exceeded", client.servers.get_all)
    settings(rate_limit={"remaining": 3600, "refill_per_second": 1}, tokens=["another"])
    refused("unauthorized", client.servers.get_all)
    settings(tokens=None)
    assert client.servers.get_all() == []


settings(action_duration_ms=50)
for story in [
    catalog, ssh_keys, a_servers_life, actions, wrong_orders, lists, networks, firewalls,
    placement_groups, budget_and_stock, *seeding.STORIES, *addresses.STORIES, *balancers.STORIES,
]:
    story()
    print(f"{story.__name__}: ok", flush=True)
