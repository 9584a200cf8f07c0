#!/bin/sh
# Asks for the certificate, and for the next one when a third of its time is left. nginx serves the answers to the authority's questions.
set -eu

while :; do
  set -- certonly --webroot --webroot-path /var/www/acme --domain "${RIACHO_DOMAIN:?}" --cert-name riacho \
    --server "${ACME_DIRECTORY:?}" --keep-until-expiring --non-interactive --agree-tos
  if [ -n "${RIACHO_EMAIL:-}" ]; then set -- "$@" --email "$RIACHO_EMAIL"; else set -- "$@" --register-unsafely-without-email; fi
  # One that fails is tried again an hour later: authorities limit how often one may ask.
  if certbot "$@"; then pause=12h; else pause=1h; fi
  sleep "$pause"
done
