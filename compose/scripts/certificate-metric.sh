#!/usr/bin/env bash
# Tells Prometheus of the certificate that the front serves: certificate-metric.sh BEGIN END PROVISIONAL [FOLDER]
# Times in seconds since 1970; 1 for one that the front made itself though certbot is to bring one, else 0. The node exporter reads the
# folder, RIACHO_TEXTFILES or /var/lib/riacho/textfiles. health-check.sh runs it.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: certificate-metric.sh BEGIN END PROVISIONAL [FOLDER]" >&2; exit 2; }

folder=${4:-${RIACHO_TEXTFILES:-/var/lib/riacho/textfiles}}
# The exporter runs under an account of its own, whatever the mask of whoever looks.
umask 022
mkdir -p "$folder"
file=$folder/riacho_certificate.prom
# Under another name first: the exporter must never read a half.
cat >"$file.new" <<METRICS
# HELP riacho_certificate_not_before_timestamp_seconds When the certificate that the front serves began.
# TYPE riacho_certificate_not_before_timestamp_seconds gauge
riacho_certificate_not_before_timestamp_seconds $1
# HELP riacho_certificate_not_after_timestamp_seconds When the certificate that the front serves ends.
# TYPE riacho_certificate_not_after_timestamp_seconds gauge
riacho_certificate_not_after_timestamp_seconds $2
# HELP riacho_certificate_provisional Whether the front serves a certificate that it made itself, though certbot is to bring one.
# TYPE riacho_certificate_provisional gauge
riacho_certificate_provisional $3
METRICS
mv "$file.new" "$file"
