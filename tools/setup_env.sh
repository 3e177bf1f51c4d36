#!/usr/bin/env bash
# Makes .venv (or .venv-upstream) with all that the demo and the tests need. Does nothing when it is up to date, and
# goes on where an interrupted run stopped. Called by make; by hand: tools/setup_env.sh [maintained|upstream] [1].
# The 1 is LIGHT: .venv-light without mmdet, mmseg and the ops of mmcv, for all but detection and segmentation.
#   PYTHON=/path/to/python3.11   the Python to make the environment with
#   FORCE_CUDA=1                 compile mmcv's GPU ops on a machine that has nvcc but no GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "setup: $1" >&2
    exit 1
}

case ${1:-maintained} in
    maintained) venv=.venv packages=requirements/mminstall.txt ;;
    upstream) venv=.venv-upstream packages=requirements/upstream.txt ;;
    *) fail "unknown STACK '$1': give maintained or upstream." ;;
esac
light=${2:-} mmcv_title="mmcv, compiling its ops (about 11 min on 2 cores)" minutes_all=16 needed_gb=12
case $light in
    '') ;;
    1) venv=$venv-light mmcv_title="mmcv without its ops (about 15 s)" minutes_all=3 needed_gb=10 ;;
    *) fail "unknown LIGHT '$light': give 1, or leave it out." ;;
esac
py=$venv/bin/python log=$venv/setup.log stamp=$venv/setup.stamp
version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo none; }
if [ -x "$py" ] && [ -n "${PYTHON:-}" ] && [ "$(version "$py")" != "$(version "$PYTHON")" ]; then
    fail "$venv is made with Python $(version "$py") already; remove it to use PYTHON=$PYTHON."
fi
key=$({ pwd && cat requirements/{torch,runtime,test}.txt "$packages" tools/setup_env.sh; } | cksum)
if [ -x "$py" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]; then exit 0; fi
rm -f "$stamp"

# ---- what has to be there before anything is installed
supported() { case $(version "$1") in 3.10 | 3.11 | 3.12) ;; *) false ;; esac }
if [ -x "$py" ]; then # whole, half done, or made by hand with another torch
    base=$py
    supported "$py" || fail "$venv was not made with Python 3.10, 3.11 or 3.12; remove $venv and try again."
elif [ -n "${PYTHON:-}" ]; then
    base=$PYTHON
    supported "$PYTHON" || fail "Python 3.10, 3.11 or 3.12 is needed, and PYTHON=$PYTHON is none of them."
else
    for base in python3 python3.12 python3.11 python3.10 ''; do
        if [ -n "$base" ] && supported "$base"; then break; fi
    done
    [ -n "$base" ] || fail "Python 3.10, 3.11 or 3.12 is needed, and none is on PATH; PYTHON=/path/to/python names one."
fi
"$base" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "the Python module venv is missing; on Debian and Ubuntu, install python3-venv."
[ "$light" ] || "$base" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    fail "Python's headers (Python.h) are missing; on Debian and Ubuntu, install python3-dev."
[ "$light" ] || command -v "${CXX:-c++}" >/dev/null ||
    fail "a C++ compiler (${CXX:-c++}) is needed to build mmcv's ops; on Debian and Ubuntu, install build-essential."
if [ ! -x "$py" ]; then
    [ ! -e "$venv/pyvenv.cfg" ] || fail "the Python that $venv was made with is gone; remove $venv and try again."
    free_gb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free_gb" -ge "$needed_gb" ] ||
        fail "$needed_gb GB of free disk are needed for $venv, and $PWD has $free_gb GB."
fi

