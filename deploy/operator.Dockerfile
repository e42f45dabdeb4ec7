# The operator for Kubernetes: makes resources of the kind ModelPool pools of workers. docs/operate/operator.md
#
#   docker build -f deploy/operator.Dockerfile -t penstock-operator .
#
# An index or a mirror of your own goes in as a secret: see api.Dockerfile.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /opt/penstock
ENV PIP_NO_CACHE_DIR=1
COPY tools/setup_env.py tools/
COPY requirements/image-operator.lock requirements/
RUN --mount=type=secret,id=pip PIP_CONFIG_FILE=/run/secrets/pip python tools/setup_env.py --image operator

FROM ${PYTHON_IMAGE}
WORKDIR /opt/penstock
RUN useradd --system --uid 10001 --no-create-home --home-dir /tmp penstock
COPY --from=build /opt/penstock/.venv .venv
COPY deploy/operator deploy/operator
COPY penstock penstock
# The root file system may be read-only, so Python could not keep byte code later.
RUN .venv/bin/python -m compileall -q --invalidation-mode unchecked-hash deploy/operator penstock
ENV PATH=/opt/penstock/.venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Penstock operator" \
    org.opencontainers.image.description="Makes ModelPools of Kubernetes pools of workers" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"
USER 10001
ENTRYPOINT ["python", "-m", "deploy.operator"]
