#!/bin/sh
# The Python environment the peers run in: .python/bench, made once. About 4 GB, most of it torch.
set -eu
cd "$(dirname "$0")/../.."
venv=.python/bench
[ -e $venv/ready ] && exit 0
python3 -m venv $venv || { echo "bench: python3 cannot make a virtual environment; install it (Debian: apt install python3-venv)" >&2; exit 1; }
echo "bench: installing the peers into $venv ..."
$venv/bin/pip install --quiet --disable-pip-version-check --only-binary=:all: \
    numpy orjson nanotoken tokenizers transformers datasets mosaicml-streaming datatrove torch==2.11.0
touch $venv/ready
