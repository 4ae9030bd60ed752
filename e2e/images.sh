# Makes OCI archives of images that hold only what is given, without a daemon or a registry. To be sourced; the caller has a
# folder $work that it removes.

# image ARCHIVE REFERENCE DOCKERFILE TARGET FILES...: the stage TARGET takes the files from the build context `binaries`
image() {
  local archive=$work/$1.tar reference=$2 dockerfile=$3 target=$4
  local buildah=(buildah --storage-driver vfs --root "$work/storage" --runroot "$work/storage-run")
  mkdir "$work/$1"
  cp "${@:5}" "$work/$1"
  "${buildah[@]}" bud --quiet --isolation chroot --target "$target" --build-context binaries="$work/$1" \
    --tag "$reference" --file "$dockerfile" "$work/$1" >/dev/null
  "${buildah[@]}" push --quiet "$reference" "oci-archive:$archive:$reference" >/dev/null
}
