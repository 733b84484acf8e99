//! X.509 certificates that vouch for signing keys (RFC 5280), judged as OpenSSF Model Signing judges them: at the time from
//! which the signing certificate is valid, since a signature carries no time of its own.

use super::{
    Curve, SigningError, VerifyingKey,
    key::absent,
    pem::{self},
};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use std::{path::Path, time::Duration};
use x509_cert::{
    TbsCertificate,
    der::{Decode, Encode, Reader, SliceReader, asn1::ObjectIdentifier, oid::AssociatedOid},
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage},
};

/// Certificates between a signing certificate and a trusted one, at most.
const MAX_CHAIN: usize = 8;
/// Extension of certificates: how the key may be used beyond `KeyUsage`; this value is for code signing.
const CODE_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.3");
/// Extensions that may be critical: key usage, subject alternative name, basic constraints, policies, extended key usage.
const UNDERSTOOD: [&str; 5] = ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.32", "2.5.29.37"];
/// Limits the names that a CA may vouch for; no such limit is checked here, so no such CA is trusted.
const NAME_CONSTRAINTS: &str = "2.5.29.30";

/// A parsed certificate.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    /// The signed part of `der`.
    signed: Vec<u8>,
    algorithm: ObjectIdentifier,
    signature: Vec<u8>,
    parsed: TbsCertificate,
}

impl Certificate {
    /// Reads all certificates of a PEM file.
    ///
    /// # Errors
    /// Returns [`SigningError`] that names the file, and the certificate if one cannot be parsed.
    pub fn read(path: &Path) -> Result<Vec<Self>, SigningError> {
        let blocks = pem::read(path)?;
        let ders = blocks.iter().filter(|b| b.label == "CERTIFICATE");
        let parse =
            |(at, b): (usize, &pem::Block)| Self::from_der(&format!("{}: certificate {}", path.display(), at + 1), &b.der);
        let all = ders.enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() { Err(absent(path, "certificate", &blocks)) } else { Ok(all) }
    }

    /// Parses DER; `name` says in errors which certificate it is.
    ///
    /// # Errors
    /// Returns [`SigningError::Certificate`] if it is malformed.
    pub fn from_der(name: &str, der: &[u8]) -> Result<Self, SigningError> {
        let refused = |reason: String| SigningError::Certificate { name: name.to_owned(), reason };
        let parsed = x509_cert::Certificate::from_der(der).map_err(|e| refused(format!("not a certificate: {e}")))?;
        if parsed.signature_algorithm != parsed.tbs_certificate.signature {
            return Err(refused("it names two different algorithms for its signature".into()));
        }
        Ok(Self {
            der: der.to_vec(),
            signed: signed_part(der).map_err(|e| refused(e.to_string()))?,
            algorithm: parsed.signature_algorithm.oid,
            signature: parsed.signature.as_bytes().ok_or_else(|| refused("its signature is not whole bytes".into()))?.to_vec(),
            parsed: parsed.tbs_certificate,
        })
    }

    /// As it came.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whose key it vouches for, as text.
    pub fn subject(&self) -> String {
        self.parsed.subject.to_string()
    }

    /// The key it vouches for, if that can sign models.
    ///
    /// # Errors
    /// Returns [`SigningError::Unsupported`] for other kinds of keys.
    pub fn key(&self) -> Result<VerifyingKey, SigningError> {
        let spki = self.parsed.subject_public_key_info.to_der().ok();
        spki.and_then(|der| VerifyingKey::from_spki(&der))
            .ok_or_else(|| SigningError::Unsupported(format!("certificate `{}`", self.subject())))
    }

    fn refused(&self, reason: impl Into<String>) -> SigningError {
        SigningError::Chain { subject: self.subject(), reason: reason.into() }
    }

    /// Whether `issuer` made this certificate: its name, and its key's signature.
    fn is_issued_by(&self, issuer: &Self) -> bool {
        if self.parsed.issuer != issuer.parsed.subject {
            return false;
        }
        let Ok(spki) = issuer.parsed.subject_public_key_info.to_der() else { return false };
        let curve = VerifyingKey::from_spki(&spki).map(|key| key.curve());
        let Some(algorithm) = algorithm(&self.algorithm, curve) else { return false };
        UnparsedPublicKey::new(algorithm, spki).verify(&self.signed, &self.signature).is_ok()
    }

    fn is_self_signed(&self) -> bool {
        self.is_issued_by(self)
    }

    fn extension<'a, T: Decode<'a> + AssociatedOid>(&'a self, what: &str) -> Result<Option<T>, SigningError> {
        let found = self.parsed.get::<T>().map_err(|e| self.refused(format!("its {what} is malformed: {e}")))?;
        Ok(found.map(|(_, value)| value))
    }

    /// What holds for every certificate of a chain.
    fn check(&self, time: Duration) -> Result<(), SigningError> {
        let validity = &self.parsed.validity;
        if time < validity.not_before.to_unix_duration() || time > validity.not_after.to_unix_duration() {
            let (from, until) = (validity.not_before, validity.not_after);
            return Err(self.refused(format!("valid from {from} until {until}, not when the signing certificate begins")));
        }
        for extension in self.parsed.extensions.iter().flatten() {
            let oid = extension.extn_id.to_string();
            if oid == NAME_CONSTRAINTS || (extension.critical && !UNDERSTOOD.contains(&oid.as_str())) {
                return Err(self.refused(format!("the extension {oid} limits it in a way that is not understood here")));
            }
        }
        Ok(())
    }

