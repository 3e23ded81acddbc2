//! TLS as in a cluster: the API server has a certificate of the cluster's own authority, and knows us by a token.

use std::{io, net::SocketAddr, sync::Arc};

use axum::serve::Listener;
use boring::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{
        X509, X509Name,
        extension::{BasicConstraints, SubjectAlternativeName},
    },
};
use kube::Config;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Server, fake_server::FakeServer};

/// Who signs certificates.
struct Authority {
    name: X509Name,
    key: PKey<Private>,
    certificate: X509,
}

impl Authority {
    fn new() -> Self {
        let (name, key) = (named("authority"), new_key());
        let extension = BasicConstraints::new().critical().ca().build().unwrap();
        let certificate = signed(&name, &key, &name, &key, |builder| builder.append_extension(&extension).unwrap());
        Self { name, key, certificate }
    }

    /// TLS for a server at 127.0.0.1.
    fn server(&self) -> TlsAcceptor {
        let key = new_key();
        let certificate = signed(&self.name, &self.key, &named("server"), &key, |builder| {
            let context = builder.x509v3_context(Some(&self.certificate), None);
            let extension = SubjectAlternativeName::new().ip("127.0.0.1").build(&context).unwrap();
            builder.append_extension(&extension).unwrap();
        });
        let chain = vec![CertificateDer::from(certificate.to_der().unwrap())];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.private_key_to_der_pkcs8().unwrap()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()))
    }

    fn root(&self) -> Vec<Vec<u8>> {
        vec![self.certificate.to_der().unwrap()]
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn named(name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    builder.build()
}

fn signed(
    issuer: &X509Name,
    by: &PKey<Private>,
    subject: &X509Name,
    key: &PKey<Private>,
    extend: impl FnOnce(&mut boring::x509::X509Builder),
) -> X509 {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap()).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    extend(&mut builder);
    builder.sign(by, MessageDigest::sha256()).unwrap();
    builder.build()
}

struct Secure {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl Listener for Secure {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

fn access(address: SocketAddr, root: Option<Vec<Vec<u8>>>, token: &str) -> Server {
    let mut config = Config::new(format!("https://{address}").parse().unwrap());
    config.root_cert = root;
    config.auth_info = serde_json::from_value(serde_json::json!({ "token": token })).unwrap();
    Server::new(config).unwrap()
}

#[tokio::test]
async fn server_and_client_prove_who_they_are() {
    let (authority, other) = (Authority::new(), Authority::new());
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = FakeServer::serve(Secure { tcp, tls: authority.server() }, Some("let me in"));
    server.add_node("a", "10.0.0.1");

    let nodes = access(server.address, Some(authority.root()), "let me in").list().await.unwrap();
    assert!(nodes.contains_key("a"));
    let refused = access(server.address, Some(authority.root()), "hello").list().await.unwrap_err().to_string();
    assert_eq!(refused, "listing nodes: Unauthorized of the double (401)");
    for root in [Some(other.root()), None] {
        let refused = access(server.address, root, "let me in").list().await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{refused}");
    }
    assert_eq!(server.calls("GET /api/v1/nodes"), 2, "nothing is said to a server that is not proven");
}
