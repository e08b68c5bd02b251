#!/bin/sh
# Installs torchvision for the torch that is installed. Arguments: PyTorch's index of CPU builds, then
# everything that is wanted so far. Which version fits torch, pip finds; of builds it knows nothing, and
# a CPU torch does not load a torchvision made for CUDA.
set -eu
cpu_index=$1
shift
cd /opt/trtenv/lib/python3*/site-packages
torch=$(ls | sed -n 's/^torch-\(.*\)+cpu\.dist-info$/\1/p')
if [ -n "$torch" ]; then
    planned=$(sh /build/pip.sh --dry-run "$@")
    version=$(echo "$planned" | sed -n 's/^Would install.* torchvision-\([^ +]*\).*/\1/p')
    if [ -n "$version" ]; then
        sh /build/pip.sh --no-deps --retries 0 --timeout 5 --extra-index-url "$cpu_index" \
            "torchvision==$version+cpu" || {
            echo "note: no CPU build of torchvision within reach; installing the default build of" \
                "torch beside it, which is larger"
            # With ===, which no CPU build meets: == would take and prefer it.
            sh /build/pip.sh "torch===$torch" "torchvision===$version" "$@"
        }
    fi
fi
exec sh /build/pip.sh "$@"
