# docker build -t thorax .                                        with Vulkan; add --build-arg FEATURES=--no-default-features for a
#                                                                 CPU-only server that builds in a fraction of the time
# docker run -p 8080:8080 -v thorax:/data -e THORAX_ADMIN_KEY=... thorax
FROM rust:1.95-bookworm AS build
ARG FEATURES=""
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked $FEATURES && cp target/release/thorax /thorax

FROM debian:bookworm-slim
# libvulkan1 finds a GPU's driver where the container is given one; curl is for the health check.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl libvulkan1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /data thorax \
    && install --directory --owner=thorax --group=thorax /data
COPY --from=build /thorax /usr/local/bin/thorax
USER thorax
WORKDIR /data
# A container is reached from outside, so thorax refuses to start here without THORAX_ADMIN_KEY.
ENV THORAX_LISTEN=0.0.0.0:8080 THORAX_DATA_DIR=/data
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD curl --silent --fail --output /dev/null http://127.0.0.1:8080/health/live
ENTRYPOINT ["thorax"]
