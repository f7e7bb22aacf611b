"""Makes what the contenders show each other: a CA, two P-256 leaves, and an RS256 token with its key set. By openssl."""

import base64
import json
import shutil
import subprocess
import time

DAYS = 30
EXTENSIONS = """\
basicConstraints=critical,CA:false
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=DNS:{name}.mesh,URI:spiffe://bench.mesh/ns/default/dc/dc1/svc/{name}
"""


def openssl(*words, given=None):
    return subprocess.run(["openssl", *map(str, words)], input=given, capture_output=True, check=True).stdout


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def make(folder):
    """Makes them anew; gives the token."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", folder / "ca.key", "-out", folder / "ca.pem", "-days", DAYS,
            "-subj", "/CN=bench CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-addext", "subjectAltName=URI:spiffe://bench.mesh")
    for file, name in (("server", "inbound"), ("client", "outbound")):
        request, extensions = folder / f"{file}.csr", folder / f"{file}.ext"
        extensions.write_text(EXTENSIONS.format(name=name))
        openssl("req", "-new", *curve, "-keyout", folder / f"{file}.key", "-out", request, "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", request, "-CA", folder / "ca.pem", "-CAkey", folder / "ca.key",
                "-CAcreateserial", "-out", folder / f"{file}.pem", "-days", DAYS, "-extfile", extensions)
        both = (folder / f"{file}.pem").read_text() + (folder / f"{file}.key").read_text()
        (folder / f"{file}-both.pem").write_text(both)
    return make_token(folder)


def make_token(folder):
    key = folder / "jwt.key"
    openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
    modulus = openssl("rsa", "-in", key, "-noout", "-modulus").decode().strip().removeprefix("Modulus=")
    public = {"kty": "RSA", "kid": "bench", "alg": "RS256", "use": "sig",
              "n": base64url(bytes.fromhex(modulus)), "e": "AQAB"}
    (folder / "jwks.json").write_text(json.dumps({"keys": [public]}))
    now = int(time.time())
    header = {"alg": "RS256", "typ": "JWT", "kid": "bench"}
    claims = {"iss": "bench", "sub": "client", "aud": "mesh", "iat": now, "exp": now + DAYS * 86400}
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{signed}.{base64url(openssl('dgst', '-sha256', '-sign', key, given=signed.encode()))}"
