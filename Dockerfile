# syntax=docker/dockerfile:1
# Lethe in a container: `docker build -t lethe:0.1.0 .`; compose.yaml runs it in parts.
# For builds that can be repeated to the byte, pin the base image by digest besides.

FROM python:3.11.13-slim-bookworm AS build
# Another package index for torch's CPU build; without it PyPI's, which brings CUDA libraries along.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/lethe
WORKDIR /source
COPY requirements.lock ./
RUN /opt/lethe/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" torch==2.13.0 \
 && /opt/lethe/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY memory memory
COPY sources sources
COPY embedding embedding
COPY retrieval retrieval
COPY reader reader
COPY unlearning unlearning
COPY service service
COPY workers workers
COPY api api
COPY migrations migrations
RUN /opt/lethe/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11.13-slim-bookworm
# Numbers rather than names: Kubernetes checks runAsNonRoot by number.
RUN groupadd --gid 10001 lethe \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin lethe \
 && install --directory --owner 10001 --group 10001 --mode 0700 /data /models
COPY --from=build /opt/lethe /opt/lethe
ENV PATH=/opt/lethe/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    LETHE_DATA=/data \
    LETHE_MODELS_CACHE=/models \
    LETHE_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME ["/data", "/models"]
EXPOSE 8700
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8700/healthz', timeout=4)"]
ENTRYPOINT ["lethe"]
CMD ["serve"]