# ---- steps: the output goes to the log, the terminal gets one line a step
steps=0
minutes() { echo "$(($1 / 60)) min $(($1 % 60)) s"; }
tick() { # until the pipe closes, once a minute: how many files ninja has compiled, or a dot
    while read -rt 60 || [ $? -gt 128 ]; do
        printf '%s ' "$(tail -n 30 "$log" | grep -oE '^ *\[[0-9]+/[0-9]+\]' | tail -n 1 | tr -d ' []' | grep . || echo .)"
    done
}
step() { # step TITLE COMMAND...
    local title=$1 start=$SECONDS
    shift && steps=$((steps + 1))
    printf '[%d/5] %s ... ' "$steps" "$title"
    if ! { "$@" >>"$log" 2>&1 </dev/null; } | tick; then
        printf 'failed\n\n' && tail -n 25 "$log" >&2
        fail "step $steps failed; above is the end of $log, and the next run goes on from here."
    fi
    minutes $((SECONDS - start))
}
pip() { "$py" -m pip --disable-pip-version-check "$@"; }
install() { pip install -c "$packages" -c requirements/test.txt "$@"; }

new_env() {
    { [ -x "$py" ] || "$base" -m venv "$venv"; } &&
        { pip --version || "$py" -m ensurepip; } && # an interrupted venv has no pip
        install setuptools wheel ninja packaging psutil
}
opencv() { # the headless one last: it needs no libGL
    install opencv-python opencv-python-headless &&
        { "$py" -c 'import cv2; assert "QT" not in cv2.getBuildInformation()' ||
            install --force-reinstall --no-deps opencv-python-headless; }
}
ops_work() { # on the GPU too, where a GPU and nvcc are in sight
    "$py" - <<'END'
import os
import torch
from mmcv.ops import get_compiling_cuda_version
from torch.utils.cpp_extension import CUDA_HOME
gpu = os.getenv("FORCE_CUDA") == "1" or (torch.cuda.is_available() and CUDA_HOME)
assert not gpu or get_compiling_cuda_version() != "not available", "these ops are for the CPU alone"
END
}
mmcv() { # pip's cache may hold a wheel without ops, or one built for another torch: then build again
    local spec
    spec=$(grep -E '^(onedl-)?mmcv==' "$packages")
    if [ "$light" ]; then # built where it sees no torch, it has no ops, as a wheel in pip's cache may; upstream's is mmcv-lite
        opencv && install --no-cache-dir "${spec/#mmcv==/mmcv-lite==}"
        return
    fi
    # mmcv's setup.py fails where it sees a GPU but no nvcc
    "$py" -c 'from torch.utils.cpp_extension import CUDA_HOME as c; assert c' 2>/dev/null || export CUDA_VISIBLE_DEVICES=
    export MMCV_WITH_OPS=1 CFLAGS="${CFLAGS:-} -g0" # without debug information it compiles twice as fast
    opencv && install -v --no-build-isolation "$spec" || return 1
    ops_work || { install -v --no-build-isolation --no-cache-dir --force-reinstall --no-deps "$spec" && ops_work; }
}
others() {
    if [ "$light" ]; then
        # shellcheck disable=SC2046 # two words are meant
        install $(grep -E '^(onedl-)?mm(engine|pretrain)==' "$packages") -r requirements/runtime.txt -r requirements/test.txt
    else
        install -r "$packages" -r requirements/runtime.txt -r requirements/test.txt
    fi
}
mirl() {
    install --no-build-isolation --no-deps -e . &&
        "$py" -c "import cv2, mmcv, mmengine, mmpretrain, torchvision" &&
        { [ "$light" ] || "$py" -c 'import mmcv.ops, mmdet, mmseg'; }
}

if [ -x "$py" ]; then
    echo "Bringing $venv up to date; what it has already is kept. pip's output goes to $log"
else
    mkdir -p "$venv"
    echo "Setting up $venv, once: about $minutes_all min on 2 cores. pip's output goes to $log"
fi
: >"$log"
step "Python environment and build tools (about 20 s)" new_env
step "torch (about 2 min)" install -r requirements/torch.txt
step "$mmcv_title" mmcv
step "the other packages (about 1 min)" others
step "mirl_mm itself, and a look whether all is there (about 20 s)" mirl
echo "$key" >"$stamp"
echo "$venv is ready after $(minutes $SECONDS)"
