# The collector's image: Vector with the configuration that k8s/collector deploys. README.md in this folder says how to build the
# image. The user stays Vector's, root: the kubelet's log files belong to root. k8s/collector takes root's capabilities away.

FROM docker.io/timberio/vector:0.59.0-distroless-static
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="logferry-collector" \
      org.opencontainers.image.description="Vector with logferry's configuration: writes a node's logs to the S3 staging bucket" \
      org.opencontainers.image.licenses="MPL-2.0 AND Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY k8s/collector/base/vector.yaml k8s/collector/base/staging.yaml /etc/vector/
# SECRET[values.NAME] in these files is the file NAME in /etc/vector-values, which must be mounted.
CMD ["--config", "/etc/vector/vector.yaml", "--config", "/etc/vector/staging.yaml"]
