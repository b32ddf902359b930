"""The client, and what the stories have in common."""

import contextlib
import sys
import time

import requests
from hcloud import APIException, Client
from hcloud.images import Image
from hcloud.server_types import ServerType

ENDPOINT = sys.argv[1]
CONTROL = ENDPOINT.removesuffix("/v1") + "/_emulator"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKHEChAl/ApSFKKMJbzN5kSJu3gVTOhf5B4kZ2FcJQXk me"
FINGERPRINT = "d4:c4:51:d3:e9:cc:9c:8e:f4:27:24:6e:ee:f6:e9:0a"

client = Client(token="any", api_endpoint=ENDPOINT, poll_interval=0.02)
# Refusals are what is tested here; waiting for a better answer would only cost time.
client._client._retry_max_retries = 0


def refused(code, call, *args, **kwargs):
    """The refusal of a call that must be refused with this code."""
    try:
        call(*args, **kwargs)
    except APIException as error:
        assert error.code == code, f"{error.code} ({error.message}), expected {code}"
        assert error.correlation_id
        return error
    raise AssertionError(f"not refused, expected {code}")


def until(what, condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def settings(**change):
    requests.put(f"{CONTROL}/settings", json=change).raise_for_status()


@contextlib.contextmanager
def held():
    """Actions that begin inside go on until they are finished by hand."""
    settings(action_duration_ms=3_600_000)
    try:
        yield
    finally:
        settings(action_duration_ms=50)


def finish(*actions):
    for action in actions:
        requests.post(f"{CONTROL}/actions/{action.id}/finish").raise_for_status()
        action.wait_until_finished()


def order(name, wait=True, server_type="cx23", image="debian-12", **more):
    """A new server, running unless told otherwise."""
    created = client.servers.create(
        name=name, server_type=ServerType(name=server_type), image=Image(name=image), **more
    )
    if wait:
        created.action.wait_until_finished()
        for action in created.next_actions:
            action.wait_until_finished()
        created.server.reload()
    return created


def gone(*servers):
    for action in [server.delete() for server in servers]:
        action.wait_until_finished()
