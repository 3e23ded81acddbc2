#!/bin/bash
# Real container runtimes with Weft's CNI plugin: podman and containerd's ctr, on a host of their own.
# cni-runtimes.sh NETNS DIR WEFT: in the network namespace NETNS, with all files below DIR, and the program WEFT.
# cni-runtimes.sh --needed: only says which program is missing, with status 77.
set -euo pipefail

for program in podman ctr containerd runc busybox /usr/lib/cni/host-local /usr/lib/cni/portmap; do
    command -v "$program" >/dev/null || { echo "no $program here: \`make cni-deps\` installs it"; exit 77; }
done
[ "$1" != --needed ] || exit 0
netns=$1 dir=$2 weft=$3

if [ "${4:-}" != inside ]; then
    # A mount namespace of its own with private directories where runtimes have fixed paths; a /sys that shows the network namespace,
    # with the machine's control groups bound back under it.
    exec nsenter --net="/run/netns/$netns" unshare -m -u --propagation private bash -c '
        set -e; dir=$1
        hostname cni; mkdir -p "$dir"/{cgroup,run,etccni,optcni,varlibcni}
        mount --rbind /sys/fs/cgroup "$dir/cgroup"
        mount -t sysfs sysfs /sys
        mount --rbind "$dir/cgroup" /sys/fs/cgroup
        umount -l "$dir/cgroup"
        mkdir -p /etc/cni /opt/cni /var/lib/cni
        mount --bind "$dir/run" /run
        mount --bind "$dir/etccni" /etc/cni
        mount --bind "$dir/optcni" /opt/cni
        mount --bind "$dir/varlibcni" /var/lib/cni
        mkdir -p /run/lock /run/netns
        mount --make-rshared /run
        mount --make-rshared /
        shift; exec "$@"' host "$dir" "$0" "$netns" "$dir" "$weft" inside
fi

