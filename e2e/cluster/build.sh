#!/usr/bin/env bash
# Builds what the cluster runs from Go modules: kubernetes (with kubectl), coredns, helm, and the Gateway API's CRDs, the
# standard ones and the experimental ones. usage: build.sh [conformance]
#   conformance   also the Gateway API's conformance suite and its echo backend
# Results stay in ${SLUICE_CACHE:-~/.cache/sluice}/k8s for all checkouts; what is there in the wanted version stays.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${SLUICE_CACHE:-$HOME/.cache/sluice}/k8s
helm=v3.22.0 gateway_api=v1.6.3
mkdir -p "$cache"

# once FILE VERSION COMMAND...: runs the command, which makes FILE, unless this version of it is there.
once() {
  local file=$cache/$1 version=$2
  shift 2
  if [ -e "$file" ] && [ "$(cat "$file.version" 2>/dev/null)" = "$version" ]; then return; fi
  echo "building $file $version" >&2
  "$@"
  echo "$version" >"$file.version"
}

version_of() { # program module: the module's version and a hash of what the program is made of
  (cd "$here/$1" && echo "$(go list -m -f '{{.Version}}' "$2")-$(cat main.go go.sum | sha256sum | cut -c1-8)")
}
make_kubernetes() {
  local version package=k8s.io/component-base/version
  version=$(cd "$here/kubernetes" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
  (cd "$here/kubernetes" && go build -o "$cache/kubernetes" -ldflags "-s -w -X $package.gitVersion=$version \
    -X $package.gitMajor=$(cut -d. -f1 <<<"${version#v}") -X $package.gitMinor=$(cut -d. -f2 <<<"$version")" .)
}
make_coredns() { # static, because it runs in an image that holds nothing else
  (cd "$here/coredns" && CGO_ENABLED=0 go build -o "$cache/coredns" -ldflags '-s -w' .)
}
make_helm() {
  (cd / && GOBIN=$cache go install -ldflags '-s -w' "helm.sh/helm/v3/cmd/helm@$helm")
}
copy_crds() { # channel folder
  local source folder=$cache/$2
  source=$(cd / && go mod download -json "sigs.k8s.io/gateway-api@$gateway_api" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  rm -rf "$folder"
  mkdir "$folder"
  cp --no-preserve=mode "$source/config/crd/$1"/gateway.networking*.yaml "$folder"
  rm "$folder/gateway.networking.k8s.io_vap_safeupgrades.yaml" # a policy, no CRD
}
make_conformance() {
  (cd "$here/../conformance" && go test -c -o "$cache/conformance" .)
}
make_echo_basic() { # static, as coredns
  (cd "$here/../conformance" && CGO_ENABLED=0 go build -o "$cache/echo-basic" -ldflags '-s -w' \
    sigs.k8s.io/gateway-api/conformance/echo-basic)
}

once kubernetes "$(version_of kubernetes k8s.io/kubernetes)" make_kubernetes
once coredns "$(version_of coredns github.com/coredns/coredns)" make_coredns
once helm "$helm" make_helm
once gateway-api "$gateway_api" copy_crds standard gateway-api
once gateway-api-experimental "$gateway_api" copy_crds experimental gateway-api-experimental
if [ "${1:-}" = conformance ]; then
  sources=$(cd "$here/../conformance" && cat ./*_test.go go.sum | sha256sum | cut -c1-8)
  once conformance "$gateway_api-$sources" make_conformance
  once echo-basic "$gateway_api-$sources" make_echo_basic
fi
