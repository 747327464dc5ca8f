#!/usr/bin/env bash
# Makes a server of this machine: a plain TPU VM, a GPU VM, or one with CPUs only. May be run again, also to update.
#
#   sudo serving/deploy/vm/setup.sh tpu  --model /srv/models/llama-3.1-8b-instruct --slices tpu=8
#   sudo serving/deploy/vm/setup.sh cuda --model /srv/models/llama-3.1-8b-instruct --slices gpu=1
#   sudo serving/deploy/vm/setup.sh cpu  --model tiny-random
#
# What follows the first word goes to `s2l serve`; without it, the options that are there already stay. From a checkout
# of the repository; needs Python 3.12 or newer, and for cuda NVIDIA's driver.
#
# S2L_ROOT=DIR puts all files under DIR and leaves users and systemd alone, to see what would be there.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
root=${S2L_ROOT:-}

say() { printf '[s2l] %s\n' "$*"; }

refuse() {
  printf '[s2l] %s\n' "$*" >&2
  exit 2
}

is_good_python() {
  "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3; do
    if [ -n "$candidate" ] && is_good_python "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

check_devices() {
  case "$1" in
    cuda)
      command -v nvidia-smi >/dev/null || refuse "no nvidia-smi: install NVIDIA's driver (580 or newer for CUDA 13) first"
      nvidia-smi --list-gpus
      ;;
    tpu)
      compgen -G '/dev/accel*' >/dev/null || compgen -G '/dev/vfio/[0-9]*' >/dev/null ||
        refuse "no /dev/accel* and no /dev/vfio/*: this is no TPU VM"
      ;;
  esac
}

install_package() {
  local accelerator=$1 python=$2 venv=$root/opt/s2l
  if ! is_good_python "$venv/bin/python"; then
    say "making $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
  fi
  say "installing s2l for $accelerator"
  local versions=$repository/serving/deploy/docker/requirements-$accelerator.txt
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$versions"
  # From a copy, since building leaves files in the source, which the next build would take for the source's.
  local source
  source=$(mktemp -d)
  tar -C "$repository" --exclude='./.*' --exclude=./out --exclude=./build -cf - . | tar -C "$source" -xf -
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$versions" "$source"
  # Also where the version is the same and the source is not.
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$source"
  rm -r "$source"
}

write_settings() {
  local accelerator=$1 file=$root/etc/s2l/s2l.env platforms
  shift
  if [ -e "$file" ] && [ $# -eq 0 ]; then
    say "$file stays as it is"
    return
  fi
  [ $# -gt 0 ] || refuse "give the options of s2l serve, such as: --model /srv/models/NAME"
  case "$accelerator" in
    cpu) platforms=cpu ;;
    *) platforms=$accelerator,cpu ;;
  esac
  # An option that does not exist is refused here, rather than in the journal.
  "$root/opt/s2l/bin/s2l" serve "$@" --help >/dev/null
  install -d "$root/etc/s2l"
  local text
  text=$(<"$repository/serving/deploy/vm/s2l.env")
  text=${text//@OPTIONS@/$*}
  printf '%s\n' "${text//@PLATFORMS@/$platforms}" >"$file"
  say "wrote $file"
}

start_service() {
  id s2l >/dev/null 2>&1 || useradd --system --user-group --home-dir /var/cache/s2l --shell /usr/sbin/nologin s2l
  # Those who may use the devices, where there is such a group.
  for group in render video; do
    if getent group "$group" >/dev/null; then usermod --append --groups "$group" s2l; fi
  done
  systemctl daemon-reload
  systemctl enable s2l
  systemctl restart s2l
  say "waiting until it is ready; a first start compiles for minutes (journalctl -fu s2l)"
  until [ -e /run/s2l/ready.json ]; do
    systemctl is-active --quiet s2l || refuse "s2l.service has stopped: journalctl -u s2l"
    sleep 1
  done
  cat /run/s2l/ready.json
  echo
}

main() {
  local accelerator=${1:-} python
  case "$accelerator" in
    cpu | cuda | tpu) shift ;;
    *) refuse "usage: setup.sh cpu|cuda|tpu [options of s2l serve]" ;;
  esac
  [ -n "$root" ] || [ "$(id -u)" -eq 0 ] || refuse "run this as root (sudo), or with S2L_ROOT=DIR"
  python=$(find_python) || refuse "no Python 3.12 or newer with venv: apt install python3.12-venv, or name one with PYTHON="
  [ -n "$root" ] || check_devices "$accelerator"
  install_package "$accelerator" "$python"
  write_settings "$accelerator" "$@"
  install -D --mode 644 "$repository/serving/deploy/vm/s2l.service" "$root/etc/systemd/system/s2l.service"
  if [ -n "$root" ]; then
    say "all files are under $root"
  else
    start_service
  fi
}

main "$@"