export WEFT_RUN_DIR=/run/weft WEFT_DATA_DIR="$dir/data" NO_COLOR=1
export CONTAINERS_CONF="$dir/containers.conf" CONTAINERS_STORAGE_CONF="$dir/storage.conf"
containerd=
finish() {
    local status=$?
    podman rm -fa -t0 >/dev/null 2>&1 || true
    for task in $(ctr tasks ls -q 2>/dev/null); do ctr tasks kill -s KILL "$task" 2>/dev/null || true; done
    "$weft" stop >/dev/null 2>&1 || true
    if [ -n "$containerd" ]; then kill "$containerd"; wait "$containerd" || true; fi
    [ "$status" = 0 ] || { tail -n 20 "$dir"/data/*.log /run/weft/*.log "$dir/containerd.log" 2>/dev/null || true; }
}
trap finish EXIT
step() { echo "cni-runtimes: $*"; }
fail() { echo "cni-runtimes: FAILED: $*"; exit 1; }
attached() { "$weft" ps --json | grep -c '"container"' || true; }

"$weft" launch >/dev/null
"$weft" setup-cni
# Addresses of host-local; with the network's own, ipam may be left out.
cp /usr/lib/cni/{host-local,portmap} /opt/cni/bin/
cat >/etc/cni/net.d/10-weft.conflist <<END
{ "cniVersion": "1.0.0", "name": "weft", "plugins": [
    { "type": "weft-net", "capabilities": { "mac": true },  "dataDir": "$dir/data",
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.32.7.0/24" }], [{ "subnet": "fd32:7::/64" }]] } },
    { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true } ] }
END

mkdir -p "$dir/rootfs/bin" "$dir/rootfs/etc"
cp "$(command -v busybox)" "$dir/rootfs/bin/busybox"
for name in sh ip ping sleep httpd nc cat echo; do ln -sf busybox "$dir/rootfs/bin/$name"; done
tar -C "$dir/rootfs" -cf "$dir/rootfs.tar" .
cat >"$CONTAINERS_CONF" <<END
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
END
cat >"$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
runroot = "/run/storage"
graphroot = "$dir/storage"
END

step "podman run --network weft"
podman import -q "$dir/rootfs.tar" localhost/weft-box >/dev/null
podman network ls --format '{{.Name}}' | grep -qx weft || fail "podman does not see the network"
podman run -d --name one --pull=never --network weft -p 8088:80 localhost/weft-box \
    sh -c 'echo hello >/etc/index.html; httpd -f -p 80 -h /etc' >/dev/null
podman run -d --name two --pull=never --network weft --mac-address 02:00:00:00:00:52 localhost/weft-box sleep 1000 >/dev/null
one=$(podman exec one ip -4 -o addr show eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')
one6=$(podman exec one ip -6 -o addr show eth0 scope global | sed -n 's/.*inet6 \([0-9a-f:]*\).*/\1/p')
podman exec two ping -c1 -W5 "$one" >/dev/null || fail "two cannot ping $one"
podman exec two ping -6 -c1 -W5 "$one6" >/dev/null || fail "two cannot ping $one6"
podman exec two ip -o link show eth0 | grep -q 02:00:00:00:00:52 || fail "not the Ethernet address that was asked for"
[ "$(attached)" = 2 ] || fail "two should be attached: $("$weft" ps)"

step "containerd: ctr run --cni"
cat >"$dir/containerd.toml" <<END
version = 2
root = "$dir/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/containerd/containerd.sock"
END
containerd -c "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
containerd=$!
for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
podman save -q -o "$dir/image.tar" localhost/weft-box
ctr images import --snapshotter native "$dir/image.tar" >/dev/null
said=$(ctr run --rm --cni --snapshotter native localhost/weft-box:latest pinger ping -c1 -W5 "$one") || fail "ctr: $said"
grep -q "1 packets received" <<<"$said" || fail "ctr's container cannot ping podman's: $said"
[ "$(attached)" = 2 ] || fail "ctr's container should be gone: $("$weft" ps)"

step "containers keep their network while the router is replaced"
"$weft" stop
podman exec two ping -c1 -W5 "$one" >/dev/null || fail "no network without a router"
podman rm -f -t0 one >/dev/null || fail "no DEL without a router"
"$weft" launch >/dev/null
[ "$(attached)" = 1 ] || fail "one should be gone: $("$weft" ps)"
podman run --rm --pull=never --network weft localhost/weft-box ping -c1 -W5 \
    "$(podman exec two ip -4 -o addr show eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')" >/dev/null || fail "no network after the restart"

step "podman rm"
podman rm -f -t0 two >/dev/null
[ "$(attached)" = 0 ] || fail "nothing should be attached: $("$weft" ps)"
[ -z "$(find /var/lib/cni/networks/weft -name '10.*' -o -name 'fd32*')" ] || fail "addresses are left"
step "addresses of the network itself"
cat >/etc/cni/net.d/10-weft.conflist <<END
{ "cniVersion": "1.0.0", "name": "weft", "plugins": [
    { "type": "weft-net", "capabilities": { "ips": true }, "dataDir": "$dir/data" },
    { "type": "portmap", "capabilities": { "portMappings": true }, "snat": true } ] }
END
owners() { "$weft" status ipam --json | grep -c '"owner": "weft/' || true; }
podman run -d --name three --pull=never --network weft localhost/weft-box sleep 1000 >/dev/null
three=$(podman exec three ip -4 -o addr show eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')
said=$(ctr run --rm --cni --snapshotter native localhost/weft-box:latest owner ping -c1 -W5 "$three") || fail "ctr: $said"
grep -q "1 packets received" <<<"$said" || fail "ctr's container has no use of its address: $said"
[ "$(owners)" = 1 ] || fail "podman's has an address, ctr's none any more: $("$weft" status ipam)"
podman rm -f -t0 three >/dev/null
[ "$(owners)" = 0 ] || fail "nobody should have an address: $("$weft" status ipam)"
step "all went well"
