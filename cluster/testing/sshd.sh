#!/usr/bin/env bash
# An ssh server on the loopback interface with keys of its own, for tests: `ssh.yaml` in FOLDER then says how to use it.
#   cluster/testing/sshd.sh start FOLDER | stop FOLDER        (needs Debian's openssh-server and openssh-client; no root)
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
command=${1:?start or stop} folder=$(realpath -m "${2:?name a folder for the keys}") port=${PORT:-2222}

start() {
  mkdir -m 700 "$folder"
  for name in host user; do ssh-keygen -q -t ed25519 -N '' -f "$folder/$name"; done
  cp "$folder/user.pub" "$folder/authorized"
  echo "[127.0.0.1]:$port $(cat "$folder/host.pub")" >"$folder/known"
  cat >"$folder/config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
HostKey $folder/host
AuthorizedKeysFile $folder/authorized
PidFile $folder/pid
StrictModes no
UsePAM no
PasswordAuthentication no
CONFIG
  cat >"$folder/ssh.yaml" <<YAML
kind: ssh
hosts: [127.0.0.1]
processes: 2
user: $(id -un)
port: $port
key: $folder/user
known_hosts: $folder/known
python: env PYTHONPATH=${PYTHONPATH:-} $(command -v python)
interface: lo
dashboard_port: null
YAML
  if [ "$(id -u)" = 0 ]; then mkdir -p /run/sshd; fi # where sshd confines its unprivileged part
  "$(command -v sshd)" -f "$folder/config" -E "$folder/log"
  for _ in $(seq 50); do
    if [ -s "$folder/pid" ]; then return; fi
    sleep 0.1
  done
  cat "$folder/log" >&2
  exit 1
}

case $command in
  start) start ;;
  stop)
    kill "$(cat "$folder/pid")"
    while [ -e "$folder/pid" ]; do sleep 0.1; done # which sshd removes
    rm -r "$folder"
    ;;
  *)
    echo "sshd.sh: start or stop, not $command" >&2
    exit 2
    ;;
esac
