#!/bin/sh
# Makes the certificates that rcgen cannot make: X.509 v1, old digests, short keys, Netscape's extension. Needs OpenSSL 3.
# The keys are worth nothing outside of these tests. All is valid for a hundred years.
set -eu
cd "$(dirname "$0")"
days="-days 36500"
new() { openssl req -new -newkey "$1" -nodes -keyout "$2.key" -out "$2.csr" -subj "$3" ${4:+-pkeyopt "$4"} 2>/dev/null; }
sign() { name=$1; shift; openssl x509 -req -in "$name.csr" -CA "$CA.pem" -CAkey "$CA.key" -CAcreateserial $days -out "$name.pem" "$@" 2>/dev/null; }

# Without an extension file, `openssl x509 -req` makes version 1, as old easy-rsa did.
new rsa:2048 v1-ca "/C=DE/O=Old Works/CN=Old CA"
openssl x509 -req -in v1-ca.csr -signkey v1-ca.key -sha1 $days -out v1-ca.pem 2>/dev/null
CA=v1-ca
new rsa:2048 v1-leaf "/C=DE/ST=Berlin/O=Old Works/CN=vpn.old.test"; sign v1-leaf -sha1
new ec v1-p256 "/CN=vpn.old.test" ec_paramgen_curve:P-256; sign v1-p256 -sha256
new ed25519 v1-ed25519 "/CN=vpn.old.test"; sign v1-ed25519 -sha512
new rsa:2048 md5 "/CN=md5.old.test"; sign md5 -md5
new rsa:1024 short "/CN=short.old.test"; sign short -sha256
new ec p521 "/CN=p521.old.test" ec_paramgen_curve:P-521; sign p521 -sha256
printf 'nsCertType=server\n' >ns.ext; new rsa:2048 netscape "/CN=ns.old.test"; sign netscape -sha256 -extfile ns.ext
printf 'nsCertType=client\n' >ns.ext; new rsa:2048 netscape-client "/CN=ns.old.test"; sign netscape-client -sha256 -extfile ns.ext
new rsa:2048 pss "/CN=pss.old.test"
sign pss -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32
new rsa:2048 pss-odd "/CN=pss.old.test"
sign pss-odd -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20
# Version 1 below version 1: the middle one could be anybody's.
new rsa:2048 v1-middle "/CN=Not an authority"; sign v1-middle -sha256
CA=v1-middle
new rsa:2048 v1-below "/CN=vpn.old.test"; sign v1-below -sha256
# The same name as the old authority, with another key of 1024 bits.
new rsa:1024 short-ca "/C=DE/O=Old Works/CN=Old CA"
openssl x509 -req -in short-ca.csr -signkey short-ca.key -sha256 $days -out short-ca.pem 2>/dev/null
CA=short-ca
new rsa:2048 under-short "/CN=vpn.short.test"; sign under-short -sha256
rm -f ./*.csr ./*.srl ns.ext md5.key short.key p521.key netscape.key netscape-client.key pss.key pss-odd.key
rm -f v1-middle.key v1-below.key short-ca.key under-short.key v1-ca.key
chmod 644 ./*.key
