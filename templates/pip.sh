#!/bin/sh
# pip with what the host handed in: its CA bundle, its indexes, its wheels. Nothing of it is set in,
# or copied to, the final image.
if [ -s /build/ca.crt ]; then
    export PIP_CERT=/build/ca.crt SSL_CERT_FILE=/build/ca.crt
fi
export PIP_CONFIG_FILE=/build/pip.conf PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# From its wheel: a bare Debian has no ensurepip, and the final image needs no pip.
exec /opt/trtenv/bin/python /build/pip.whl/pip install --no-cache-dir --progress-bar off \
    --find-links /build/wheels "$@"
