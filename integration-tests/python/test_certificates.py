"""The certificate service: a CSR goes in, the caller's identity comes out."""

import datetime

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID
from discovery import bearer
from fairway import objects

SLEEP = "spiffe://cluster.local/ns/default/sa/sleep"  # On node-a.
NOTSLEEP = "spiffe://cluster.local/ns/default/sa/notsleep"  # On node-b.
ZTUNNEL = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"

REFUSED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


@pytest.fixture
def channel(fairway):
    """The certificate service is served over TLS only."""
    with fairway.tls() as channel:
        yield channel


def request(channel, token, impersonate=None, csr=None, seconds=86_400, key=None):
    """Asks for a certificate as ztunnel does."""
    from istio.auth import ca_pb2, ca_pb2_grpc

    message = ca_pb2.IstioCertificateRequest(csr=csr or signing_request(key), validity_duration=seconds)
    if impersonate:
        message.metadata.update({"ImpersonatedIdentity": impersonate})
    stub = ca_pb2_grpc.IstioCertificateServiceStub(channel)
    return list(stub.CreateCertificate(message, metadata=bearer(token), timeout=10).cert_chain)


def signing_request(key=None, uri=SLEEP):
    """A CSR like ztunnel's: P-256, no subject, one critical URI SAN."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def identities(chain):
    """The URI SANs of the leaf."""
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    names = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    assert names.critical
    return [name.value for name in names.value]


def refusal(channel, token, **options):
    """The status with which a request is refused."""
    with pytest.raises(grpc.RpcError) as error:
        request(channel, token, **options)
    return error.value.code()


def test_the_leaf_is_what_ztunnel_accepts(fairway, channel):
    key = ec.generate_private_key(ec.SECP256R1())
    before = datetime.datetime.now(datetime.timezone.utc)
    chain = request(channel, fairway.token("default", "sleep"), key=key)

    assert len(chain) >= 2, "the leaf and, last, the roots"
    assert all(pem.count("BEGIN CERTIFICATE") == 1 for pem in chain[:-1])
    assert identities(chain) == [SLEEP]
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    assert leaf.public_key() == key.public_key()
    assert list(leaf.subject) == []
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(usage)
    assert leaf.not_valid_before_utc <= before
    assert before + datetime.timedelta(hours=23) < leaf.not_valid_after_utc < before + datetime.timedelta(hours=25)

    # Signed, link by link, up to the root of the mesh.
    issuers = [x509.load_pem_x509_certificate(pem.encode()) for pem in chain[1:-1]]
    roots = x509.load_pem_x509_certificates(chain[-1].encode())
    assert x509.load_pem_x509_certificates(fairway.root_certificate()) == roots
    certificate = leaf
    for issuer in [*issuers, roots[0]]:
        certificate.verify_directly_issued_by(issuer)
        certificate = issuer


def test_the_identity_is_the_callers_and_not_the_requests(fairway, channel):
    chain = request(channel, fairway.token("default", "sleep"), csr=signing_request(uri=NOTSLEEP))
    assert identities(chain) == [SLEEP]


def test_ztunnel_gets_its_own_identity_unless_it_impersonates(fairway, channel):
    assert identities(request(channel, fairway.ztunnel_token("node-a"))) == [ZTUNNEL]


def test_ztunnel_impersonates_a_pod_of_its_node(fairway, channel):
    assert identities(request(channel, fairway.ztunnel_token("node-a"), impersonate=SLEEP)) == [SLEEP]
    assert identities(request(channel, fairway.ztunnel_token("node-b"), impersonate=NOTSLEEP)) == [NOTSLEEP]


@pytest.mark.parametrize("identity", [
    pytest.param(NOTSLEEP, id="a pod of another node"),
    pytest.param("spiffe://cluster.local/ns/default/sa/nobody", id="no pod"),
    pytest.param("spiffe://other.domain/ns/default/sa/sleep", id="another trust domain"),
    pytest.param("default/sleep", id="no identity"),
])
def test_ztunnel_impersonates_nobody_else(fairway, channel, identity):
    assert refusal(channel, fairway.ztunnel_token("node-a"), impersonate=identity) in REFUSED


def test_a_token_bound_to_no_pod_impersonates_nobody(fairway, channel):
    assert refusal(channel, fairway.token("istio-system", "ztunnel"), impersonate=SLEEP) in REFUSED


def test_a_token_of_an_earlier_pod_impersonates_nobody(fairway, channel):
    [pod] = [pod for pod in objects(fairway.config, "Pod") if pod["metadata"]["name"] == "ztunnel-8hxkd"]
    pod["metadata"]["uid"] = "00000000-0000-4000-8000-999999999999"
    assert refusal(channel, fairway.token("istio-system", "ztunnel", pod), impersonate=SLEEP) in REFUSED


def test_an_application_impersonates_nobody(fairway, channel):
    [pod] = [pod for pod in objects(fairway.config, "Pod") if pod["spec"]["serviceAccountName"] == "sleep"]
    productpage = "spiffe://cluster.local/ns/bookinfo/sa/bookinfo-productpage"
    assert refusal(channel, fairway.token("default", "sleep", pod), impersonate=productpage) in REFUSED


def test_nobody_gets_nothing(channel):
    assert refusal(channel, None) == grpc.StatusCode.UNAUTHENTICATED
    assert refusal(channel, "nonsense") == grpc.StatusCode.UNAUTHENTICATED


def test_a_broken_request_is_the_callers_mistake(fairway, channel):
    assert refusal(channel, fairway.token("default", "sleep"), csr="nonsense") == grpc.StatusCode.INVALID_ARGUMENT


def test_a_request_signed_by_another_key_is_refused(fairway, channel):
    """Else anybody could have a certificate for a key they do not hold."""
    pem = signing_request()
    der = bytearray(x509.load_pem_x509_csr(pem.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    tampered = x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM).decode()
    assert refusal(channel, fairway.token("default", "sleep"), csr=tampered) == grpc.StatusCode.INVALID_ARGUMENT


def test_certificates_are_not_handed_out_in_plaintext(fairway):
    with fairway.plaintext() as channel:
        assert refusal(channel, fairway.token("default", "sleep")) in REFUSED | {grpc.StatusCode.UNIMPLEMENTED}