    /// What holds for one that vouches for others, `below` of which lie between it and the signing certificate.
    fn check_authority(&self, below: usize) -> Result<(), SigningError> {
        let limits = self.extension::<BasicConstraints>("basic constraints")?.filter(|b| b.ca);
        let limits = limits.ok_or_else(|| self.refused("not a certificate authority's"))?;
        if limits.path_len_constraint.is_some_and(|most| below > usize::from(most)) {
            return Err(
                self.refused(format!("vouches through at most {} others, not {below}", limits.path_len_constraint.unwrap_or(0)))
            );
        }
        match self.extension::<KeyUsage>("key usage")? {
            Some(usage) if !usage.key_cert_sign() => Err(self.refused("its key may not sign certificates")),
            _ => Ok(()),
        }
    }

    /// Key usage must allow signatures, or extended key usage code signing.
    fn check_may_sign(&self) -> Result<(), SigningError> {
        let usage = self.extension::<KeyUsage>("key usage")?;
        let extended = self.extension::<ExtendedKeyUsage>("extended key usage")?;
        match usage.is_some_and(|u| u.digital_signature()) || extended.is_some_and(|e| e.0.contains(&CODE_SIGNING)) {
            true => Ok(()),
            false => Err(self.refused("neither key usage `digital signature` nor extended key usage `code signing` is set")),
        }
    }
}

/// The key of the signing certificate, the first of `chain`, if certificates lead from it to a self-signed one of `trusted`.
/// The others of `chain`, and those of `trusted` that are not self-signed, can lie between.
///
/// # Errors
/// Returns [`SigningError::Chain`] with the certificate where it ends, and why.
pub fn verify_chain(chain: &[Certificate], trusted: &[Certificate]) -> Result<VerifyingKey, SigningError> {
    let nothing = || SigningError::Chain { subject: "(none)".into(), reason: "the signature carries no certificate".into() };
    let (leaf, others) = chain.split_first().ok_or_else(nothing)?;
    let time = leaf.parsed.validity.not_before.to_unix_duration();
    leaf.check(time)?;
    leaf.check_may_sign()?;
    let mut path = vec![leaf];
    while let Some(last) = path.last().copied() {
        if last.is_self_signed() {
            return match trusted.iter().any(|c| c.der == last.der) {
                true => leaf.key(),
                false => Err(last.refused("self-signed and not among the trusted certificates")),
            };
        }
        if path.len() > MAX_CHAIN {
            return Err(last.refused(format!("more than {MAX_CHAIN} certificates lead here, and none is trusted")));
        }
        let unused = |c: &&Certificate| !path.iter().any(|p| p.der == c.der);
        let issuers = trusted.iter().chain(others).filter(unused).filter(|c| last.is_issued_by(c));
        let mut problem = last.refused(format!("its issuer `{}` is not among the certificates given", last.parsed.issuer));
        let usable = |c: &&Certificate| match c.check(time).and_then(|()| c.check_authority(path.len() - 1)) {
            Ok(()) => true,
            Err(e) => {
                problem = e;
                false
            }
        };
        let next = { issuers }.find(usable);
        path.push(next.ok_or(problem)?);
    }
    Err(nothing())
}

/// The first element of the outer sequence, byte for byte.
fn signed_part(der: &[u8]) -> Result<Vec<u8>, x509_cert::der::Error> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|inner| {
        let signed = inner.tlv_bytes()?.to_vec();
        inner.tlv_bytes()?;
        inner.tlv_bytes()?;
        Ok(signed)
    })
}

/// How a certificate was signed: by its algorithm's identifier, and the curve of the issuer's key if it is on one.
fn algorithm(oid: &ObjectIdentifier, curve: Option<Curve>) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (oid.to_string().as_str(), curve) {
        ("1.2.840.113549.1.1.11", None) => &RSA_PKCS1_2048_8192_SHA256,
        ("1.2.840.113549.1.1.12", None) => &RSA_PKCS1_2048_8192_SHA384,
        ("1.2.840.113549.1.1.13", None) => &RSA_PKCS1_2048_8192_SHA512,
        ("1.3.101.112", None) => &ED25519,
        ("1.2.840.10045.4.3.2", Some(Curve::P256)) => &ECDSA_P256_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some(Curve::P256)) => &ECDSA_P256_SHA384_ASN1,
        ("1.2.840.10045.4.3.4", Some(Curve::P256)) => &ECDSA_P256_SHA512_ASN1,
        ("1.2.840.10045.4.3.2", Some(Curve::P384)) => &ECDSA_P384_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some(Curve::P384)) => &ECDSA_P384_SHA384_ASN1,
        ("1.2.840.10045.4.3.4", Some(Curve::P384)) => &ECDSA_P384_SHA512_ASN1,
        ("1.2.840.10045.4.3.2", Some(Curve::P521)) => &ECDSA_P521_SHA256_ASN1,
        ("1.2.840.10045.4.3.3", Some(Curve::P521)) => &ECDSA_P521_SHA384_ASN1,
        ("1.2.840.10045.4.3.4", Some(Curve::P521)) => &ECDSA_P521_SHA512_ASN1,
        _ => return None,
    })
}
