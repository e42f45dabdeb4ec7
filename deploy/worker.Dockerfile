# A worker with vLLM. FLAVOUR is gpu (NVIDIA; CUDA comes with the packages, the driver with the machine) or cpu.
#
#   docker build -f deploy/worker.Dockerfile --build-arg FLAVOUR=cpu -t penstock-worker:cpu .
#
# An index or a mirror of your own goes in as a secret: see api.Dockerfile.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG FLAVOUR=gpu
WORKDIR /opt/penstock
ENV PIP_NO_CACHE_DIR=1
# libnuma: vLLM's CPU build is linked to it. Its version is that of the base image's release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/*
COPY tools/setup_env.py tools/
COPY requirements/image-worker-${FLAVOUR}.lock requirements/
RUN --mount=type=secret,id=pip PIP_CONFIG_FILE=/run/secrets/pip python tools/setup_env.py --image worker-${FLAVOUR}

FROM ${PYTHON_IMAGE}
WORKDIR /opt/penstock
# g++: torch.compile and Triton build kernels of real models with it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --home-dir /var/lib/penstock penstock \
    && install -d -o penstock -g penstock /var/lib/penstock /var/lib/penstock-files
COPY --from=build /opt/penstock/.venv .venv
# The api and the coordinator too: every process knows every setting, so that it can refuse a name that is none.
COPY api api
COPY broker broker
COPY coordinator coordinator
COPY storage storage
COPY jobs jobs
COPY monitoring monitoring
COPY penstock penstock
COPY workers workers
# The root file system may be read-only, so Python could not keep byte code later.
RUN .venv/bin/python -m compileall -q --invalidation-mode unchecked-hash api broker coordinator jobs monitoring penstock storage workers
# The root file system may be read-only: models and compiled kernels go to the volume, the rest to /tmp.
ENV PATH=/opt/penstock/.venv/bin:$PATH \
    HF_HOME=/var/lib/penstock/huggingface \
    HOME=/var/lib/penstock \
    PENSTOCK_DATA_DIR=/var/lib/penstock \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VLLM_NO_USAGE_STATS=1
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Penstock worker" \
    org.opencontainers.image.description="A worker with vLLM" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
USER 10001
VOLUME /var/lib/penstock
ENTRYPOINT ["penstock"]
CMD ["worker", "run"]
