"""Addresses and volumes of their own, that outlive servers."""

from hcloud.locations import Location
from hcloud.servers.domain import ServerCreatePublicNetwork

from bench import client, finish, gone, held, order, refused, settings

FSN1 = Location(name="fsn1")


def primary_ips():
    create = client.primary_ips.create
    created = create(type="ipv4", name="own", location=FSN1, labels={"a": "b"})
    ip = created.primary_ip
    assert created.action is None and ip.ip.startswith("127.20.1.") and ip.location.name == "fsn1"
    assert (ip.assignee_id, ip.assignee_type, ip.auto_delete) == (None, "unassigned", False)
    assert client.primary_ips.get_by_name("own").id == ip.id
    assert client.primary_ips.get_all(label_selector="a=b")[0].id == ip.id
    assert client.primary_ips.get_list(ip=ip.ip).primary_ips[0].id == ip.id
    refused("uniqueness_error", create, type="ipv4", name="own", location=FSN1)
    refused("invalid_input", create, type="ipv5", name="five", location=FSN1)
    refused("invalid_input", create, type="ipv4", name="nowhere")
    six = create(type="ipv6", name="six", location=FSN1).primary_ip
    assert six.ip.endswith("::/64")

    net = ServerCreatePublicNetwork(ipv4=ip, ipv6=six)
    refused("primary_ip_datacenter_mismatch", order, "far", public_net=net,
            location=Location(name="hel1"))
    swapped = ServerCreatePublicNetwork(ipv4=six, ipv6=ip)
    refused("primary_ip_version_mismatch", order, "swapped", public_net=swapped, location=FSN1)
    server = order("owner", public_net=net, location=FSN1).server
    assert (server.public_net.ipv4.ip, server.public_net.primary_ipv4.id) == (ip.ip, ip.id)
    refused("primary_ip_assigned", order, "second", public_net=net, location=FSN1)
    refused("must_be_unassigned", ip.delete)
    refused("server_not_stopped", ip.unassign)
    server.power_off().wait_until_finished()
    unassign_and_assign(server, ip)
    six.change_protection(delete=True).wait_until_finished()
    ip = ip.update(name="kept", labels={}, auto_delete=True)
    assert (ip.name, ip.labels, ip.auto_delete) == ("kept", {}, True)
    refused("invalid_input", ip.change_protection, delete=True)
    gone(server)
    refused("not_found", client.primary_ips.get_by_id, ip.id)
    six.reload()
    assert six.assignee_id is None
    refused("protected", six.delete)
    six.change_protection(delete=False).wait_until_finished()
    assert six.delete() is True
    settings(primary_ip_limit=1)
    error = refused("resource_limit_exceeded", order, "two-addresses")
    assert error.details["limits"] == [{"name": "primary_ip_limit"}]
    settings(primary_ip_limit=100)
    assert client.primary_ips.get_all() == []


def unassign_and_assign(server, ip):
    unassigned = ip.unassign()
    assert unassigned.command == "unassign_primary_ip"
    unassigned.wait_until_finished()
    server.reload()
    assert server.public_net.ipv4 is None
    other = client.primary_ips.create(
        type="ipv4", name="other", assignee_type="server", assignee_id=server.id
    )
    assert other.action.command == "assign_primary_ip"
    other.action.wait_until_finished()
    other = other.primary_ip
    refused("server_has_ipv4", ip.assign, server.id, "server")
    refused("primary_ip_already_assigned", other.assign, server.id, "server")
    other.unassign().wait_until_finished()
    assert other.delete() is True
    with held():
        assigned = ip.assign(server.id, "server")
        refused("locked", ip.delete)
        refused("locked", server.power_on)
        finish(assigned)
    ip.reload()
    assert (ip.assignee_id, ip.assignee_type) == (server.id, "server")
    commands = [action.command for action in ip.get_actions()]
    assert commands == ["unassign_primary_ip", "assign_primary_ip"]


def floating_ips():
    create = client.floating_ips.create
    server, other = order("first").server, order("second").server
    created = create(type="ipv4", name="api", server=server, labels={"a": "b"}, description="API")
    ip = created.floating_ip
    assert created.action.command == "assign_floating_ip"
    created.action.wait_until_finished()
    ip.reload()
    assert ip.server.id == server.id and ip.description == "API"
    assert ip.home_location.name == server.location.name
    server.reload()
    assert [floating.id for floating in server.public_net.floating_ips] == [ip.id]
    refused("uniqueness_error", create, type="ipv4", name="api", home_location=FSN1)
    refused("invalid_input", create, type="ipv4")
    refused("floating_ip_assigned", ip.assign, server)
    ip.assign(other).wait_until_finished()
    ip.reload()
    assert ip.server.id == other.id
    refused("must_be_unassigned", ip.delete)
    ip.unassign().wait_until_finished()
    ip = ip.update(name="vip", labels={"c": "d"}, description="moves")
    assert (ip.server, ip.description) == (None, "moves")
    assert client.floating_ips.get_by_name("vip").id == ip.id
    assert [one.id for one in client.floating_ips.get_all(label_selector="c==d")] == [ip.id]
    ip.assign(other).wait_until_finished()
    gone(server, other)
    ip.reload()
    assert ip.server is None
    commands = [action.command for action in ip.get_actions()]
    assert commands.count("assign_floating_ip") == 3
    ip.change_protection(delete=True).wait_until_finished()
    refused("protected", ip.delete)
    ip.change_protection(delete=False).wait_until_finished()
    settings(floating_ip_limit=1)
    refused("resource_limit_exceeded", create, type="ipv6", home_location=FSN1)
    settings(floating_ip_limit=100)
    assert ip.delete() is True
    six = create(type="ipv6", home_location=FSN1)
    assert six.action is None and six.floating_ip.delete() is True
    refused("not_found", client.floating_ips.get_by_id, ip.id)


def volumes():
    create = client.volumes.create
    server = order("stores").server
    created = create(size=10, name="data", server=server, labels={"a": "b"}, format="ext4")
    assert created.action.command == "create_volume"
    assert [action.command for action in created.next_actions] == ["attach_volume"]
    for action in [created.action, *created.next_actions]:
        action.wait_until_finished()
    volume = client.volumes.get_by_name("data")
    assert (volume.server.id, volume.size, volume.status) == (server.id, 10, "available")
    server.reload()
    assert [attached.id for attached in server.volumes] == [volume.id]
    assert [one.id for one in client.volumes.get_all(label_selector="a=b")] == [volume.id]
    assert client.volumes.get_all(label_selector="a!=b") == []
    refused("uniqueness_error", create, size=10, name="data", location=FSN1)
    refused("invalid_input", create, size=9, name="small", location=FSN1)
    refused("resource_in_use", volume.delete)
    volume.detach().wait_until_finished()
    volume.change_protection(delete=True).wait_until_finished()
    refused("protected", volume.delete)
    volume.change_protection(delete=False).wait_until_finished()
    volume = volume.update(name="kept", labels={})
    assert (volume.name, volume.labels, volume.server) == ("kept", {}, None)
    assert volume.delete() is True
    left = create(size=10, name="left", server=server)
    for action in [left.action, *left.next_actions]:
        action.wait_until_finished()
    gone(server)
    left.volume.reload()
    assert left.volume.server is None and left.volume.delete() is True
    assert client.volumes.get_all() == []


STORIES = [primary_ips, floating_ips, volumes]
