#!/bin/sh
# The Python environment the peers run in: .python/bench, made once. About 4 GB, most of it torch.
set -eu
cd "$(dirname "$0")/../.."
venv=.python/bench
[ -e $venv/ready ] && exit 0
python3 -m venv $venv || { echo "bench: python3 cannot make a virtual environment; install it (Debian: apt install python3-venv)" >&2; exit 1; }
echo "bench: installing the peers into $venv ..."
pip() { $venv/bin/pip "$@" --quiet --disable-pip-version-check --only-binary=:all:; }
torch=torch==2.11.0
# Without the CUDA libraries, where PyTorch's own index can be reached.
pip install --timeout 10 --retries 0 $torch torchvision --index-url https://download.pytorch.org/whl/cpu 2>/dev/null || pip install $torch torchvision
# Versions that go together: left to itself pip tries combinations for an hour.
pip install $torch numpy orjson nanotoken tokenizers==0.22.2 transformers==4.57.6 datasets==5.0.1 datatrove==0.9.0 litdata==0.2.76 mosaicml-streaming==0.13.0
touch $venv/ready
