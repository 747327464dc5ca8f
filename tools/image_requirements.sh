#!/usr/bin/env bash
# Regenerates serving/deploy/docker/requirements-*.txt, the versions that images and VMs get, from pyproject.toml.
# After a change of dependencies. Needs uv: pip install uv
set -euo pipefail
cd "$(dirname "$0")/.."

for accelerator in cpu cuda tpu; do
  file=serving/deploy/docker/requirements-$accelerator.txt
  extras=(--extra otel)  # every option of the server works in an image
  [ $accelerator = cpu ] || extras+=(--extra "$accelerator")
  # libtpu has no wheel for an older libc than 2.31.
  "${UV:-uv}" pip compile --quiet pyproject.toml "${extras[@]}" --upgrade --python-version 3.12 \
    --python-platform x86_64-manylinux_2_31 --no-annotate --no-header --output-file "$file"
  sed -i '1i # By tools/image_requirements.sh, from pyproject.toml, for Linux on x86_64 and Python 3.12.' "$file"
done
