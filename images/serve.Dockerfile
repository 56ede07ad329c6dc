# hanforge-serve: vLLM, as a server and as the sidecar of augment and evaluate.
# Build from the repository's root: `make images`; `--build-arg ENGINE=cpu` takes vLLM's CPU build. All between BASE and
# `the image` stands word for word in train.Dockerfile too, so that the engine makes those layers once. No syntax line, and
# the secret `ca`: see data.Dockerfile.
ARG BASE=python:3.11-slim

# --- uv and the pins: mounted where they are needed, in no layer of the image ---
FROM ${BASE} AS tools
ARG UV_VERSION=0.13.9
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/uv \
    && PIP_CERT=/etc/ssl/certs/ca-certificates.crt /opt/uv/bin/pip install --quiet uv==${UV_VERSION} \
    && mkdir /tools && cp /opt/uv/bin/uv /tools/uv

# What train and serve pin alike, torch and CUDA first: two layers that a node which has both images keeps once.
FROM ${BASE} AS alike
COPY constraints/train.txt constraints/serve.txt /
RUN mkdir /cuda /common && grep -Fxf /train.txt /serve.txt >/both \
    && grep -E '^(torch|torchvision|triton|nvidia-|cuda-)' /both >/cuda/cuda.txt \
    && grep -vFxf /cuda/cuda.txt /both >/common/common.txt

# The compiler is for Triton and torch.compile, which compile at run time (Python's headers are the base's).
FROM ${BASE} AS shared
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc g++ libc6-dev >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt \
    && groupadd --gid 10001 hanforge \
    && useradd --uid 10001 --gid 10001 --no-log-init --create-home --shell /usr/sbin/nologin hanforge \
    && chmod 1777 /home/hanforge && python3 -m venv --without-pip /opt/hanforge
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt --mount=type=bind,from=alike,source=/cuda,target=/media \
    --mount=type=cache,target=/root/.cache/uv --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt VIRTUAL_ENV=/opt/hanforge UV_LINK_MODE=copy \
    /mnt/uv pip install --quiet --compile-bytecode --no-deps --requirements /media/cuda.txt
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt --mount=type=bind,from=alike,source=/common,target=/media \
    --mount=type=cache,target=/root/.cache/uv --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt VIRTUAL_ENV=/opt/hanforge UV_LINK_MODE=copy \
    /mnt/uv pip install --quiet --compile-bytecode --no-deps --requirements /media/common.txt

# --- hanforge itself, with its optional compiled part; where that does not compile, it installs all the same ---
FROM shared AS wheel
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY jobs jobs
COPY k8s k8s
COPY pipeline pipeline
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt --mount=type=cache,target=/root/.cache/uv \
    --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt /mnt/uv build --quiet --wheel --python python3 --out-dir /wheel .

# --- the image. Mounts stand at /mnt and /media, folders that every base has, so that none is left behind ---
FROM ${BASE} AS pins
ARG ENGINE=gpu
COPY constraints/serve.txt constraints/serve-cpu.txt /
RUN mkdir /pins && case ${ENGINE} in \
    gpu) cp /serve.txt /pins/serve.txt ;; \
    cpu) cp /serve-cpu.txt /pins/serve.txt ;; \
    *) echo "ENGINE=${ENGINE}: gpu or cpu" >&2; exit 2 ;; esac

FROM ${BASE} AS told
COPY --from=wheel /source/pipeline/engine/class_infos.py /told/

FROM shared
# libnuma: vLLM's kernels for the CPU are linked against it.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends libnuma1 >/dev/null \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt --mount=type=bind,from=pins,source=/pins,target=/media \
    --mount=type=cache,target=/root/.cache/uv --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt VIRTUAL_ENV=/opt/hanforge UV_LINK_MODE=copy \
    /mnt/uv pip install --quiet --compile-bytecode --no-deps --requirements /media/serve.txt
# What each new pod's vLLM would find out of a model's class in 20 s (pipeline/engine/class_infos.py).
RUN --mount=type=bind,from=told,source=/told,target=/media \
    mkdir /opt/hanforge/vllm && VLLM_CACHE_ROOT=/opt/hanforge/vllm HOME=/tmp/home /opt/hanforge/bin/python -P /media/class_infos.py >/dev/null \
    && chmod -R a+rX /opt/hanforge/vllm && rm -rf /tmp/*
RUN --mount=type=bind,from=tools,source=/tools,target=/mnt --mount=type=bind,from=wheel,source=/wheel,target=/media \
    export VIRTUAL_ENV=/opt/hanforge UV_LINK_MODE=copy \
    && /mnt/uv pip install --quiet --no-cache --offline --compile-bytecode --no-deps /media/*.whl
# Compiled kernels go under HOME and TMPDIR: in a pod both are emptyDirs.
ENV PATH=/opt/hanforge/bin:$PATH HOME=/home/hanforge USER=hanforge LANG=C.UTF-8 CC=gcc CXX=g++ \
    HANFORGE_VLLM_CACHE=/opt/hanforge/vllm \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1

ARG VERSION=0.1.0
ARG COMMIT=""
ARG CREATED=""
ARG BASE
LABEL org.opencontainers.image.title="hanforge-serve" \
    org.opencontainers.image.description="vLLM as hanforge starts it" \
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
