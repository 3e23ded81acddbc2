# shellcheck shell=bash disable=SC2154
# A Kubernetes cluster of programs in $kubernetes and of this machine's containerd, on hosts of hosts.sh. To be sourced.

control=10.99.0.254
services=10.96.0.0/16
# The API server as pods see it: the first of the services' addresses.
api=10.96.0.1

# certificate NAME SUBJECT [ALTERNATIVE NAMES]: signed by the cluster's own authority.
certificate() {
    openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$dir/pki/$1.key" -out "$dir/pki/$1.csr" 2>/dev/null
    openssl x509 -req -in "$dir/pki/$1.csr" -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" -CAcreateserial -days 2 \
        -extfile <(echo "subjectAltName=${3:-DNS:$1}") -out "$dir/pki/$1.crt" 2>/dev/null
}

# kubeconfig NAME: how a bearer of this certificate reaches the API server; prints the file's path.
kubeconfig() {
    cat >"$dir/pki/$1.conf" <<END
apiVersion: v1
kind: Config
clusters: [{ name: trial, cluster: { server: "https://$control:6443", certificate-authority: $dir/pki/ca.crt } }]
users: [{ name: $1, user: { client-certificate: $dir/pki/$1.crt, client-key: $dir/pki/$1.key } }]
contexts: [{ name: trial, context: { cluster: trial, user: $1 } }]
current-context: trial
END
    echo "$dir/pki/$1.conf"
}

# control_plane: on the host `control`, with rights as clusters have them (Node, RBAC).
control_plane() {
    mkdir -p "$dir/pki"
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=trial -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt" 2>/dev/null
    openssl genrsa -out "$dir/pki/accounts.key" 2048 2>/dev/null
    certificate server /CN=kube-apiserver "IP:$control,IP:$api,DNS:kubernetes.default.svc"
    certificate admin /O=system:masters/CN=admin
    export KUBECONFIG
    KUBECONFIG=$(kubeconfig admin)
    start control etcd --data-dir "$dir/control/etcd"
    start control "$kubernetes/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address="$control" \
        --service-cluster-ip-range="$services" --allow-privileged=true --authorization-mode=Node,RBAC \
        --enable-admission-plugins=NodeRestriction --client-ca-file="$dir/pki/ca.crt" --tls-cert-file="$dir/pki/server.crt" \
        --tls-private-key-file="$dir/pki/server.key" --kubelet-client-certificate="$dir/pki/admin.crt" \
        --kubelet-client-key="$dir/pki/admin.key" --kubelet-preferred-address-types=InternalIP \
        --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$dir/pki/accounts.key" \
        --service-account-signing-key-file="$dir/pki/accounts.key"
    until_true 60 "the API server is ready" on control "$kubernetes/kubectl" get --raw /readyz
    start control "$kubernetes/kube-controller-manager" --kubeconfig="$KUBECONFIG" --leader-elect=false \
        --root-ca-file="$dir/pki/ca.crt" --service-account-private-key-file="$dir/pki/accounts.key"
    start control "$kubernetes/kube-scheduler" --kubeconfig="$KUBECONFIG" --leader-elect=false
}

# registry: `registry.example` on the host `control`, and there an engine that may push to it.
registry() {
    certificate registry /CN=registry.example DNS:registry.example
    mkdir -p "$dir/control/etc-docker/certs.d/registry.example"
    cp "$dir/pki/ca.crt" "$dir/control/etc-docker/certs.d/registry.example/"
    cat >"$dir/registry.yml" <<END
version: 0.1
storage: { filesystem: { rootdirectory: $dir/registry } }
http: { addr: ":443", tls: { certificate: $dir/pki/registry.crt, key: $dir/pki/registry.key } }
END
    start control docker-registry serve "$dir/registry.yml"
    start control dockerd --data-root "$dir/control/docker" --exec-root /run/docker --pidfile /run/docker.pid \
        -H unix:///run/docker.sock --cgroup-parent "/$tag-control"
    until_true 60 "the Docker engine is up" on control docker version
}

# image NAME PROGRAM: what pods of the trial consist of, with busybox's applets; pushed.
image() {
    mkdir -p "$dir/image/bin"
    cp "$(command -v busybox)" "$dir/image/bin/"
    for applet in sh sleep ping ip wget nc httpd echo cat; do ln -sf busybox "$dir/image/bin/$applet"; done
    printf 'FROM scratch\nCOPY bin /bin\nENTRYPOINT ["/bin/sleep", "1000000"]\n' >"$dir/image/Dockerfile"
    on control docker build -q -t "registry.example/$1" "$dir/image" >/dev/null
    on control docker push -q "registry.example/$1" >/dev/null
}

# node NAME ADDRESS: a host with containerd, kube-proxy and a kubelet.
node() {
    local name=$1 own="$dir/$1"
    host "$name" "$2"
    mkdir -p "$own/opt-cni/bin" "$own/etc-containerd/certs.d/registry.example"
    # As every network of pods with kube-proxy wants it.
    on "$name" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables'
    # As distributions do.
    cp /usr/lib/cni/portmap /usr/lib/cni/loopback "$own/opt-cni/bin/"
    printf '[host."https://registry.example"]\n  ca = "%s"\n' "$dir/pki/ca.crt" >"$own/etc-containerd/certs.d/registry.example/hosts.toml"
    cat >"$own/etc-containerd/config.toml" <<END
version = 2
root = "$own/containerd"
state = "/run/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.example/box:1"
  # Here root may not lower a process's score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
END
    for group in /sys/fs/cgroup/*/; do mkdir -p "$group/$tag-$name"; done
    # Groups of processors begin without any.
    for file in cpus mems; do cat "/sys/fs/cgroup/cpuset/cpuset.$file" >"/sys/fs/cgroup/cpuset/$tag-$name/cpuset.$file"; done
    start "$name" containerd
    certificate "$name" "/O=system:nodes/CN=system:node:$name"
    cat >"$own/kubelet.yml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: { x509: { clientCAFile: $dir/pki/ca.crt }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow }
clusterDNS: [10.96.0.10]
cgroupDriver: cgroupfs
cgroupRoot: /$tag-$name
# Here root may not lower a process's score, and the machine is not the nodes' alone.
oomScoreAdj: 0
enforceNodeAllocatable: []
failSwapOn: false
evictionHard: { memory.available: 0%, nodefs.available: 0%, imagefs.available: 0% }
imageGCHighThresholdPercent: 100
END
    until_true 30 "containerd is up on $name" on "$name" ctr version
    start "$name" "$kubernetes/kubelet" --config="$own/kubelet.yml" --kubeconfig="$(kubeconfig "$name")" --root-dir="$own/kubelet" \
        --container-runtime=remote --container-runtime-endpoint=unix:///run/containerd/containerd.sock \
        --hostname-override="$name" --node-ip="$2" --cert-dir="$own/kubelet-pki"
    start "$name" "$kubernetes/kube-proxy" --kubeconfig="$KUBECONFIG" --hostname-override="$name" --cluster-cidr=10.32.0.0/12 \
        --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
}
