#!/usr/bin/env bash
# The Gateway API's conformance suite, unchanged, on a real cluster with Sluice. The exit code is the suite's.
# usage: conformance.sh [--keep] [FLAG...]
#   --keep    leave the cluster running afterwards, and start with the one that an earlier --keep left: what changed is built,
#             loaded and restarted. `make conformance-down` stops it.
#   FLAG      flags of the suite: -conformance-profiles=GATEWAY-HTTP, -run-test=NAME, -debug, …
# RELEASE=FOLDER takes the programs from there instead of building them. CHANNEL=standard takes the CRDs of the standard
# channel; the default is experimental. Reports and the suite's log go to
# ${CONFORMANCE_REPORTS:-$CARGO_TARGET_DIR/conformance}, the cluster's folder is
# ${SLUICE_E2E_STATE:-/var/tmp/sluice-conformance}.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
k8s=${SLUICE_CACHE:-$HOME/.cache/sluice}/k8s
state=${SLUICE_E2E_STATE:-/var/tmp/sluice-conformance}
channel=${CHANNEL:-experimental}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${SLUICE_CACHE:-$HOME/.cache/sluice}/target}
reports=${CONFORMANCE_REPORTS:-$CARGO_TARGET_DIR/conformance}
system=sluice-system
keep=
if [ "${1:-}" = --keep ]; then keep=1 && shift; fi

main() {
  "$here/cluster/build.sh" conformance
  cd "$root"
  release=${RELEASE:-$("$here/release.sh" cluster)}
  cargo build --locked --quiet -p sluice-e2e --bin balancer
  work=$(mktemp -d)
  trap finish EXIT
  . "$here/images.sh"
  # A new build is a new tag, so that a kept cluster rolls everything, the data planes of Gateways too.
  tag=$(cat "$release/sluice" "$release/sluice-dataplane" | sha256sum | cut -c1-12)
  image sluice "docker.io/local/sluice:$tag" Dockerfile runtime "$release/sluice" "$release/sluice-dataplane"
  if [ -n "$keep" ] && running; then
    if [ "$(cat "$state/channel")" != "$channel" ]; then
      echo "the kept cluster has the CRDs of the $(cat "$state/channel") channel; make conformance-down removes it" >&2
      exit 2
    fi
    load "$work/sluice.tar"
  else
    up
  fi
  install
  suite "$@"
}
finish() {
  rm -rf "$work"
  [ -n "$keep" ] || "$here/cluster/down.sh" "$state"
}

outside() { nsenter -t "$(cat "$state/run/client")" -n "$@"; } # as clients of the cluster are
kubectl() { outside "$k8s/kubernetes" kubectl --kubeconfig "$state/admin.kubeconfig" "$@"; }
running() { [ -e "$state/channel" ] && kubectl get --raw /readyz >/dev/null 2>&1; }
load() { # archives...
  local archive socket
  for socket in "$state"/run/containerd-*.sock; do
    for archive in "$@"; do ctr -a "$socket" -n k8s.io images import "$archive" >/dev/null; done
  done
}

up() {
  local published=registry.k8s.io/gateway-api/echo-basic tag socket
  image e2e docker.io/local/e2e:1 e2e/Dockerfile runtime "$release/echo" "$k8s/coredns"
  image echo-basic $published:v1.5.1 e2e/conformance/Dockerfile echo-basic "$k8s/echo-basic"
  image coredns registry.k8s.io/coredns/coredns:v1.12.2 e2e/conformance/Dockerfile coredns "$k8s/coredns"
  "$here/cluster/up.sh" "$state" "$work"/{sluice,e2e,echo-basic,coredns}.tar
  for socket in "$state"/run/containerd-*.sock; do
    for tag in v1.6.0-dev.2 v1.6.0-dev.3; do
      ctr -a "$socket" -n k8s.io images tag $published:v1.5.1 $published:$tag >/dev/null
    done
  done
  # down.sh finds it by this variable.
  SLUICE_CLUSTER=$state outside "$CARGO_TARGET_DIR/debug/balancer" "$state/admin.kubeconfig" >"$state/log/balancer" 2>&1 &
  echo "$channel" >"$state/channel"
}

# Dozens of Gateways run at a time: what each pod requests has to fit into two small nodes.
install() {
  local crds=$k8s/gateway-api
  [ "$channel" = standard ] || crds=$crds-$channel
  kubectl apply --server-side --force-conflicts -f "$crds" -f "$root/crds/yaml" >/dev/null
  kubectl wait --for=condition=Established crd --all --timeout=60s >/dev/null
  kubectl -n kube-system rollout status deployment/coredns --timeout=60s >/dev/null
  kubectl apply -f - >/dev/null <<Y
apiVersion: v1
kind: Namespace
metadata: {name: $system, labels: {pod-security.kubernetes.io/enforce: restricted}}
Y
  KUBECONFIG=$state/admin.kubeconfig outside "$k8s/helm" upgrade --install sluice "$root/helm/sluice" --namespace $system \
    --set-string "image.repository=docker.io/local/sluice,image.tag=$tag,image.pullPolicy=Never" --wait --timeout=120s \
    --set controller.gatewayClassResource.parameters.resources.requests.cpu=10m \
    2> >(grep -v 'found symbolic link' >&2) >/dev/null # the chart's crds are one, on purpose
  kubectl wait --for=condition=Accepted gatewayclass/sluice --timeout=60s >/dev/null
}

suite() { # flags...
  local log=$reports/suite.log
  mkdir -p "$reports"
  rm -f "$reports"/*.yaml
  case " $* " in
    *run-test=*) [ -z "$keep" ] || set -- -cleanup-base-resources=false "$@" ;; # the next one starts faster
    *) clear_namespaces ;;
  esac
  local code=0
  GATEWAY_API_DOCS=$root/docs/gateway-api.md SLUICE_VERSION=$(sed -n 's/^version: //p' "$root/helm/sluice/Chart.yaml") KUBECONFIG=$state/admin.kubeconfig \
    outside "$k8s/conformance" -test.v -test.timeout=90m -gateway-class=sluice \
    -usable-address=10.201.0.250 -unusable-address=192.0.2.1 -report-output="$reports/report.yaml" "$@" \
    >"$log" || code=$?
  [ $code = 0 ] || sed -n '/Error Trace:/,/Test:/p' "$log" | head -n 40 >&2
  echo "the suite's log and its reports: $reports"
  return $code
}

# What an earlier run on a kept cluster left; pods need not finish their connections. Kubernetes looks again after half of their
# grace period.
clear_namespaces() {
  local namespace
  for namespace in gateway-conformance-{infra,app-backend,web-backend}; do
    kubectl delete namespace --ignore-not-found --wait=false $namespace >/dev/null
    kubectl -n $namespace delete pods --all --force --grace-period=0 >/dev/null 2>&1
    kubectl wait --for=delete namespace/$namespace --timeout=300s >/dev/null
  done
}

main "$@"
