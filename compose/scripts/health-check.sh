#!/usr/bin/env bash
# Says whether everything is as it should be: each service healthy, the front answers, a certificate that lasts, room on the disk, a backup
# of today, no deployment half done. One line for each thing that is not, and exit code 1. With --services it looks at services and front
# only. Every quarter of an hour by a timer, and what it finds of the certificate is left for Prometheus: docs/operations/compose.md.
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
  if [ -z "$ids" ]; then
    # RIACHO_EXTRACTORS=0 and its like are meant.
    scale=$(wanted_scale "$service")
    if ((scale > 0)); then complain "$service does not run"; fi
  fi
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

# Whether certbot is to bring certificates; RIACHO_CERTBOTS=0 where they come from elsewhere.
renewal=no
if (($(wanted_scale certbot) > 0)); then
  renewal=yes
  [ -n "$(containers certbot)" ] || complain "certbot does not run, which renews the certificate"
fi

field() { openssl x509 -noout -nameopt RFC2253 "-$1" <<<"$certificate" | cut -d = -f 2-; }
moment() { date --date "$(field "$1")" +%s; }

certificate=
if [ -n "$address" ]; then
  certificate=$(timeout 10 openssl s_client -connect "127.0.0.1:${address##*:}" -servername "$domain" </dev/null 2>/dev/null |
    openssl x509 2>/dev/null || true)
  [ -n "$certificate" ] || complain "the front shows no certificate"
fi
if [ -n "$certificate" ]; then
  begin=$(moment startdate) end=$(moment enddate) provisional=0
  if [ "$renewal" = yes ] && [ "$(field subject)" = "$(field issuer)" ]; then
    provisional=1
    complain "the certificate is one that the front made itself: certbot has brought none; look at: docker compose logs certbot"
  fi
  # One of 90 days is renewed 30 days before its end, a shorter one when a third of its time is left. Below two ninths that has failed often.
  least=$(((end - begin) * 2 / 9))
  if ((least > 20 * 86400)); then least=$((20 * 86400)); fi
  if ((end - $(date +%s) < least)); then complain "the certificate ends on $(date -u --date "@$end" +%F)"; fi
  # The node exporter's folder, where the deployment is watched.
  textfiles=$(setting RIACHO_TEXTFILES /var/lib/riacho/textfiles)
  if [ -d "$textfiles" ]; then "$here/scripts/certificate-metric.sh" "$begin" "$end" "$provisional" "$textfiles"; fi
fi

# The lock is held as long as a script is at work.
if [ -e "$deployment" ] && flock --nonblock "$settings.lock" true; then
  if [ -n "$(noted next)" ]; then
    complain "the deployment of $(noted next) was cut off; deploy.sh takes it up"
  else
    complain "restoring $(noted copy) was cut off or ended unwell; deploy.sh takes it up"
  fi
fi

used=$(df --output=pcent "$(docker info --format '{{.DockerRootDir}}')" | tail -n 1 | tr -dc 0-9)
((used <= $(setting RIACHO_DISK_PERCENT 85))) || complain "the disk of Docker is full to $used%"

backups=$(setting RIACHO_BACKUPS /var/backups/riacho)
newest=$(find "$backups" -mindepth 1 -maxdepth 1 -name '[0-9]*T*Z' -mmin -1560 2>/dev/null | sort | tail -n 1)
[ -n "$newest" ] || complain "no backup in $backups is younger than 26 hours"

if ((wrong == 0)); then echo "all is well"; fi
exit $wrong
