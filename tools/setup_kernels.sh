#!/usr/bin/env bash
# Makes .venv-kernels: what the tests need, and compilers for TPU and GPU. Does nothing if that has been done.
# Google's and NVIDIA's compilers have licences of their own; nothing of them is part of this project.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv-kernels
stamp=$venv/.s2l-setup
wanted=$(cat pyproject.toml tools/setup_kernels.sh | cksum)

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }

if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
  say "$venv is up to date"
  exit 0
fi
case "$(uname -s) $(uname -m)" in
  "Linux x86_64") ;;
  *) say "libtpu and CUDA's compilers are for Linux on x86_64 only" >&2; exit 1 ;;
esac
say "making $venv with libtpu and CUDA's compilers (600 MB to download, 2.3 GB on disk; a few minutes)"
.venv/bin/python -m venv --clear $venv
$venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,aot]'
echo "$wanted" > "$stamp"
say "done"
