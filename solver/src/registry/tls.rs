//! Connections: which certificates are trusted and which are shown.

use std::sync::Arc;

use reqwest::{Client, Proxy, redirect};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{HostConfig, RegistryConfig, RegistryError};

/// Where Linux distributions keep the authorities they trust, as one file: Debian and its
/// offspring, Fedora and RHEL, SUSE, Alpine, older RHEL.
const SYSTEM_ROOTS: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
];

/// The authorities that the system trusts. Certificates that cannot be read are left out, as all
/// TLS libraries do. Blocks.
pub(super) fn system_roots() -> Vec<CertificateDer<'static>> {
    let first = SYSTEM_ROOTS
        .iter()
        .find_map(|path| std::fs::read(path).ok());
    let pem = first.unwrap_or_default();
    CertificateDer::pem_slice_iter(&pem).flatten().collect()
}

/// Makes the client of a host: its connections, and nothing that decides by itself where to go.
pub(super) fn client(
    config: &RegistryConfig,
    name: &str,
    host: &HostConfig,
    system: &[CertificateDer<'static>],
) -> Result<Client, RegistryError> {
    let bad = |problem: String| RegistryError::Config {
        host: name.to_owned(),
        problem,
    };
    let mut tls = tls(config, host, system).map_err(bad)?;
    if host.http1_only {
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    } else {
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(redirect::Policy::none())
        .referer(false)
        .connect_timeout(config.timeouts.connect)
        .pool_idle_timeout(std::time::Duration::from_secs(30))
        .user_agent(&config.user_agent)
        .no_proxy();
    if host.http1_only {
        builder = builder.http1_only();
    }
    let proxy = host.proxy.as_ref().or(config.proxy.as_ref());
    if let Some(proxy) = proxy.filter(|_| !host.no_proxy) {
        // The library's message may repeat the address, which may hold a password.
        let proxy = Proxy::all(proxy.reveal());
        builder = builder.proxy(proxy.map_err(|_| bad("the proxy is not a URL".to_owned()))?);
    }
    builder
        .build()
        .map_err(|error| bad(error.without_url().to_string()))
}

fn tls(
    config: &RegistryConfig,
    host: &HostConfig,
    system: &[CertificateDer<'static>],
) -> Result<ClientConfig, String> {
    // Named, never the default of the process: another crate may have set that, or two may have
    // left it open.
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if host.skip_verify {
        let verifier = Arc::new(AnyCertificate(provider));
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    } else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system.iter().cloned());
        for pem in config.roots.iter().chain(&host.roots) {
            let mut some = false;
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate =
                    certificate.map_err(|error| format!("an authority is no PEM: {error}"))?;
                let added = roots.add(certificate);
                added.map_err(|error| format!("an authority is not good: {error}"))?;
                some = true;
            }
            if !some {
                return Err("an authority has no certificate in it".to_owned());
            }
        }
        builder.with_root_certificates(roots)
    };
    let Some(identity) = &host.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = CertificateDer::pem_slice_iter(&identity.certificates)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("the client certificate is no PEM: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(&identity.key)
        .map_err(|_| "the client key is no PEM".to_owned())?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| format!("the client certificate is not good: {error}"))
}

/// Takes any certificate. Signatures are still checked: the peer has the key of what it shows.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
