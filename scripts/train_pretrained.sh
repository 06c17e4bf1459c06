#!/bin/sh
# Train the demo's text-to-image model for some minutes, on whatever device there is, and export the weights.
#
#     scripts/train_pretrained.sh WORK_FOLDER MINUTES [options of train_pretrained.py]
#
# A second call with the same folder continues where the first one stopped. A first call starts from
# pretrained/unfinished if that has weights, and else from init_from in profiles/pretrained.yaml.
# It needs the environment of `make install` and no network.
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 WORK_FOLDER MINUTES [options of train_pretrained.py]" >&2
    exit 2
fi
mkdir -p "$1"
work=$(cd "$1" && pwd)
minutes=$2
shift 2
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD" OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" HF_HUB_OFFLINE=1
python="${PYTHON:-python}"
if [ -f pretrained/unfinished/state.json ]; then
    set -- --from-export pretrained/unfinished "$@"
fi
"$python" scripts/train_pretrained.py --work "$work" --minutes "$minutes" "$@"
"$python" scripts/train_pretrained.py --work "$work" --export "$work/export"
