# shellcheck shell=bash disable=SC2154
# Hosts for the trial: network namespaces on a switch, each held with a mount and a uts namespace of its own. To be sourced; $dir is
# where files go, $tag names what is made.

# host NAME ADDRESS: a host on the switch; its files are in $dir/NAME.
host() {
    local name=$1 own="$dir/$1" netns="$tag-$1"
    mkdir -p "$own"/{cgroup,run,etc-cni,etc-docker,etc-containerd,opt-cni,var-lib,var-log,sysctl}
    ip netns add "$netns"
    ip -n "$netns" link set lo up
    ip link add "$name" netns "$tag-switch" type veth peer name eth0 netns "$netns"
    ip -n "$tag-switch" link set "$name" master switch up
    ip -n "$netns" addr add "$2/24" dev eth0
    ip -n "$netns" link set eth0 up
    # A default route, so that packets to services get as far as the rules that turn them; to the host that is not a node.
    [ "$2" = "$control" ] || ip -n "$netns" route add default via "$control"
    printf '127.0.0.1 localhost\n%s registry.example\n' "$control" >"$own/hosts"
    # The kubelet wants these for the whole machine, which is not ours.
    echo 1 >"$own/sysctl/overcommit_memory"; echo 10 >"$own/sysctl/panic"; echo 1 >"$own/sysctl/panic_on_oops"
    # Private directories where programs have fixed paths; a /sys that shows the network namespace, with the machine's control groups
    # bound back under it.
    # shellcheck disable=SC2016
    nsenter --net="/run/netns/$netns" unshare -m -u --propagation private bash -c '
        set -e; own=$1; hostname "$2"
        mount --rbind /sys/fs/cgroup "$own/cgroup"
        mount -t sysfs sysfs /sys
        mount --rbind "$own/cgroup" /sys/fs/cgroup
        umount -l "$own/cgroup"
        mkdir -p /etc/cni /etc/docker /etc/containerd /opt/cni
        for private in run etc/cni etc/docker etc/containerd opt/cni var/lib var/log; do
            mount --bind "$own/${private//\//-}" "/$private"
        done
        mount --bind "$own/hosts" /etc/hosts
        mount --bind "$own/sysctl/overcommit_memory" /proc/sys/vm/overcommit_memory
        mount --bind "$own/sysctl/panic" /proc/sys/kernel/panic
        mount --bind "$own/sysctl/panic_on_oops" /proc/sys/kernel/panic_on_oops
        mkdir -p /run/lock /run/netns
        mount --make-rshared /
        exec sleep infinity' host "$own" "$name" >"$own/host.log" 2>&1 &
    holder[$name]=$!
    # So that the shell does not tell how it ended.
    disown
    until_true 10 "host $name is up" eval '[ "$(cat /proc/${holder[$name]}/comm)" = sleep ]'
}

# on NAME COMMAND…: as if typed there.
on() {
    local pid=${holder[$1]}; shift
    nsenter -t "$pid" -m -n -u -- "$@"
}

# start NAME PROGRAM ARGUMENT…: a daemon there; its words are in $dir/NAME/PROGRAM.log.
start() {
    local name=$1 program=$2; shift 2
    nsenter -t "${holder[$name]}" -m -n -u -- "$program" "$@" >>"$dir/$name/${program##*/}.log" 2>&1 &
    disown
}

# switch: what the hosts are plugged into.
switch() {
    ip netns add "$tag-switch"
    ip -n "$tag-switch" link set lo up
    ip -n "$tag-switch" link add switch type bridge
    ip -n "$tag-switch" link set switch up
}

# end_host NAME: at once, with all that runs there, as if its power had failed.
end_host() {
    until_true 20 "all has ended on $1" is_dead "$1"
    ip netns del "$tag-$1"
    until_true 10 "the control groups of $1 are gone" has_no_groups "$1"
    unset "holder[$1]"
}

# is_dead NAME: kills what is left there. Pods have network namespaces of their own, but are in the control group of their node.
is_dead() {
    local left
    left=$(ip netns pids "$tag-$1"; find /sys/fs/cgroup/pids/"$tag-$1" -name cgroup.procs -exec cat {} + 2>/dev/null || true)
    [ -n "$left" ] || return 0
    # shellcheck disable=SC2086
    kill -KILL $left
    return 1
}

has_no_groups() {
    find /sys/fs/cgroup/*/"$tag-$1" -depth -type d -exec rmdir {} + 2>/dev/null || true
    ! compgen -G "/sys/fs/cgroup/*/$tag-$1"
}

# until_true SECONDS WHAT COMMAND…: waits until it succeeds.
until_true() {
    local end=$((SECONDS + $1)) what=$2; shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "never: $what"
        sleep 0.2
    done
}
