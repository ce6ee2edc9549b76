#!/usr/bin/env bash
# Certificates for a Dask cluster of your own: an authority, and a pair that scheduler, workers and client share.
#   cluster/tls/make-certificates.sh FOLDER [DAYS]        (30 days unless said otherwise; needs openssl)
# Whoever has node-key.pem can run code on the cluster: the folder is readable by its owner only.
set -euo pipefail
folder=${1:?name a folder for the certificates} days=${2:-30}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"
for file in ca.pem node.pem node-key.pem; do
  if [[ -e $file ]]; then
    echo "$folder/$file exists: choose another folder, or remove it" >&2
    exit 1
  fi
done
umask 077
key=$(mktemp)
trap 'rm -f "$key" request.pem' EXIT
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days "$days" -subj "/CN=daskreg authority" \
  -addext "basicConstraints=critical,CA:TRUE" -keyout "$key" -out ca.pem 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=daskreg" -keyout node-key.pem -out request.pem 2>/dev/null
openssl x509 -req -in request.pem -CA ca.pem -CAkey "$key" -CAcreateserial -days "$days" -out node.pem 2>/dev/null
rm -f ca.srl
echo "tls: {ca_file: $PWD/ca.pem, cert: $PWD/node.pem, key: $PWD/node-key.pem}"
