#!/bin/bash
# firewall.sh DIR, in a network and with mounts of its own: loads DIR/workers.nft and DIR/servers.nft on a worker and a server of
# specs/everything, with a pod on the worker whose packets leave with the worker's address, as flannel has it. Tells whose
# packets reach the server.
set -euo pipefail
faults=0 heard=$1/heard
mount --make-rprivate / && mount -t tmpfs tmpfs /run

for name in pod worker server; do
    ip netns add $name
    ip -n $name link set lo up
done
at() { ip netns exec "$@"; }
ip -n worker link add cni0 type bridge
ip -n worker link add to-pod type veth peer name eth0 netns pod
ip -n worker link add eth1 type veth peer name eth1 netns server
ip -n worker link set to-pod master cni0
ip -n worker address add 10.100.1.1/24 dev cni0
ip -n pod address add 10.100.1.5/24 dev eth0
ip -n worker address add 172.16.4.2/16 dev eth1
ip -n server address add 172.16.4.1/16 dev eth1
for link in worker/cni0 worker/to-pod worker/eth1 pod/eth0 server/eth1; do ip -n ${link%/*} link set "${link#*/}" up; done
ip -n pod route add default via 10.100.1.1
# Where a pod of the server would be: what is for it goes there with the pod's own address.
ip -n server address add 10.100.0.1/32 dev lo
ip -n worker route add 10.100.0.0/24 via 172.16.4.1
ip -n server route add 10.100.1.0/24 via 172.16.4.2
# A floating IP is on the server's `lo`, and who is on its network asks there for it.
ip -n server address add 203.0.113.7/32 dev lo
ip -n worker route add 203.0.113.7 dev eth1
# The metadata service.
ip netns add hetzner
ip -n worker link add eth0 type veth peer name eth0 netns hetzner
ip -n hetzner address add 169.254.169.254/24 dev eth0
ip -n worker address add 169.254.169.1/24 dev eth0
for link in hetzner/eth0 worker/eth0; do ip -n ${link%/*} link set eth0 up; done
ip -n hetzner route add default via 169.254.169.1
at worker sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
# flannel's, and a service whose endpoint is etcd.
at worker nft -f - <<'END'
table ip others {
  chain services { type nat hook prerouting priority dstnat; ip daddr 10.101.0.9 tcp dport 443 dnat to 172.16.4.1:2379; }
  chain leaving { type nat hook postrouting priority srcnat; ip saddr 10.100.0.0/16 ip daddr != 10.100.0.0/16 masquerade; }
}
END
at server nft -f - <<'END'
table ip others {
  chain services {
    type nat hook prerouting priority dstnat
    tcp dport 30081 dnat to 172.16.4.1:2379
    udp dport 30472 dnat to 172.16.4.1:8472
    tcp dport 30082 dnat to 172.16.4.1:6443
  }
}
END
at worker nft -f "$1/workers.nft"
at server nft -f "$1/servers.nft"

ip netns exec server python3 -c '
import selectors, socket
chosen = selectors.DefaultSelector()
for port in (2379, 2380, 6443, 9642, 9643, 10250, 30080):
    chosen.register(socket.create_server(("", port)), selectors.EVENT_READ)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("", 8472))
chosen.register(udp, selectors.EVENT_READ)
print("up", flush=True)
while True:
    for key, _ in chosen.select():
        it = key.fileobj
        if it.type == socket.SOCK_STREAM:
            it.accept()[0].close()
        else:
            print(it.recv(99).decode(), flush=True)
' >"$heard" &
listener=$!
ip netns exec hetzner python3 -c '
import socket
service = socket.create_server(("", 80))
print("up", flush=True)
while True: service.accept()[0].close()
' >"$heard.hetzner" &
trap "kill $listener $!" EXIT
until grep -qs up "$heard" && grep -qs up "$heard.hetzner"; do sleep 0.05; done

connects() { # WANTED FROM ADDRESS PORT
    local is=no
    at "$2" python3 -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.7)' "$3" "$4" 2>/dev/null && is=yes
    [ $is = "$1" ] || { echo "from the $2 to $3:$4: connects is $is" >&2; faults=$((faults + 1)); }
}
for port in 2379 2380 9642 9643; do
    connects yes worker 172.16.4.1 $port
    connects no pod 172.16.4.1 $port
    connects no pod 10.100.0.1 $port
done
for port in 6443 10250 30080; do
    connects yes pod 172.16.4.1 $port
    [ $port = 30080 ] || connects yes pod 10.100.0.1 $port
done
connects yes worker 203.0.113.7 6443
connects no pod 10.101.0.9 443
connects yes worker 169.254.169.254 80
connects no pod 169.254.169.254 80
for from in pod worker; do
    connects no $from 172.16.4.1 30081
    connects yes $from 172.16.4.1 30082
done

sends() { # WANTED FROM SOURCE ADDRESS : a packet to the port of VXLAN that says it is from SOURCE
    local is=no word="$2-$3-$4"
    at "$2" python3 -c '
import socket, struct, sys
source, target, word = sys.argv[1:]
udp = struct.pack("!HHHH", 50000, 8472, 8 + len(word), 0) + word.encode()
ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target))
socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).sendto(ip + udp, (target, 0))
' "$3" "$4" "$word"
    sleep 0.3
    grep -qx "$word" "$heard" && is=yes
    [ $is = "$1" ] || { echo "from the $2 as $3 to $4:8472: heard is $is" >&2; faults=$((faults + 1)); }
}
sends yes worker 172.16.4.2 172.16.4.1
for target in 172.16.4.1 10.100.0.1; do
    for source in 10.100.1.5 172.16.4.2 172.16.4.3; do sends no pod $source $target; done
done
[ $faults = 0 ] && echo 'the firewall: nodes reach what is theirs, pods do not'
exit $((faults > 0))
