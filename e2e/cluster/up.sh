#!/usr/bin/env bash
# Starts a real Kubernetes of two nodes inside network and mount namespaces of its own, and returns when both are Ready.
# usage: up.sh STATE_DIR IMAGES...
# needs root, build.sh and prerequisites.sh. IMAGES are OCI archives for every node; docker.io/local/e2e:1 must be
# among them: its default command is the pause of every pod, and its /coredns serves the cluster's DNS.
#
# Node N is 10.200.0.N on the bridge `nodes`, has the pods 10.244.N.0/24 and lies in zone-N. A client outside the
# cluster is 10.200.0.100, and .101, on that bridge and reaches Services of type LoadBalancer, 10.201.0.0/24, through
# node 1. Nothing leaves the namespaces: there is no further route. `nsenter -t $(cat STATE_DIR/run/client) -n COMMAND` runs as the client.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
k8s=${SLUICE_CACHE:-$HOME/.cache/sluice}/k8s
"$here/down.sh" "$1"
mkdir -p "$1"
state=$(cd "$1" && pwd)
shift
mkdir -p "$state"/{pki,log,run}
pki=$state/pki
server=https://10.200.0.1:6443
# down.sh finds the cluster's processes by this variable, and the pods' by this cgroup.
export SLUICE_CLUSTER=$state
cgroup=sluice-$(cksum <<<"$state" | cut -d' ' -f1)
echo "$cgroup" >"$state/run/cgroup"

main() {
  trap 'tail -n 4 "$state"/log/* >&2' ERR
  namespace node1
  namespace node2
  namespace client
  network
  certificates
  control_plane
  node 1 "$@" &
  local first=$!
  node 2 "$@"
  wait "$first"
  kubectl apply -f "$here/dns.yaml" >/dev/null
}

kubectl() { inside client "$k8s/kubernetes" kubectl --kubeconfig "$state/admin.kubeconfig" "$@"; }

# A namespace lives as long as the process that sleeps in it.
namespace() {
  unshare --net --mount sh -c "echo \$\$ >'$state/run/$1' && exec sleep infinity" &
  until [ -s "$state/run/$1" ]; do sleep 0.05; done
  inside "$1" ip link set lo up
}
inside() { # namespace command...
  local owner
  owner=$(cat "$state/run/$1")
  shift
  nsenter -t "$owner" -m -n "$@"
}
start() { # namespace process command...
  local where=$1 process=$2
  shift 2
  inside "$where" "$@" >"$state/log/$process" 2>&1 &
}
wait_for() { # seconds command...: polls until the command succeeds
  local tries=$(($1 * 10))
  shift
  until "$@" >/dev/null 2>&1; do
    ((tries-- > 0)) || return 1
    sleep 0.1
  done
}

network() {
  inside node1 ip link add nodes type bridge
  inside node1 ip addr add 10.200.0.1/24 dev nodes
  inside node1 ip link set nodes up
  plug node2 10.200.0.2
  plug client 10.200.0.100
  inside client ip addr add 10.200.0.101/24 dev nodes0
  inside node1 ip route add 10.244.2.0/24 via 10.200.0.2
  # kubelet and kube-proxy ask for a default route; this one leads nowhere.
  inside node1 ip route add default via 10.200.0.254
  inside node2 ip route add default via 10.200.0.1
  inside client ip route add 10.201.0.0/24 via 10.200.0.1
  inside client ip route add 10.244.0.0/16 via 10.200.0.1
  local node
  for node in node1 node2; do inside $node sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'; done
}
plug() { # namespace address: a cable from the namespace to the bridge
  inside node1 ip link add "to-$1" type veth peer name nodes0 netns "$(cat "$state/run/$1")"
  inside node1 ip link set "to-$1" master nodes
  inside node1 ip link set "to-$1" up
  inside "$1" ip addr add "$2/24" dev nodes0
  inside "$1" ip link set nodes0 up
}

certificates() {
  openssl req -x509 "${new_key[@]}" -keyout "$pki/ca.key" -out "$pki/ca.crt" -days 30 -subj /CN=ca 2>/dev/null
  certificate apiserver /CN=kube-apiserver \
    "subjectAltName=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:10.200.0.1"
  user admin /O=system:masters/CN=admin
  user controller-manager /CN=system:kube-controller-manager
  user scheduler /CN=system:kube-scheduler
  user kubelet-1 /O=system:nodes/CN=system:node:node1
  user kubelet-2 /O=system:nodes/CN=system:node:node2
  openssl genrsa -out "$pki/accounts.key" 2048 2>/dev/null
  openssl rsa -in "$pki/accounts.key" -pubout -out "$pki/accounts.pub" 2>/dev/null
}
new_key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
certificate() { # name subject extension
  openssl req "${new_key[@]}" -keyout "$pki/$1.key" -out "$pki/$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$pki/$1.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -out "$pki/$1.crt" -days 30 \
    -extfile <(echo "$3") 2>/dev/null
}
user() { # name subject: a client certificate and a kubeconfig with it
  certificate "$1" "$2" extendedKeyUsage=clientAuth
  cat >"$state/$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "$server", certificate-authority: $pki/ca.crt}}]
users: [{name: user, user: {client-certificate: $pki/$1.crt, client-key: $pki/$1.key}}]
contexts: [{name: e2e, context: {cluster: e2e, user: user}}]
current-context: e2e
Y
}

