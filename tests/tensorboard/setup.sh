#!/bin/sh
# The Python environment that event files and Prometheus text are read in: .python/tensorboard, made once. About 180 MB.
set -eu
cd "$(dirname "$0")/../.."
venv=.python/tensorboard
[ -e $venv/ready ] && exit 0
python3 -m venv $venv || { echo "tensorboard: python3 cannot make a virtual environment; install it (Debian: apt install python3-venv)" >&2; exit 1; }
echo "tensorboard: installing it into $venv ..."
$venv/bin/pip install --quiet --disable-pip-version-check --only-binary=:all: 'tensorboard==2.21.0' 'setuptools<81' 'prometheus-client==0.26.0'
touch $venv/ready
