#!/bin/sh
# The tests of Azure's blob storage against Azurite, Microsoft's own emulator of it: installed once into .node/azurite (190 MB),
# started on a free port, ended with the tests.
set -eu
cd "$(dirname "$0")/../.."
azurite=.node/azurite/node_modules/.bin/azurite-blob
if [ ! -e $azurite ]; then
    command -v npm >/dev/null || { echo "azure: npm is missing; install it (Debian: apt install npm)" >&2; exit 1; }
    echo "azure: installing Azurite into .node/azurite ..."
    mkdir -p .node/azurite
    npm install --silent --no-fund --no-audit --prefix .node/azurite azurite@3.37.0
fi
data=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
key=$(printf 'a key for tests' | base64)
AZURITE_ACCOUNTS="tester:$key" $azurite --blobPort "$port" --location "$data" --skipApiVersionCheck --disableTelemetry --silent &
server=$!
trap 'kill $server; rm -rf "$data"' EXIT
trap 'exit 130' INT TERM

export AZURE_STORAGE_ENDPOINT="http://127.0.0.1:$port/tester" AZURE_ALLOW_HTTP=true
export AZURE_STORAGE_ACCOUNT_NAME=tester AZURE_STORAGE_ACCOUNT_KEY="$key"
python3 tests/azure/container.py corpus
TESSERA_AZURE=az://corpus ${CARGO:-cargo} test --locked --release --workspace --test cli --test e2e azure -- --nocapture
