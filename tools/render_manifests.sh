#!/usr/bin/env bash
# Regenerates serving/deploy/manifests, what the chart makes of each file of its examples. After a change of the chart.
#
# The first line of each names the chart it was made from, so that the tests see without helm whether it is current.
set -euo pipefail
cd "$(dirname "$0")/.."

helm=$(command -v helm || tools/fetch_helm.sh)
chart=serving/deploy/helm/s2l
checksum=$(find $chart -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -d ' ' -f 1)
for values in "$chart"/examples/*.yaml; do
  name=$(basename "$values")
  {
    echo "# By tools/render_manifests.sh, of the chart with SHA-256 $checksum."
    "$helm" template s2l $chart --values "$values"
  } >"serving/deploy/manifests/$name"
done
