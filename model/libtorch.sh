#!/bin/sh
# Assembles .libtorch/{include,lib} from the torch wheel, so that plain cargo finds libtorch.
#
#   model/libtorch.sh [DIR]        DIR defaults to .libtorch beside the workspace's Cargo.toml
#
# Without an NVIDIA driver only the CPU half of the wheel is unpacked, plus the two small CUDA libraries
# that libtorch_cpu.so itself names (cudart and cupti): about 550 MB. With a driver, torch and all its
# dependencies are installed as pip lays them out, because libtorch_cuda.so finds cuDNN, cuBLAS and NCCL
# by paths relative to itself. A LIBTORCH that is already set is respected: nothing is done.
set -eu

TORCH=2.11.0        # the version tch 0.24 is written for
CUDA=13.0           # the CUDA release that wheel is built with
PYTHON_TAG=3.12     # any tag torch is published for: nothing of Python itself is used
NEEDED_MB=3500      # wheel, unpacked libraries and pip's scratch copy; with a driver about three times that

die() { printf 'libtorch.sh: %s\n' "$*" >&2; exit 1; }

root=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$root/.libtorch}

if [ -n "${LIBTORCH:-}" ] && [ "$LIBTORCH" != "$root/.libtorch" ]; then
    [ -f "$LIBTORCH/lib/libtorch_cpu.so" ] || die "LIBTORCH is set to $LIBTORCH, which has no lib/libtorch_cpu.so; point it at a libtorch $TORCH or unset it"
    echo "libtorch: using LIBTORCH=$LIBTORCH"
    exit 0
fi

if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null 2>&1; then kind=cuda; else kind=cpu; fi
stamp="torch $TORCH $kind"
if [ "$(cat "$dir/stamp" 2>/dev/null || true)" = "$stamp" ]; then exit 0; fi

[ "$(uname -s)" = Linux ] || die "only Linux is supported, this is $(uname -s)"
machine=$(uname -m)
command -v python3 >/dev/null 2>&1 || die "python3 is missing; install python3 and its pip (Debian: apt install python3-pip)"
python3 -m pip --version >/dev/null 2>&1 || die "python3 has no pip; install it (Debian: apt install python3-pip)"

mkdir -p "$dir"
[ "$kind" = cuda ] && NEEDED_MB=$((NEEDED_MB * 3))
free_mb=$(df -Pm "$dir" | awk 'NR == 2 { print $4 }')
[ "$free_mb" -ge "$NEEDED_MB" ] || die "$dir has $free_mb MB free, $NEEDED_MB MB are needed; free some space or set LIBTORCH to an unpacked libtorch $TORCH"

# Everything happens in a scratch folder beside the target and is renamed at the end: an interrupted run leaves no half.
work=$dir/work
rm -rf "$work" "$dir/stamp"
mkdir -p "$work"

if [ "$kind" = cpu ]; then
    echo "libtorch: fetching the torch $TORCH wheel (530 MB) ..."
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
        --python-version "$PYTHON_TAG" --platform "manylinux_2_28_$machine" --platform "manylinux_2_25_$machine" \
        --platform "manylinux2014_$machine" --platform "manylinux_2_17_$machine" \
        --dest "$work" "torch==$TORCH" "nvidia-cuda-runtime==$CUDA.*" "nvidia-cuda-cupti==$CUDA.*" ||
        die "pip could not fetch torch $TORCH for $machine; check the network and pip's index, then run this again"
    echo "libtorch: unpacking ..."
    python3 - "$work" <<'PY'
import pathlib, shutil, sys, zipfile

work = pathlib.Path(sys.argv[1])
libraries = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libshm.so", "libtorch_global_deps.so"}
(work / "lib").mkdir()
for wheel in sorted(work.glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            path = pathlib.PurePosixPath(member)
            if member.startswith("torch/include/"):
                target = work / "include" / path.relative_to("torch/include")
            elif member.startswith("torch/lib/") and path.name in libraries:
                target = work / "lib" / path.name
            elif path.name.startswith(("libcudart.so", "libcupti.so")):
                target = work / "lib" / path.name
            else:
                continue
            if member.endswith("/"):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
    wheel.unlink()
PY
    # torch-sys asks for -ltorch; the real libtorch.so would drag libtorch_cuda.so in.
    ln -s libtorch_cpu.so "$work/lib/libtorch.so"
else
    echo "libtorch: an NVIDIA driver is here; installing torch $TORCH with its CUDA libraries (3 GB) ..."
    python3 -m pip install --quiet --disable-pip-version-check --target "$work/python" "torch==$TORCH" ||
        die "pip could not install torch $TORCH; check the network and pip's index, then run this again"
    ln -s python/torch/include "$work/include"
    ln -s python/torch/lib "$work/lib"
    rm -rf "$dir/python"
    mv "$work/python" "$dir/python"
fi

rm -rf "$dir/include" "$dir/lib"
mv "$work/include" "$work/lib" "$dir/"
rm -rf "$work"
echo "$stamp" >"$dir/stamp"
echo "libtorch: $stamp is in $dir"
