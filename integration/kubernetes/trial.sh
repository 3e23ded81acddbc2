#!/bin/bash
# docs/kubernetes.md tried with a real Kubernetes: its commands are taken from there and typed as they stand, against a control plane, two
# nodes with containerd, and a registry, all on hosts made of namespaces.
# trial.sh DIRECTORY: where kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet and kubectl are. As root.
set -euo pipefail
shopt -s inherit_errexit

kubernetes=$(readlink -f "${1:?the directory of the programs of Kubernetes}")
here=$(cd "$(dirname "$0")" && pwd)
root=$(readlink -f "$here/../..")
manual="$root/docs/kubernetes.md"
tag="weft-k8s-$$"
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/$tag.XXXX")
declare -A holder=()
exec </dev/null
# shellcheck source=hosts.sh
. "$here/hosts.sh"
# shellcheck source=cluster.sh
. "$here/cluster.sh"
export PATH="$kubernetes:${CARGO_TARGET_DIR:-$root/target}/release:$PATH" NO_COLOR=1

say() { echo "trial: $*"; }
fail() { echo "trial: FAILED: $*"; exit 1; }

missing=()
for program in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl etcd containerd runc dockerd docker-registry \
    busybox conntrack iptables openssl /usr/lib/cni/portmap /usr/lib/cni/loopback weft; do
    command -v "$program" >/dev/null || missing+=("$program")
done
[ "${#missing[@]}" = 0 ] || fail "not here: ${missing[*]}; see integration/kubernetes/README.md"
[ "$(id -u)" = 0 ] || fail "namespaces are made: run it as root"

