# The guest's second program: makes a small system of the root, runs the command, keeps its status, powers off.
#
# Arguments: the job directory and the directory of kernel modules. In the job directory: `command` and `environment`, each
# a list of words that end in a zero byte; `directory`; `writable`, one directory a line. The result is `out/status`.
set -eu
job=$1 modules=$2
trap 'sync; echo o >/proc/sysrq-trigger; sleep 60' EXIT

mkdir -p /dev/pts /dev/shm /dev/net
mount -n -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -n -t tmpfs -o mode=1777 shm /dev/shm
ln -sfn /proc/self/fd /dev/fd
for link in 0:stdin 1:stdout 2:stderr; do ln -sfn "fd/${link%:*}" "/dev/${link#*:}"; done
# To open it loads its module.
[ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200
mount -n -t tmpfs -o mode=755 run /run
mkdir -p /run/netns /run/lock
mkdir -m 1777 /run/tmp
ln -sfn /proc/self/mounts /etc/mtab
echo uml >/proc/sys/kernel/hostname
mount -n -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null || true
mount -n -t debugfs debugfs /sys/kernel/debug 2>/dev/null || true
# What may be written for good is mounted once more: each hostfs is a file system of its own, the root stays read-only.
while IFS= read -r dir; do
    mkdir -p "$dir"
    mount -n -t hostfs -o "$dir" hostfs "$dir"
done < <(printf '%s\n' "$job/out"; cat "$job/writable")
# Here modprobe looks, and so does the kernel when it loads by itself.
mkdir -p /lib/modules
mount -n --bind "$modules" /lib/modules
# This kernel has no nftables for IP: plain iptables has to be the old one.
for kind in iptables ip6tables; do
    for verb in "" -save -restore; do
        [ ! -x /usr/sbin/$kind-legacy$verb ] || ln -sfn /usr/sbin/$kind-legacy$verb /etc/alternatives/$kind$verb
    done
done
# First of all modules: left to load by itself it may be asked for by who holds a lock that it needs (a VXLAN device that
# comes up before the first IPv6 socket does), and both wait for ever.
modprobe -q ipv6 || true
ip link set lo up
echo '4 4 1 7' >/proc/sys/kernel/printk

# Serial lines 1 and 2 lead to the caller. Between them and the command are pipes, so that it sees no terminal.
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
mkfifo -m 600 /run/stdout /run/stderr
cat </run/stdout >/dev/ttyS1 & out=$!
cat </run/stderr >/dev/ttyS2 & err=$!
mapfile -d '' -t command <"$job/command"
mapfile -d '' -t environment <"$job/environment"
cut -d ' ' -f 1 /proc/uptime >"$job/out/booted"
(
    cd "$(cat "$job/directory")" || cd /
    exec env -i -- "${environment[@]}" TMPDIR=/run/tmp setsid -w -- "${command[@]}" </dev/null >/run/stdout 2>/run/stderr
) &
status=0
wait $! || status=$?
# The rest of the output: a process that the command left may hold the pipes open, and is not waited for.
for _ in {1..20}; do
    if ! kill -0 $out 2>/dev/null && ! kill -0 $err 2>/dev/null; then break; fi
    sleep 0.1
done
# To set a line waits until it is drained.
stty -F /dev/ttyS1 raw || true
stty -F /dev/ttyS2 raw || true
echo $status >"$job/out/status"
