"""Tokens and key sets made by PyJWT and cryptography, which share no code with outrigger.

make ISSUER        one JSON object: jwks (by name), tokens (by name), pem, secret
https FOLDER TEXT  serves TEXT over TLS on localhost; writes FOLDER/ca.pem and prints its port
"""

import base64, datetime, http.server, ipaddress, json, ssl, sys, time

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, hmac, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
SECRET = "a secret of alice that is long enough for every HS algorithm, or so we hope"


def new_key(algorithm):
    if algorithm in CURVES:
        return ec.generate_private_key(CURVES[algorithm])
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key, kid, algorithm):
    kinds = {"ES": jwt.algorithms.ECAlgorithm, "Ed": jwt.algorithms.OKPAlgorithm}
    kind = kinds.get(algorithm[:2], jwt.algorithms.RSAAlgorithm)
    text = kind.to_jwk(key.public_key())
    return {**(json.loads(text) if isinstance(text, str) else text), "kid": kid, "alg": algorithm, "use": "sig", "key_ops": ["verify"]}


def pem(key):
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value):
    return encode(json.dumps(value).encode())


def make(issuer):
    now = int(time.time())
    claims = {"iss": issuer, "sub": "alice", "aud": "users", "iat": now, "exp": now + 3600, "scope": "read write"}
    algorithms = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
    keys = {algorithm: new_key(algorithm) for algorithm in algorithms}
    rotated = new_key("ES256")
    sign = lambda algorithm, claims=claims, **headers: jwt.encode(
        claims, keys[algorithm], algorithm=algorithm, headers={"kid": algorithm, **headers}
    )
    good = sign("ES256")
    header, payload, signature = good.split(".")

    def hs_confused():
        signed = f'{part({"alg": "HS256", "kid": "RS256"})}.{payload}'
        tag = hmac.HMAC(pem(keys["RS256"]).encode(), hashes.SHA256())
        tag.update(signed.encode())
        return f"{signed}.{encode(tag.finalize())}"

    tokens = {algorithm: sign(algorithm) for algorithm in algorithms}
    tokens |= {
        "rotated": jwt.encode(claims, rotated, algorithm="ES256", headers={"kid": "rotated"}),
        "no_scope": sign("ES256", {**claims, "scope": "write"}),
        "scopes": sign("ES256", {**claims, "scope": ["write", "read"]}),
    }
    bad = {
        "expired": sign("ES256", {**claims, "exp": now - 3600}),
        "early": sign("ES256", {**claims, "nbf": now + 3600}),
        "endless": sign("ES256", {name: value for name, value in claims.items() if name != "exp"}),
        "other_audience": sign("ES256", {**claims, "aud": ["orders"]}),
        "other_issuer": sign("ES256", {**claims, "iss": issuer + "x"}),
        "other_key": jwt.encode(claims, rotated, algorithm="ES256", headers={"kid": "ES256"}),
        "none": f'{part({"alg": "none"})}.{payload}.',
        "none_signed": f'{part({"alg": "none"})}.{payload}.{signature}',
        "stripped": f"{header}.{payload}.",
        "two_parts": f"{header}.{payload}",
        "hs_confused": hs_confused(),
        "critical": sign("ES256", crit=["exp"]),
        "unencoded": sign("ES256", b64=True, crit=["b64"]),
        "zipped": sign("ES256", zip="DEF"),
        "embedded": jwt.encode(claims, rotated, algorithm="ES256", headers={"jwk": jwk(rotated, "x", "ES256")}),
        "jku": sign("ES256", jku="http://127.0.0.1:1/"),
        "x5u": sign("ES256", x5u="http://127.0.0.1:1/"),
        "padded": good + "=",
        "changed": f'{header}.{part({**claims, "sub": "root"})}.{signature}',
        "oversize": sign("ES256", {**claims, "padding": "x" * 20000}),
    }
    hs = lambda claims, secret=SECRET: jwt.encode(claims, secret, algorithm="HS256")
    kong = {
        "alice": hs({"iss": "alice-key", "exp": now + 3600}),
        "alice_expired": hs({"iss": "alice-key", "exp": now - 1}),
        "alice_forged": hs({"iss": "alice-key", "exp": now + 3600}, "x" * 40),
        "bob": jwt.encode({"iss": "bob-key", "exp": now + 3600}, keys["RS256"], algorithm="RS256"),
        "carol": hs({"iss": "carol-key", "exp": now + 3600}),
    }
    listed = [jwk(keys[algorithm], algorithm, algorithm) for algorithm in algorithms]
    sets = {"first": {"keys": listed}, "rotated": {"keys": [jwk(rotated, "rotated", "ES256")]}}
    return {"jwks": sets, "tokens": tokens, "bad": bad, "kong": kong, "pem": pem(keys["RS256"]), "secret": SECRET}


def certificates():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return made.public_bytes(serialization.Encoding.PEM), private


def https(folder, text):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    certificate, key = certificates()
    for name, content in [("ca.pem", certificate), ("key.pem", key)]:
        with open(f"{folder}/{name}", "wb") as file:
            file.write(content)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/ca.pem", f"{folder}/key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if sys.argv[1] == "make":
    print(json.dumps(make(sys.argv[2])), flush=True)
else:
    https(sys.argv[2], sys.argv[3])
