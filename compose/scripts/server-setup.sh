#!/usr/bin/env bash
# Makes a Debian or Ubuntu server ready, as root: Docker with compose, a firewall, folders, secrets, the daily backup and the
# health check. May be run again.
#   server-setup.sh [--without-firewall]
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
((EUID == 0)) || { echo "server-setup.sh has to be run as root" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "server-setup.sh knows Debian and Ubuntu only" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive

apt-get update -qq
# Debian and Ubuntu cut Docker into packages of different names; the compose of Debian 12 is too old.
known() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }
packages=(ca-certificates curl openssl procps)
if ! command -v dockerd >/dev/null; then packages+=(docker.io iptables); fi
if ! command -v docker >/dev/null && known docker-cli; then packages+=(docker-cli); fi
if ! docker compose version >/dev/null 2>&1; then
  if known docker-compose-v2; then packages+=(docker-compose-v2); else packages+=(docker-compose); fi
fi
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
docker compose version >/dev/null 2>&1 || { echo "this release has no Docker Compose 2; install Docker's own packages" >&2; exit 1; }

if [ -d /run/systemd/system ]; then systemctl enable --now docker; fi

# A snapshot of Redis is written by a copy of its process, which the kernel would refuse while memory is short.
echo 'vm.overcommit_memory = 1' >/etc/sysctl.d/60-riacho.conf
sysctl --quiet --load /etc/sysctl.d/60-riacho.conf || echo "vm.overcommit_memory is not set; a snapshot of Redis may fail" >&2

# Docker opens the ports that compose publishes, past this firewall: 80 and 443 of nginx, and nothing else.
if [ "${1:-}" != --without-firewall ]; then
  apt-get install -y -qq --no-install-recommends ufw >/dev/null
  ufw default deny incoming
  ufw default allow outgoing
  # The ports that one comes in by must stay open, whatever they are: those of the server of SSH, and the one that runs this.
  connection=${SSH_CONNECTION:-}
  ports=$({ sshd -T 2>/dev/null || true; } | awk '$1 == "port" { print $2 }')
  for port in ${ports:-22} ${connection##* }; do ufw allow "$port/tcp"; done
  ufw allow 80/tcp
  ufw allow 443/tcp
  ufw --force enable
fi

if [ ! -e "$here/.env" ]; then
  install -m 600 "$here/env.example" "$here/.env"
  echo "set RIACHO_DOMAIN and RIACHO_IMAGE in $here/.env"
fi
"$here/scripts/make-secrets.sh" "$here/secrets"
backups=$(sed -n 's/^RIACHO_BACKUPS=//p' "$here/.env" | tail -n 1)
install -d -m 700 "${backups:-/var/backups/riacho}"

if [ -d /etc/systemd/system ]; then
  cat >/etc/systemd/system/riacho-backup.service <<UNIT
[Unit]
Description=Backup of Riacho
Requires=docker.service
After=docker.service

[Service]
Type=oneshot
ExecStart=$here/scripts/backup.sh
UNIT
  cat >/etc/systemd/system/riacho-backup.timer <<'UNIT'
[Unit]
Description=Daily backup of Riacho

[Timer]
OnCalendar=*-*-* 03:17:00
RandomizedDelaySec=10min
Persistent=true

[Install]
WantedBy=timers.target
UNIT
  # What is not well is in its log, and the unit has failed then.
  cat >/etc/systemd/system/riacho-health.service <<UNIT
[Unit]
Description=Health check of Riacho
Requires=docker.service
After=docker.service

[Service]
Type=oneshot
ExecStart=$here/scripts/health-check.sh
UNIT
  cat >/etc/systemd/system/riacho-health.timer <<'UNIT'
[Unit]
Description=Health check of Riacho every quarter of an hour

[Timer]
OnCalendar=*:07/15
RandomizedDelaySec=1min

[Install]
WantedBy=timers.target
UNIT
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --now riacho-backup.timer riacho-health.timer
  fi
fi
echo "ready; start with: docker compose --file $here/compose.yaml --file $here/compose.prod.yaml --env-file $here/.env up --detach --wait"
