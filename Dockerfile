# syntax=docker/dockerfile:1

# Stage one builds, stage two runs: compilers, pip and the sources are not in the image.
FROM python:3.13-slim-trixie AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /src

# Before the sources are copied, so that a code change does not reinstall the dependencies.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/ollama-gateway \
    && pip --python /opt/ollama-gateway/bin/python install --require-hashes -r requirements.lock \
    && pip install --require-hashes -r requirements-build.lock

COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY gateway gateway
RUN pip wheel --no-deps --no-build-isolation -w /wheels . \
    && pip --python /opt/ollama-gateway/bin/python install --no-deps --no-index /wheels/*.whl


FROM python:3.13-slim-trixie

LABEL org.opencontainers.image.title="ollama-gateway" \
      org.opencontainers.image.description="Gateway in front of Ollama: authentication, fair queueing, deadlines, and reliable stream termination through any tunnel." \
      org.opencontainers.image.licenses="MIT"

# Numeric ids, so that a container engine can verify that the user is not root.
RUN groupadd --system --gid 10001 gateway \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /config \
               --shell /usr/sbin/nologin gateway \
    && install -d -o 10001 -g 10001 -m 0700 /config

COPY --from=build /opt/ollama-gateway /opt/ollama-gateway

# The public listener binds to all addresses of the container; the engine decides which host port
# leads to it. The admin listener stays on 127.0.0.1, where only the health check reaches it.
ENV PATH=/opt/ollama-gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_CONFIG_HOME=/config \
    GATEWAY_LISTEN__PUBLIC=0.0.0.0:11435 \
    GATEWAY_LISTEN__ADMIN=127.0.0.1:11436

# Config and keys are in /config/ollama-gateway. Mount the folder, not a file: files are replaced
# when they change.
VOLUME ["/config"]
WORKDIR /config
EXPOSE 11435
STOPSIGNAL SIGTERM
USER 10001:10001

# Healthy means that the gateway runs, even if Ollama is down. http.client is used because urllib
# would use a proxy from the environment.
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-I", "-c", "import os, http.client; at = http.client.HTTPConnection('127.0.0.1', int(os.environ['GATEWAY_LISTEN__ADMIN'].rpartition(':')[2]), timeout=4); at.request('GET', '/healthz'); raise SystemExit(at.getresponse().status != 200)"]

ENTRYPOINT ["ollama-gateway"]
CMD ["serve"]