control_plane() {
  local etcd=http://127.0.0.1:2379
  start node1 etcd "$k8s/kubernetes" etcd --data-dir "$state/etcd" --unsafe-no-fsync --log-level error \
    --listen-client-urls $etcd --advertise-client-urls $etcd --listen-peer-urls http://127.0.0.1:2380
  start node1 kube-apiserver "$k8s/kubernetes" kube-apiserver --etcd-servers $etcd --secure-port 6443 \
    --advertise-address 10.200.0.1 --service-cluster-ip-range 10.96.0.0/16 --authorization-mode Node,RBAC --allow-privileged \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
    --kubelet-client-certificate "$pki/admin.crt" --kubelet-client-key "$pki/admin.key" \
    --kubelet-preferred-address-types InternalIP --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$pki/accounts.pub" --service-account-signing-key-file "$pki/accounts.key"
  wait_for 60 kubectl get --raw /readyz
  start node1 kube-controller-manager "$k8s/kubernetes" kube-controller-manager --leader-elect=false \
    --kubeconfig "$state/controller-manager.kubeconfig" --use-service-account-credentials --root-ca-file "$pki/ca.crt" \
    --service-account-private-key-file "$pki/accounts.key"
  start node1 kube-scheduler "$k8s/kubernetes" kube-scheduler --kubeconfig "$state/scheduler.kubeconfig" --leader-elect=false
}

node() { # number images...
  local number=$1 name=node$1 home=$state/node$1 image controller
  shift
  local socket=$state/run/containerd-$number.sock
  mkdir -p "$home/cni"
  cat >"$home/cni/10-pods.conflist" <<Y
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$home/ipam", "ranges": [[{"subnet": "10.244.$number.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
  # restrict_oom_score_adj: without CAP_SYS_RESOURCE, as in many sandboxes, runc cannot lower a score and fails.
  cat >"$home/containerd.toml" <<Y
version = 2
root = "$home/containerd"
state = "$state/run/containerd-$number"
[grpc]
  address = "$socket"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/local/e2e:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$home/cni"
Y
  start $name containerd-$number containerd -c "$home/containerd.toml"
  wait_for 30 ctr -a "$socket" version
  for image in "$@"; do ctr -a "$socket" -n k8s.io images import "$image" >/dev/null; done

  # failCgroupV1: the nodes must start on machines that have nothing else, too.
  cat >"$home/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup/$name
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix://$socket
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: ""
evictionHard: {memory.available: 1Mi, nodefs.available: 1Mi, imagefs.available: 1Mi}
imageGCHighThresholdPercent: 100
maxPods: 200
podLogsDir: $home/pod-logs
Y
  for controller in /sys/fs/cgroup/*/; do mkdir -p "$controller$cgroup/$name"; done
  if [ -d /sys/fs/cgroup/cpuset ]; then # a new cpuset is empty until it is told
    local folder file
    for folder in "$cgroup" "$cgroup/$name"; do
      for file in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$folder/$file"; done
    done
  fi
  start $name kubelet-$number "$k8s/kubernetes" kubelet --config "$home/kubelet.yaml" --kubeconfig "$state/kubelet-$number.kubeconfig" \
    --root-dir "$home/kubelet" --hostname-override $name --node-ip 10.200.0.$number \
    --node-labels topology.kubernetes.io/zone=zone-$number
  # The zeroes keep kube-proxy from writing sysctls, which a sandbox may not allow.
  start $name kube-proxy-$number "$k8s/kubernetes" kube-proxy --kubeconfig "$state/admin.kubeconfig" --proxy-mode nftables \
    --cluster-cidr 10.244.0.0/16 --hostname-override $name --oom-score-adj 0 --conntrack-max-per-core=0 --conntrack-min=0 \
    --conntrack-tcp-timeout-established=0s --conntrack-tcp-timeout-close-wait=0s
  wait_for 60 ready $name
}
ready() {
  kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}' | grep -q True
}

main "$@"
