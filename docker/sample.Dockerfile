# The sample application and the heartbeat of k8s/sample: a shell script on busybox.
FROM docker.io/library/busybox:1.37.0-musl
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="logferry-sample" \
      org.opencontainers.image.description="Writes log lines of every shape that logferry's collector knows, or a heartbeat" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --chmod=0755 k8s/sample/sample /sample
USER 10001:10001
ENTRYPOINT ["/sample"]
