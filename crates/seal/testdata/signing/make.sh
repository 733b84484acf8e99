#!/bin/sh
# Makes the keys and certificates that the tests read, with OpenSSL 3. Valid for a hundred years from 2026.
set -eu
cd "$(dirname "$0")"
key() { openssl ecparam -name "$2" -genkey -noout -out "$1"; } # SEC 1
# certificate NAME SUBJECT KEY ISSUER EXTENSIONS [FROM [UNTIL]]
certificate() {
    openssl req -new -key "$3" -subj "/CN=$2" -out request.tmp
    printf '%b' "$5" > extensions.tmp
    openssl ca -batch -notext -config ca.tmp -in request.tmp -out "$1.pem" -extfile extensions.tmp \
        -startdate "${6:-20260101000000Z}" -enddate "${7:-21260101000000Z}" $4 2> log.tmp || { cat log.tmp; exit 1; }
}
printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index.tmp\nnew_certs_dir=.\nrand_serial=yes\nunique_subject=no\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n' > ca.tmp
: > index.tmp
CA='basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n'
LEAF='basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n'

openssl ecparam -name prime256v1 -genkey -out p256.sec1.pem # with EC PARAMETERS before the key
openssl pkcs8 -topk8 -nocrypt -in p256.sec1.pem -out p256.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out p521.pem
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out k256.pem
openssl genpkey -algorithm ed25519 -out ed25519.pem
openssl pkcs8 -topk8 -in p256.pem -passout pass:x -out encrypted.pem
for curve in p256 p384 p521; do
    openssl pkey -in $curve.pem -pubout -out $curve.pub.pem
    printf message | openssl dgst -sha$(echo $curve | sed 's/p256/256/;s/p384/384/;s/p521/512/') -sign $curve.pem -out $curve.sig
done
openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.tmp
key middle.tmp secp384r1

certificate root root rsa.tmp "-selfsign -keyfile rsa.tmp" "$CA"
certificate root-ed25519 root ed25519.pem "-selfsign -keyfile ed25519.pem" "$CA"
ROOT="-cert root.pem -keyfile rsa.tmp"; MIDDLE="-cert middle.pem -keyfile middle.tmp"
certificate middle middle middle.tmp "$ROOT" "${CA}"
certificate middle-by-ed25519 middle middle.tmp "-cert root-ed25519.pem -keyfile ed25519.pem -md null" "$CA"
certificate leaf signer p256.pem "$MIDDLE" "$LEAF"
certificate leaf-code-signing signer p256.pem "$MIDDLE" 'extendedKeyUsage=codeSigning\n'
certificate leaf-no-usage signer p256.pem "$MIDDLE" 'keyUsage=keyAgreement\nextendedKeyUsage=serverAuth\n'
certificate leaf-early signer p256.pem "$MIDDLE" "$LEAF" 20200101000000Z
certificate leaf-unknown signer p256.pem "$MIDDLE" "${LEAF}1.2.3.4=critical,DER:0500\n"
certificate leaf-rsa signer rsa.tmp "$MIDDLE" "$LEAF"
certificate middle-no-ca middle middle.tmp "$ROOT" "$LEAF"
certificate middle-no-certsign middle middle.tmp "$ROOT" 'basicConstraints=CA:TRUE\nkeyUsage=digitalSignature\n'
certificate middle-names middle middle.tmp "$ROOT" "${CA}nameConstraints=critical,permitted;DNS:example.com\n"
certificate root-short root rsa.tmp "-selfsign -keyfile rsa.tmp" 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=keyCertSign\n'
certificate self signer p256.pem "-selfsign -keyfile p256.pem" "$LEAF"
rm -f *.tmp *.tmp.* [0-9A-F][0-9A-F][0-9A-F][0-9A-F]*.pem
