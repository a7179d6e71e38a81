//! TLS: its configuration from the settings, and the messages for failed handshakes.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct,
    RootCertStore, SignatureScheme,
};

use crate::error::{Error, TlsFault, reason};
use crate::settings::{Origin, Tls};
use crate::text;

/// The configuration of TLS.
#[derive(Debug)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    /// The source of the trusted authorities, for messages.
    authorities: String,
    has_certificate: bool,
}

impl Client {
    /// Reads the files that the settings name, or the system's authorities.
    ///
    /// # Errors
    /// [`Error::Config`], naming the setting and the file.
    pub(crate) fn new(tls: &Tls) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Bug(format!("TLS: {error}")))?;
        let (builder, authorities) = if tls.insecure.value {
            let any = Arc::new(AnyCertificate(provider));
            let builder = builder.dangerous().with_custom_certificate_verifier(any);
            (builder, String::new())
        } else {
            let (roots, authorities) = load_roots(tls)?;
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| Error::Bug(format!("TLS: {error}")))?;
            (builder.with_webpki_verifier(verifier), authorities)
        };
        let config = match &tls.cert_file.value {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let certificates = load_certificates(path, &tls.cert_file.origin, "tls.cert_file")?;
                let key = load_key(tls, path)?;
                builder
                    .with_client_auth_cert(certificates, key)
                    .map_err(|error| {
                        let path = display(path);
                        let problem = match error {
                            rustls::Error::InconsistentKeys(_) => {
                                format!("the certificate in {path} does not match the key")
                            }
                            other => format!("{path}: {}", text::one_line(&other.to_string())),
                        };
                        tls.cert_file.origin.unusable("tls.cert_file", problem)
                    })?
            }
        };
        Ok(Self {
            config: Arc::new(config),
            authorities,
            has_certificate: tls.cert_file.value.is_some(),
        })
    }

    /// Returns a connection, before the handshake, to a peer whose certificate has to be for `name`, or
    /// the reason why there can be none.
    pub(crate) fn connection(&self, name: &str) -> Result<ClientConnection, String> {
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| {
            let name = text::escape(name);
            format!("'{name}' is not a name that a certificate can contain")
        })?;
        ClientConnection::new(Arc::clone(&self.config), server_name)
            .map_err(|error| text::one_line(&error.to_string()))
    }

    /// Describes a failure of TLS with a peer whose certificate has to be for `name`.
    pub(crate) fn fault(&self, error: &rustls::Error, name: &str) -> (TlsFault, String) {
        use rustls::Error as Tls;
        match error {
            Tls::InvalidCertificate(error) => {
                (TlsFault::BrokerCertificate, self.certificate_fault(error, name))
            }
            // Before TLS 1.3 brokers send this for a missing certificate, and for much else.
            Tls::AlertReceived(AlertDescription::HandshakeFailure) => (
                TlsFault::ClientCertificate,
                "it refused the TLS handshake: it may require a client certificate, or a different one, or \
                 there is no common cipher"
                    .to_owned(),
            ),
            Tls::AlertReceived(alert) => match client_certificate_fault(*alert) {
                Some(why) if self.has_certificate => {
                    let why = format!("it rejected the client certificate: {why}");
                    (TlsFault::ClientCertificate, why)
                }
                Some(_) => (
                    TlsFault::ClientCertificate,
                    format!(
                        "it requires a client certificate (it said: {alert:?})"
                    ),
                ),
                None if *alert == AlertDescription::ProtocolVersion => (
                    TlsFault::Other,
                    "it supports neither TLS 1.2 nor TLS 1.3, and hello-mq supports nothing older".to_owned(),
                ),
                None => (
                    TlsFault::Other,
                    format!("it refused the TLS handshake: {alert:?}"),
                ),
            },
            other => (TlsFault::Other, text::one_line(&other.to_string())),
        }
    }

    /// Describes the fault of the broker's certificate.
    fn certificate_fault(&self, error: &CertificateError, name: &str) -> String {
        let name = text::escape(name);
        match error {
            CertificateError::UnknownIssuer => format!(
                "its certificate was issued by an untrusted authority ({})",
                self.authorities
            ),
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<_> = presented.iter().map(|name| quote_name(name)).collect();
                match names.as_slice() {
                    [] => format!("its certificate has no name, so it is not valid for '{name}'"),
                    names => {
                        format!(
                            "its certificate is valid for {}, not for '{name}'",
                            names.join(", ")
                        )
                    }
                }
            }
            CertificateError::NotValidForName => format!("its certificate is not valid for '{name}'"),
            CertificateError::ExpiredContext { time, not_after } => format!(
                "its certificate expired on {} ({} ago)",
                date(*not_after),
                duration(*not_after, *time)
            ),
            CertificateError::Expired => "its certificate has expired".to_owned(),
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "its certificate is not valid before {} (in {})",
                date(*not_before),
                duration(*time, *not_before)
            ),
            CertificateError::NotValidYet => "its certificate is not valid yet".to_owned(),
            CertificateError::Revoked => "its certificate was revoked".to_owned(),
            CertificateError::BadSignature => {
                "its certificate's signature is invalid, or its key is too short (RSA needs 2048 bits)"
                    .to_owned()
            }
            CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                "its certificate is signed with an obsolete algorithm, such as SHA-1"
                    .to_owned()
            }
            CertificateError::BadEncoding => "its certificate can't be read".to_owned(),
            CertificateError::Other(error) => match error.to_string().as_str() {
                // 'openssl req -x509' makes such certificates.
                "CaUsedAsEndEntity" => "its certificate is an authority's (CA:TRUE), as self-signed ones \
                    often are, and not a server's"
                    .to_owned(),
                "UnsupportedCertVersion" => "its certificate is not of X.509 version 3".to_owned(),
                other => format!("its certificate is invalid: {}", text::one_line(other)),
            },
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "its certificate is not a server certificate".to_owned()
            }
            other => format!(
                "its certificate is invalid: {}",
                text::one_line(&other.to_string())
            ),
        }
    }
}

