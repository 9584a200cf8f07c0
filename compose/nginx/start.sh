#!/bin/sh
# Starts nginx with a certificate that is there, and loads the next one when certbot has brought it. `check` is the health check.
set -eu

if [ "${1:-}" = check ]; then
  # The certificate may still be the one made here.
  exec openssl s_client -connect 127.0.0.1:8443 -alpn h2 -brief </dev/null >/dev/null 2>&1
fi

domain=${RIACHO_DOMAIN:?}
mkdir -p /run/tls

# Puts the certificate that counts in place; says whether it is another one than before.
take() {
  from=/etc/letsencrypt/live/riacho
  if [ ! -s "$from/fullchain.pem" ] || [ ! -s "$from/privkey.pem" ]; then
    from=/etc/letsencrypt/provisional
    if [ ! -s "$from/privkey.pem" ]; then
      mkdir -p "$from"
      (umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -subj "/CN=$domain" \
        -addext "subjectAltName=DNS:$domain" -keyout "$from/privkey.pem" -out "$from/fullchain.pem" 2>/dev/null)
    fi
  fi
  if cmp -s "$from/fullchain.pem" /run/tls/fullchain.pem; then return 1; fi
  (umask 077 && cp "$from/fullchain.pem" "$from/privkey.pem" /run/tls/)
}

take || true
(
  while sleep "${RIACHO_TLS_LOOK_SECONDS:-30}"; do
    # A certificate that nginx refuses leaves the old one in force.
    if take && nginx -t -q; then nginx -s reload; fi
  done
) &
exec nginx -g 'daemon off;'
