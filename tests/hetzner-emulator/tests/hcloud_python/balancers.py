"""Load balancers, as a cluster has one before its API servers."""

from hcloud.load_balancer_types import LoadBalancerType
from hcloud.load_balancers.domain import (
    LoadBalancerAlgorithm,
    LoadBalancerHealthCheck,
    LoadBalancerService,
    LoadBalancerTarget,
    LoadBalancerTargetIP,
    LoadBalancerTargetLabelSelector,
)
from hcloud.locations import Location
from hcloud.networks.domain import NetworkSubnet

from bench import client, finish, gone, held, order, refused, settings

LB11 = LoadBalancerType(name="lb11")
FSN1 = Location(name="fsn1")
API = LoadBalancerService(protocol="tcp", listen_port=6443, destination_port=6443)


def by_label(selector, private=True):
    selector = LoadBalancerTargetLabelSelector(selector=selector)
    return LoadBalancerTarget(type="label_selector", label_selector=selector,
                              use_private_ip=private)


def by_server(server, private=False):
    return LoadBalancerTarget(type="server", server=server, use_private_ip=private)


def create(name, **more):
    created = client.load_balancers.create(name=name, load_balancer_type=LB11, **more)
    created.action.wait_until_finished()
    created.load_balancer.reload()
    return created.load_balancer


def raw(resource, kind):
    """As the API shows it: the client drops some fields."""
    return client._client.request(method="GET", url=f"/{kind}s/{resource.id}")[kind]


def health(target):
    return [(health.listen_port, health.status) for health in target.health_status]