/// Returns the fault of our certificate that an alert is about.
fn client_certificate_fault(alert: AlertDescription) -> Option<&'static str> {
    Some(match alert {
        AlertDescription::CertificateRequired => "one is required",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::UnknownCA => "unknown issuer",
        AlertDescription::AccessDenied => "access denied",
        _ => return None,
    })
}

/// Quotes a name of a certificate, which rustls shows with its kind: `DnsName("host")`.
fn quote_name(name: &str) -> String {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .unwrap_or(name);
    let name = inner.trim_matches('"');
    match name.parse::<IpAddr>() {
        Ok(address) => format!("'{address}'"),
        Err(_) => format!("'{}'", text::escape(name)),
    }
}

fn date(time: UnixTime) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Returns the time between two moments, in days if it is long.
fn duration(early: UnixTime, late: UnixTime) -> String {
    const DAY: u64 = 24 * 60 * 60;
    let seconds = late.as_secs().saturating_sub(early.as_secs());
    match seconds / DAY {
        0 => text::rounded(Duration::from_secs(seconds)),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

/// Loads the trusted authorities. Returns their source, too, for messages.
fn load_roots(tls: &Tls) -> Result<(RootCertStore, String), Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &tls.ca_file.value {
        let origin = &tls.ca_file.origin;
        for certificate in load_certificates(path, origin, "tls.ca_file")? {
            roots.add(certificate).map_err(|error| {
                let problem = format!("{}: {}", display(path), text::one_line(&error.to_string()));
                origin.unusable("tls.ca_file", problem)
            })?;
        }
        return Ok((roots, format!("trusted: {}", display(path))));
    }
    let found = rustls_native_certs::load_native_certs();
    // Certificates that rustls cannot parse are left out.
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(
            || "none found".to_owned(),
            |error| text::one_line(&error.to_string()),
        );
        return Err(Error::Config {
            place: "the system's certificate authorities".to_owned(),
            problem: format!(
                "{why}; install them (package ca-certificates), or name a file with --tls-ca-file"
            ),
        });
    }
    Ok((roots, format!("trusted: the system's {added} authorities")))
}

fn load_certificates(
    path: &Path,
    origin: &Origin,
    key: &str,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let wrong = |problem| origin.unusable(key, problem);
    let text = read_file(path).map_err(wrong)?;
    let all = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match all {
        Ok(all) if all.is_empty() => Err(wrong(format!(
            "{} contains no certificate (PEM)",
            display(path)
        ))),
        Ok(all) => Ok(all),
        Err(error) => Err(wrong(not_pem(path, &error))),
    }
}

/// Loads the key of the client's certificate, by default from `cert_file`.
fn load_key(tls: &Tls, cert_file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let (path, origin, key) = match &tls.key_file.value {
        Some(path) => (path.as_path(), &tls.key_file.origin, "tls.key_file"),
        None => (cert_file, &tls.cert_file.origin, "tls.cert_file"),
    };
    let wrong = |problem| origin.unusable(key, problem);
    let text = read_file(path).map_err(wrong)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        let is_encrypted = text
            .windows(b"ENCRYPTED".len())
            .any(|window| window == b"ENCRYPTED");
        let displayed = display(path);
        wrong(match error {
            _ if is_encrypted => {
                format!("the key in {displayed} is encrypted; decrypt it with 'openssl pkey'")
            }
            pem::Error::NoItemsFound if tls.key_file.value.is_none() => {
                format!(
                    "{displayed} contains no key; name the key's file with --tls-key-file or \
                    tls.key_file"
                )
            }
            pem::Error::NoItemsFound => format!("{displayed} contains no key (PEM)"),
            other => not_pem(path, &other),
        })
    })
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path)
        .map_err(|error| format!("cannot read {}: {}", display(path), reason(&error)))
}

/// Describes a PEM error without its own text, which may repeat a part of a key.
fn not_pem(path: &Path, error: &pem::Error) -> String {
    let why = match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end",
        pem::Error::IllegalSectionStart { .. } => "a section has an invalid start",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it can't be parsed",
    };
    format!("{} is not valid PEM: {why}", display(path))
}

fn display(path: &Path) -> String {
    text::escape(&path.display().to_string())
}

/// Accepts any certificate (`--insecure`), but still checks that the peer has its key.
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
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
