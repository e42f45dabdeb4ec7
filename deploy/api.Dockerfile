# Penstock without vLLM: the api, the coordinator, Flower, and workers whose engine is elsewhere (--engine openai) or simulated.
#
#   docker build -f deploy/api.Dockerfile -t penstock-api .
#
# An index or a mirror of your own goes in as a secret, and stays out of the image and its history:
#   docker build --secret id=pip,src=$HOME/.config/pip/pip.conf -f deploy/api.Dockerfile -t penstock-api .
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /opt/penstock
ENV PIP_NO_CACHE_DIR=1
COPY tools/setup_env.py tools/
COPY requirements/image-api.lock requirements/
RUN --mount=type=secret,id=pip PIP_CONFIG_FILE=/run/secrets/pip python tools/setup_env.py --image api

FROM ${PYTHON_IMAGE}
WORKDIR /opt/penstock
RUN useradd --system --uid 10001 --no-create-home --home-dir /var/lib/penstock penstock \
    && install -d -o penstock -g penstock /var/lib/penstock /var/lib/penstock-files
COPY --from=build /opt/penstock/.venv .venv
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
# The root file system may be read-only: what is written goes to the volume, or to /tmp.
ENV PATH=/opt/penstock/.venv/bin:$PATH \
    HOME=/var/lib/penstock \
    PENSTOCK_DATA_DIR=/var/lib/penstock \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Penstock" \
    org.opencontainers.image.description="The api, the coordinator, Flower, and workers without vLLM" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
USER 10001
ENTRYPOINT ["penstock"]
CMD ["api", "--host", "0.0.0.0"]