def of_a_cluster():
    network = client.networks.create(
        name="cluster", ip_range="10.0.0.0/16",
        subnets=[NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.0.1.0/24")],
    )
    server = order("api-1", networks=[network], labels={"role": "server"}).server
    with held():
        created = client.load_balancers.create(
            name="api", load_balancer_type=LB11, location=FSN1, network=network,
            labels={"cluster": "c1"}, services=[API], targets=[by_label("role==server")],
            algorithm=LoadBalancerAlgorithm(type="least_connections"),
        )
        lb = created.load_balancer
        assert created.action.command == "create_load_balancer"
        refused("locked", lb.change_protection, delete=True)
        finish(created.action)
    lb.reload()
    assert (lb.algorithm.type, lb.location.name) == ("least_connections", "fsn1")
    assert lb.load_balancer_type.name == "lb11" and lb.public_net.enabled
    assert lb.public_net.ipv4.ip.startswith("127.20.1.")
    assert [(net.network.id, net.ip) for net in lb.private_net] == [(network.id, "10.0.1.2")]
    assert raw(network, "network")["load_balancers"] == [lb.id]
    check = lb.services[0].health_check
    assert (check.protocol, check.port, check.interval, check.retries) == ("tcp", 6443, 15, 3)
    (target,) = lb.targets
    assert target.label_selector.selector == "role==server" and target.use_private_ip
    assert [covered.server.id for covered in target.targets] == [server.id]
    assert health(target.targets[0]) == [(6443, "healthy")]
    server.power_off().wait_until_finished()
    second = order("api-2", networks=[network], labels={"role": "server"}).server
    assert [net.ip for net in second.private_net] == ["10.0.1.3"]
    assert raw(second, "server")["load_balancers"] == [lb.id]
    lb.reload()
    statuses = {one.server.id: health(one) for one in lb.targets[0].targets}
    assert statuses == {server.id: [(6443, "unhealthy")], second.id: [(6443, "healthy")]}

    assert client.load_balancers.get_by_name("api").id == lb.id
    assert [one.id for one in client.load_balancers.get_all(label_selector="cluster")] == [lb.id]
    lb.disable_public_interface().wait_until_finished()
    refused("load_balancer_public_interface_disabled", lb.add_target, by_server(second))
    lb.enable_public_interface().wait_until_finished()
    lb.change_protection(delete=True).wait_until_finished()
    refused("protected", lb.delete)
    lb.change_protection(delete=False).wait_until_finished()
    lb = lb.update(name="front", labels={})
    assert (lb.name, lb.labels, lb.protection) == ("front", {}, {"delete": False})
    subnet = NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.0.1.0/24")
    gone(server, second)
    refused("resource_in_use", network.delete_subnet, subnet)
    deleted = lb.delete()
    assert deleted.action.command == "delete_load_balancer"
    deleted.action.wait_until_finished()
    refused("not_found", client.load_balancers.get_by_id, lb.id)
    assert network.delete() is True


def services_and_targets():
    server = order("web").server
    lb = create("plain", network_zone="eu-central")
    assert lb.location.network_zone == "eu-central" and lb.algorithm.type == "round_robin"
    refused("uniqueness_error", create, "plain", location=FSN1)
    refused("invalid_input", create, "nowhere")
    refused("invalid_input", create, "slow", location=FSN1,
            algorithm=LoadBalancerAlgorithm(type="random"))
    lb.add_service(API).wait_until_finished()
    refused("source_port_already_used", lb.add_service, API)
    refused("invalid_input", lb.add_service, LoadBalancerService(protocol="tcp", listen_port=1))
    lb.add_service(LoadBalancerService(protocol="http")).wait_until_finished()
    change = LoadBalancerService(listen_port=6443, destination_port=7443,
                                 health_check=LoadBalancerHealthCheck(retries=5))
    lb.update_service(change).wait_until_finished()
    lb.reload()
    ports = [(service.listen_port, service.destination_port) for service in lb.services]
    assert ports == [(6443, 7443), (80, 80)]
    assert lb.services[0].health_check.retries == 5
    assert lb.services[0].health_check.port == 6443
    assert lb.services[1].health_check.http.status_codes == ["2??", "3??"]
    lb.delete_service(LoadBalancerService(listen_port=80)).wait_until_finished()
    refused("not_found", lb.delete_service, LoadBalancerService(listen_port=80))

    lb.add_target(by_server(server)).wait_until_finished()
    refused("target_already_defined", lb.add_target, by_server(server))
    refused("load_balancer_not_attached_to_network", lb.add_target, by_label("a"))
    refused("load_balancer_not_attached_to_network", lb.disable_public_interface)
    address = LoadBalancerTargetIP(ip="203.0.113.1")
    refused("ip_not_owned", lb.add_target, LoadBalancerTarget(type="ip", ip=address))
    address = LoadBalancerTargetIP(ip=server.public_net.ipv4.ip)
    refused("cloud_resource_ip_not_allowed", lb.add_target,
            LoadBalancerTarget(type="ip", ip=address))
    lb.reload()
    assert [target.server.id for target in lb.targets] == [server.id]
    assert health(lb.targets[0]) == [(6443, "healthy")]
    lb.change_algorithm(LoadBalancerAlgorithm(type="least_connections")).wait_until_finished()
    networks_of(lb, server)

    settings(load_balancer_limit=1)
    error = refused("resource_limit_exceeded", create, "second", location=FSN1)
    assert error.details["limits"] == [{"name": "load_balancer_limit"}]
    settings(load_balancer_limit=100)
    lb.add_target(by_server(server)).wait_until_finished()
    gone(server)
    lb.reload()
    assert (lb.targets, lb.algorithm.type) == ([], "least_connections")
    lb.delete().action.wait_until_finished()
    assert client.load_balancers.get_all() == []


def networks_of(lb, server):
    network = client.networks.create(
        name="late", ip_range="10.0.0.0/16",
        subnets=[NetworkSubnet(type="cloud", network_zone="eu-central", ip_range="10.0.1.0/24")],
    )
    refused("ip_not_available", lb.attach_to_network, network, ip="10.0.0.1")
    lb.attach_to_network(network, ip="10.0.1.9").wait_until_finished()
    refused("load_balancer_already_attached", lb.attach_to_network, network)
    refused("targets_without_use_private_ip", lb.disable_public_interface)
    lb.remove_target(by_server(server)).wait_until_finished()
    refused("not_found", lb.remove_target, by_server(server))
    refused("server_not_attached_to_network", lb.add_target, by_server(server, private=True))
    server.attach_to_network(network).wait_until_finished()
    lb.add_target(by_server(server, private=True)).wait_until_finished()
    lb.reload()
    assert health(lb.targets[0]) == [(6443, "healthy")]
    assert [net.ip for net in lb.private_net] == ["10.0.1.9"]
    lb.detach_from_network(network).wait_until_finished()
    lb.reload()
    assert lb.private_net == [] and health(lb.targets[0]) == [(6443, "unhealthy")]
    lb.remove_target(by_server(server)).wait_until_finished()
    commands = [action.command for action in lb.get_actions()]
    assert commands.count("add_target") == 2 and commands.count("remove_target") == 2
    assert network.delete() is True


def certificates():
    create = client.certificates.create
    made = create(name="web", certificate="the chain", private_key="the key", labels={"a": "b"})
    assert (made.type, made.certificate, made.status) == ("uploaded", "the chain", None)
    assert (made.not_valid_after - made.created).days == 365
    refused("uniqueness_error", create, name="web", certificate="c", private_key="k")
    refused("invalid_input", create, name="keyless", certificate="c", private_key=None)
    assert client.certificates.get_all(label_selector="a=b")[0].id == made.id
    assert made.update(name="renamed", labels={}).name == "renamed"
    assert client.certificates.get_by_name("renamed").delete() is True
    refused("not_found", client.certificates.get_by_id, made.id)


STORIES = [of_a_cluster, services_and_targets, certificates]
