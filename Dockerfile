# The one image: both executables, static, and nothing else.
# usage: docker build .                                    builds them in the image of Rust
#        docker build --build-context binaries=DIR .       takes the ones in DIR

FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN target=$(uname -m)-unknown-linux-gnu \
 && RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target "$target" \
      --package sluice-controller --package sluice-dataplane \
 && mkdir /binaries && cp "target/$target/release/sluice" "target/$target/release/sluice-dataplane" /binaries

FROM scratch AS binaries
COPY --from=build /binaries/ /

FROM scratch AS runtime
COPY --from=binaries sluice sluice-dataplane /
USER 65532:65532
ENTRYPOINT ["/sluice"]