finish() {
    local status=$? name
    if [ "$status" != 0 ]; then
        kubectl_says
        # To look around before all goes.
        [ -z "${TRIAL_HOLD:-}" ] || { say "held in $dir until the file $dir/go is there"; until [ -e "$dir/go" ]; do sleep 1; done; }
        [ -z "${TRIAL_LOGS:-}" ] || (cd "$dir" && cp --parents */*.log "$TRIAL_LOGS") || true
    fi
    for name in "${!holder[@]}"; do (end_host "$name") || true; done
    ip netns del "$tag-switch" || true
    rm -rf "$dir"
}
trap finish EXIT

kubectl_says() {
    on control kubectl get nodes,pods -A -o wide || true
    on control kubectl get events -A --sort-by=.metadata.creationTimestamp | tail -n 20 || true
    for container in peers cni router kubernetes; do
        on control kubectl -n kube-system logs -l app.kubernetes.io/name=weft -c "$container" --prefix --tail 20 || true
    done
}

# documented TEXT [HOST [NODE]]: types the commands of the manual's block with this text; where it says NODE, this one.
documented() {
    local block line
    block=$(awk -v text="$1" '
        /^ *```sh$/ { inside = 1; block = ""; next }
        /^ *```$/ { if (inside && index(block, text)) { printf "%s", block; exit }; inside = 0 }
        inside { sub(/^   /, ""); block = block $0 "\n" }' "$manual")
    [ -n "$block" ] || fail "the manual has no commands with \"$1\""
    [ "$#" -lt 3 ] || block=${block//NODE/$3}
    while read -r line; do echo "    $ $line"; done <<<"$block"
    on "${2:-control}" bash -euo pipefail -c "cd '$root'; $block"
}

now() { date +%s%N; }
# since THEN: milliseconds.
since() { echo $((($(now) - $1) / 1000000)); }
# box NODE: the pod of the trial there.
box() { on control kubectl get pods -l app=box --field-selector "spec.nodeName=$1,status.phase=Running" -o 'jsonpath={.items[0].metadata.name}'; }
address() { on control kubectl get pod "$1" -o 'jsonpath={.status.podIP}'; }
router() { on control kubectl -n kube-system get pods -l app.kubernetes.io/name=weft --field-selector "spec.nodeName=$1" -o 'jsonpath={.items[0].metadata.name}'; }
in_pod() { local pod=$1; shift; on control kubectl exec -i "$pod" -- "$@"; }
weft_on() { local node=$1; shift; on control kubectl -n kube-system exec "$(router "$node")" -c router -- weft "$@"; }
peer_of() { on control kubectl get node "$1" -o 'jsonpath={.metadata.annotations.weft\.io/peer}'; }
# is_in TEXT COMMAND…, is_not_in TEXT COMMAND…: whether it is in what the command says, if it succeeds.
is_in() { local said; said=$("${@:2}") && [[ $said == *"$1"* ]]; }
is_not_in() { local said; said=$("${@:2}") && [[ $said != *"$1"* ]]; }
# they_ping FROM TO: each other, by address; says how fast.
they_ping() {
    local from to said
    for pair in "$1 $2" "$2 $1"; do
        read -r from to <<<"$pair"
        from=$(box "$from") to=$(address "$(box "$to")")
        said=$(in_pod "$from" ping -c 5 -W 5 "$to") || fail "$from cannot ping $to: $said"
        say "$from to $to: $(tail -n 1 <<<"$said")"
    done
}
# get COMMAND…: what the web server says to whom the command connects.
get() { printf 'GET / HTTP/1.0\r\n\r\n' | "$@" -w 5 | tail -n 1; }
# both_by COMMAND…: of many connections each goes to any of the pods.
both_by() {
    local said="" i
    for i in $(seq 20); do said+="$(get "$@") "; done
    [[ $said == *n1* && $said == *n2* ]] || fail "not both pods by $*: $said"
}
boxes_are_ready() {
    until_true "${1:-60}" "pods are ready" on control kubectl rollout status daemonset/box --watch=false
    on control kubectl rollout status daemonset/box --timeout="${1:-60}s"
}

say "a registry, a control plane, two nodes"
switch
host control "$control"
began=$(now)
control_plane
registry
image box:1
node n1 10.99.0.1
node n2 10.99.0.2
until_true 60 "both nodes have registered" on control kubectl get node n1 n2
say "after $(since "$began") ms: $(on control kubectl version --short | paste -sd ' ')"
on control kubectl get nodes

say "the manual's steps"
documented 'make image'
documented 'weft secret'
began=$(now)
documented 'kubectl apply -f -'
documented 'rollout status'
say "$(since "$began") ms from kubectl apply to the end of the roll-out"
until_true 30 "nodes are Ready" on control kubectl wait --for=condition=Ready node/n1 node/n2 --timeout=1s
[ "$(on control kubectl get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="NetworkUnavailable")].reason}')" = "WeftIsUp WeftIsUp" ] \
    || fail "the nodes' condition"
is_in established weft_on n1 status connections || fail "no connection: $(weft_on n1 status connections)"

say "a pod on each node"
began=$(now)
on control kubectl apply -f - <<END
apiVersion: apps/v1
kind: DaemonSet
metadata: { name: box }
spec:
  selector: { matchLabels: { app: box } }
  template:
    metadata: { labels: { app: box } }
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: box
          image: registry.example/box:1
          command: [sh, -c, 'mkdir /www; echo "\$NODE" >/www/index.html; exec httpd -f -p 80 -h /www']
          env: [{ name: NODE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }]
          ports: [{ containerPort: 80, hostPort: 8080 }]
          # The kubelet reaches pods.
          readinessProbe: { httpGet: { port: 80, path: / }, periodSeconds: 1 }
---
apiVersion: v1
kind: Service
metadata: { name: box }
spec: { type: NodePort, selector: { app: box }, ports: [{ port: 80, nodePort: 30080 }] }
END
boxes_are_ready
say "$(since "$began") ms from kubectl apply to both pods Ready"
on control kubectl get pods -o wide
they_ping n1 n2
[ "$(get in_pod "$(box n1)" nc "$(address "$(box n2)")" 80)" = n2 ] || fail "HTTP from n1's pod to n2's"

say "hosts and services"
[ "$(get on n1 busybox nc "$(address "$(box n2)")" 80)" = n2 ] || fail "node n1 does not reach n2's pod"
[ "$(get on control busybox nc 10.99.0.1 8080)" = n1 ] || fail "hostPort by portmap"
service=$(on control kubectl get service box -o 'jsonpath={.spec.clusterIP}')
both_by in_pod "$(box n1)" nc "$service" 80
both_by on n1 busybox nc "$service" 80
both_by on control busybox nc 10.99.0.1 30080
in_pod "$(box n1)" nc -w 5 "$api" 443 || fail "a pod does not reach the API server"

say "a router is replaced"
pod=$(box n1) old=$(router n1) peer=$(peer_of n1) held=$(address "$(box n1)")
in_pod "$pod" ping -i 0.1 -c 300 "$(address "$(box n2)")" >"$dir/ping" 2>&1 &
pinging=$!
sleep 2
began=$(now)
on control kubectl -n kube-system delete pod "$old" --wait=false
until_true 120 "n1 has another router" eval '[ "$(router n1)" != "$old" ]'
until_true 60 "it is ready" on control kubectl -n kube-system wait --for=condition=Ready "pod/$(router n1)" --timeout=1s
say "after $(since "$began") ms there is another"
wait "$pinging" || true
say "meanwhile, ten a second: $(grep received "$dir/ping")"
[ "$(box n1)" = "$pod" ] && [ "$(address "$pod")" = "$held" ] && [ "$(peer_of n1)" = "$peer" ] || fail "the pod or the router is another"
they_ping n1 n2

say "a node is deleted, and ends"
gone=$(peer_of n2)
weft_on n1 status ipam
is_in "$gone" weft_on n1 status ipam || fail "n2's router has no addresses"
began=$(now)
documented 'kubectl drain' control n2
end_host n2
until_true 60 "its addresses are n1's" is_not_in "$gone" weft_on n1 status ipam
say "after $(since "$began") ms its addresses are the others'"
weft_on n1 status ipam
until_true 30 "it is struck from the record" is_not_in "${gone//:/-}" on control kubectl -n kube-system get configmap weft-peers -o yaml

say "a node comes by its name, with a new disk"
rm -rf "${dir:?}/n2"
node n2 10.99.0.2
until_true 90 "it is Ready" on control kubectl wait --for=condition=Ready node/n2 --timeout=1s
boxes_are_ready 90
[ "$(peer_of n2)" != "$gone" ] || fail "its router has the old one's name"
they_ping n1 n2

say "the secret is changed"
documented 'rollout restart'
until_true 60 "they are connected again" is_in established weft_on n1 status connections
they_ping n1 n2

say "all is removed"
on control kubectl delete daemonset/box service/box
until_true 120 "the pods are gone" eval '[ -z "$(on control kubectl get pods -o name)" ]'
documented 'kubectl delete -f'
until_true 120 "the routers are gone" eval '[ -z "$(on control kubectl -n kube-system get pods -o name)" ]'
for node in n1 n2; do
    documented 'exec -a weft' "$node"
    left=$(on "$node" sh -c 'ip -o link; nft list tables; ls -A /var/lib /run /opt/cni/bin /etc/cni/net.d')
    ! grep -i weft <<<"$left" || fail "this is left on $node"
done
say "all went well"
