#!/usr/bin/env bash
# Says whether everything is as it should be: each service healthy, the front answers, a certificate that lasts, room on the disk, a backup
# of today. One line for each thing that is not, and exit code 1. With --services it looks at services and front only.
set -euo pipefail
# Only looks.
needs_lock=no
# shellcheck source=compose/scripts/project.sh
source "$(dirname "$0")/project.sh"

wrong=0
complain() {
  printf 'not well: %s\n' "$*"
  wrong=1
}

for service in redis postgres gateway extractor embedder indexer janitor nginx; do
  ids=$(containers "$service")
  [ -n "$ids" ] || complain "$service does not run"
  for id in $ids; do
    state=$(health "$id")
    if [ "$state" != healthy ]; then
      complain "$service (${id:0:12}) is $state: $(docker inspect --format '{{with .State.Health}}{{with (index .Log 0)}}{{.Output}}{{end}}{{end}}' "$id" | tail -n 1)"
    fi
  done
done

address=$(compose port nginx 8443 2>/dev/null || true)
if [ -z "$address" ]; then
  complain "nginx publishes no port"
else
  domain=$(setting RIACHO_DOMAIN)
  # The certificate is looked at apart: a front with an old one still answers.
  curl --fail --silent --show-error --insecure --max-time 10 --resolve "$domain:${address##*:}:127.0.0.1" \
    --output /dev/null "https://$domain:${address##*:}/readyz" || complain "the front does not answer at $address"
fi
if [ "${1:-}" = --services ]; then
  if ((wrong == 0)); then echo "all services are well"; fi
  exit $wrong
fi

if [ -n "$address" ]; then
  if ! echo | openssl s_client -connect "127.0.0.1:${address##*:}" -servername "$domain" 2>/dev/null | openssl x509 -checkend 604800 -noout >/dev/null; then
    complain "the certificate ends within seven days"
  fi
fi

used=$(df --output=pcent "$(docker info --format '{{.DockerRootDir}}')" | tail -n 1 | tr -dc 0-9)
((used <= $(setting RIACHO_DISK_PERCENT 85))) || complain "the disk of Docker is full to $used%"

backups=$(setting RIACHO_BACKUPS /var/backups/riacho)
newest=$(find "$backups" -mindepth 1 -maxdepth 1 -name '[0-9]*T*Z' -mmin -1560 2>/dev/null | sort | tail -n 1)
[ -n "$newest" ] || complain "no backup in $backups is younger than 26 hours"

if ((wrong == 0)); then echo "all is well"; fi
exit $wrong
