# hanforge-data: prepare, augment's and evaluate's client, validate, promote, and the chain's driver. No torch, no compiler.
# Build from the repository's root: `make images`, or `docker build -f images/data.Dockerfile -t hanforge-data .`
# No syntax line above: the engine's own BuildKit reads this file, so nothing is pulled but BASE. A machine whose registries
# sit behind a certificate of its own passes `--secret id=ca,src=BUNDLE`; the bundle is mounted, never copied.
ARG BASE=python:3.11-slim

# --- uv: mounted where it is needed, in no layer of the image ---
FROM ${BASE} AS tools
ARG UV_VERSION=0.13.9
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/uv \
    && PIP_CERT=/etc/ssl/certs/ca-certificates.crt /opt/uv/bin/pip install --quiet uv==${UV_VERSION} \
    && mkdir /tools && cp /opt/uv/bin/uv /tools/uv

FROM ${BASE} AS compiler
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt

# --- hanforge itself, with its optional compiled part; where that does not compile, it installs all the same ---
FROM compiler AS wheel
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY jobs jobs
COPY k8s k8s
COPY pipeline pipeline
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt /mnt/uv build --quiet --wheel --python python3 --out-dir /wheel .

# --- the environment: what data.txt pins and nothing else, trimmed ---
FROM compiler AS environment
COPY constraints/data.txt images/trim.py /pins/
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv --without-pip /opt/hanforge \
    && SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt VIRTUAL_ENV=/opt/hanforge UV_LINK_MODE=copy \
    /mnt/uv pip install --quiet --no-deps --requirements /pins/data.txt \
    && /opt/hanforge/bin/python -B /pins/trim.py /opt/hanforge

# --- the image. Mounts stand at /mnt and /media, folders that every base has, so that none is left behind ---
FROM ${BASE}
RUN groupadd --gid 10001 hanforge \
    && useradd --uid 10001 --gid 10001 --no-log-init --create-home --shell /usr/sbin/nologin hanforge \
    && chmod 1777 /home/hanforge
COPY --from=environment /opt/hanforge /opt/hanforge
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt --mount=type=bind,from=wheel,source=/wheel,target=/media \
    export VIRTUAL_ENV=/opt/hanforge UV_LINK_MODE=copy \
    && /mnt/uv pip install --quiet --no-cache --offline --compile-bytecode --no-deps /media/*.whl \
    && /mnt/uv pip check --quiet --no-cache
ENV PATH=/opt/hanforge/bin:$PATH HOME=/home/hanforge USER=hanforge LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1

ARG VERSION=0.1.0
ARG COMMIT=""
ARG CREATED=""
ARG BASE
LABEL org.opencontainers.image.title="hanforge-data" \
    org.opencontainers.image.description="hanforge's command line, driver and data stages" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${COMMIT}" \
    org.opencontainers.image.created="${CREATED}" \
    org.opencontainers.image.base.name="${BASE}"
ENV HANFORGE_COMMIT=${COMMIT}
USER 10001:10001
WORKDIR /home/hanforge
# Exec form: Python is process 1 and gets SIGTERM itself.
ENTRYPOINT ["hanforge"]
CMD ["--help"]
