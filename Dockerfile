# One image for all services: `docker build -t riacho .` in the repository's directory, with BuildKit.
#
# The command says which service a container is: `docker run riacho indexer`; compose/ has all of them together.
# Where images come from a registry of one's own, name them with --build-arg.

ARG RUST_IMAGE=rust:1.95.0-slim-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim
# Where the binary comes from: `compiled` here, or `prebuilt`, that is target/release/riacho of `make build`,
# which has to be from a Debian 12 or older (glibc 2.36).
ARG BINARY=compiled

# --- the binary --------------------------------------------------------------------------------------------------

FROM ${RUST_IMAGE} AS tools
# chef compiles dependencies apart from the sources; auditable writes into the binary what it is made of, for the SBOM.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --locked cargo-chef@0.1.78 cargo-auditable@0.7.7
WORKDIR /src

FROM tools AS sources
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY crates crates
COPY proto proto
COPY schemas schemas
COPY services services
COPY docs/examples docs/examples

FROM sources AS plan
RUN cargo chef prepare --recipe-path /plan.json

FROM tools AS dependencies
COPY --from=plan /plan.json /plan.json
# This layer is made anew when Cargo.lock or a manifest changes, and not when a source does.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo chef cook --release --locked --package riacho --recipe-path /plan.json

FROM dependencies AS compiling
COPY --from=sources /src /src
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo auditable build --release --locked --package riacho

FROM scratch AS compiled
COPY --from=compiling /src/target/release/riacho /riacho

FROM scratch AS prebuilt
COPY target/release/riacho /riacho

FROM ${BINARY} AS binary

# --- pdfium and the model ----------------------------------------------------------------------------------------

FROM ${DEBIAN_IMAGE} AS files
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq && apt-get install -y -qq --no-install-recommends ca-certificates python3 python3-pip
COPY crates/local/setup /src/crates/local/setup
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 /src/crates/local/setup/setup.py image --into /files

# --- what runs ---------------------------------------------------------------------------------------------------

FROM ${DEBIAN_IMAGE} AS image
# libtesseract and its data read pictures and scanned pages.
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked --mount=type=cache,target=/var/lib/apt/lists,sharing=locked \
    apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends ca-certificates libtesseract5 tesseract-ocr-eng tesseract-ocr-por \
    && rm -rf /var/log/* /var/cache/debconf/* \
    && groupadd --gid 10001 riacho \
    && useradd --uid 10001 --gid riacho --home-dir /var/lib/riacho --no-create-home --shell /usr/sbin/nologin riacho \
    && install -d -o riacho -g riacho -m 0750 /var/lib/riacho /var/lib/riacho/objects
COPY --from=files /files/pdfium /usr/local/lib/riacho/pdfium
COPY --from=files /files/models /usr/local/lib/riacho/models
COPY --from=binary /riacho /usr/local/bin/riacho
# Every service answers health checks and Prometheus on port 8001; the gateway's interface is on 8000.
ENV RIACHO_RUNTIME_DIR=/usr/local/lib/riacho \
    RIACHO__OBJECTS__DIRECTORY=/var/lib/riacho/objects \
    RIACHO__HTTP__LISTEN=0.0.0.0:8000 \
    RIACHO__HTTP__OPS_LISTEN=0.0.0.0:8001
USER 10001:10001
WORKDIR /var/lib/riacho
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 CMD ["riacho", "health"]
ENTRYPOINT ["riacho"]
CMD ["--help"]
