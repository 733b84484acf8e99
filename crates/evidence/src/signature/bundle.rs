//! The signature file: a Sigstore bundle v0.3 around a DSSE envelope.

use super::{MAX_LEN, SignatureChecked, SignatureError, Statement};
use base64ct::{Base64, Encoding};
use coffer_seal::signing::{Certificate, SigningError, SigningKey, VerifyingKey, verify_chain};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use std::path::Path;

const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Certificates in a signature, at most.
const MAX_CERTIFICATES: usize = 16;

/// A signature file, parsed and not yet believed.
#[derive(Clone, Debug)]
pub struct Signature {
    made: Made,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// How it was made, as it says.
#[derive(Clone, Debug)]
enum Made {
    /// With a key of this fingerprint; old files do not say which.
    Key(Option<String>),
    /// With the key of the first of these certificates, in DER.
    Certificates(Vec<Vec<u8>>),
    /// With a certificate that an identity provider's word was good for.
    Keyless,
}

/// Whose signatures are believed.
pub enum Trust {
    /// This key's.
    Key(VerifyingKey),
    /// Those of certificates that lead to one of these.
    Certificates(Vec<Certificate>),
}

/// Who signs.
pub struct Signer {
    key: SigningKey,
    chain: Vec<Certificate>,
}

impl Trust {
    /// Reads a PEM file with a public key, or with certificates.
    ///
    /// # Errors
    /// Returns [`SignatureError::Signing`] if it holds neither.
    pub fn read(path: &Path) -> Result<Self, SignatureError> {
        match Certificate::read(path) {
            Ok(certificates) => Ok(Self::Certificates(certificates)),
            Err(SigningError::Absent { .. }) => Ok(Self::Key(VerifyingKey::read(path)?)),
            Err(e) => Err(e.into()),
        }
    }
}

impl Signer {
    /// Signs with `key`. `chain` is empty, or begins with the key's own certificate, followed by those that vouch for it.
    ///
    /// # Errors
    /// Returns [`SignatureError`] if the first certificate is for another key.
    pub fn new(key: SigningKey, chain: Vec<Certificate>) -> Result<Self, SignatureError> {
        if let Some(leaf) = chain.first()
            && leaf.key()? != key.verifying_key()?
        {
            return Err(SignatureError::NotItsCertificate(leaf.subject()));
        }
        if chain.len() > MAX_CERTIFICATES {
            return Err(SignatureError::Bundle(format!("{} certificates; at most {MAX_CERTIFICATES}", chain.len())));
        }
        Ok(Self { key, chain })
    }

    /// What its signatures are verified with.
    ///
    /// # Errors
    /// Returns [`SignatureError`] if the cryptographic library fails.
    pub fn key(&self) -> Result<VerifyingKey, SignatureError> {
        Ok(self.key.verifying_key()?)
    }

    /// The signature file for `statement`.
    ///
    /// # Errors
    /// Returns [`SignatureError::Signing`] if the cryptographic library fails.
    pub fn sign(&self, statement: &Statement) -> Result<String, SignatureError> {
        let payload = statement.to_json();
        let signature = self.key.sign(&authenticated(payload.as_bytes()))?;
        let file = json!({
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": self.material()?,
            "dsseEnvelope": {
                "payload": Base64::encode_string(payload.as_bytes()),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{ "sig": Base64::encode_string(&signature), "keyid": "" }],
            },
        });
        Ok(format!("{file:#}\n"))
    }

    fn material(&self) -> Result<Value, SignatureError> {
        if self.chain.is_empty() {
            return Ok(json!({ "publicKey": { "hint": self.key.verifying_key()?.fingerprint() }, "tlogEntries": [] }));
        }
        let certificate = |c: &Certificate| json!({ "rawBytes": Base64::encode_string(c.der()) });
        let certificates: Vec<Value> = self.chain.iter().map(certificate).collect();
        Ok(json!({ "x509CertificateChain": { "certificates": certificates }, "tlogEntries": [] }))
    }
}

impl Signature {
    /// Parses a signature file. Nothing in it is believed before [`Self::verify`].
    ///
    /// # Errors
    /// Returns [`SignatureError`] that says what is malformed.
    pub fn parse(json: &[u8]) -> Result<Self, SignatureError> {
        if json.len() as u64 > MAX_LEN {
            return Err(SignatureError::TooLong(json.len() as u64));
        }
        let file: Json = serde_json::from_slice(json).map_err(|e| SignatureError::Bundle(e.to_string()))?;
        let envelope = file.dsse_envelope;
        for (field, found, known) in
            [("mediaType", &file.media_type, MEDIA_TYPE), ("payloadType", &envelope.payload_type, PAYLOAD_TYPE)]
        {
            if found != known {
                return Err(SignatureError::Bundle(format!("{field} is `{found}`; only `{known}` is known here")));
            }
        }
        let [signature] = envelope.signatures.as_slice() else {
            return Err(SignatureError::Bundle(format!("{} signatures; there must be one", envelope.signatures.len())));
        };
        Ok(Self {
            made: file.verification_material.made()?,
            payload: decode("payload", &envelope.payload)?,
            signature: decode("sig", &signature.sig)?,
        })
    }

    /// Checks that somebody trusted made it, and gives what was signed.
    ///
    /// # Errors
    /// Returns [`SignatureError`] if somebody else made it, or if what was signed is no statement about a model.
    pub fn verify(&self, trust: &Trust) -> Result<SignatureChecked, SignatureError> {
        let (key, signer) = self.trusted_key(trust)?;
        key.verify(&authenticated(&self.payload), &self.signature)?;
        Ok(SignatureChecked { statement: Statement::parse(&self.payload)?, signer })
    }

    /// The key that must have signed, and who that is.
    fn trusted_key(&self, trust: &Trust) -> Result<(VerifyingKey, String), SignatureError> {
        match (&self.made, trust) {
            (Made::Keyless, _) => Err(SignatureError::Keyless),
            (Made::Key(_), Trust::Certificates(_)) => Err(SignatureError::Kind { made: "a key", remedy: "the public key" }),
            (Made::Certificates(_), Trust::Key(_)) => {
                Err(SignatureError::Kind { made: "a certificate", remedy: "the certificate that issued it" })
            }
            (Made::Key(made), Trust::Key(key)) => {
                let trusted = key.fingerprint();
                match made {
                    Some(made) if *made != trusted => Err(SignatureError::Key { made: made.clone(), trusted }),
                    _ => Ok((key.clone(), format!("key {trusted}"))),
                }
            }
            (Made::Certificates(ders), Trust::Certificates(trusted)) => {
                let parse =
                    |(at, der): (usize, &Vec<u8>)| Certificate::from_der(&format!("signature: certificate {}", at + 1), der);
                let chain = ders.iter().enumerate().map(parse).collect::<Result<Vec<_>, _>>()?;
                let key = verify_chain(&chain, trusted)?;
                Ok((key, chain.first().map(Certificate::subject).unwrap_or_default()))
            }
        }
    }
}

/// DSSE's pre-authentication encoding: what the signature is over.
fn authenticated(payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

fn decode(field: &str, base64: &str) -> Result<Vec<u8>, SignatureError> {
    Base64::decode_vec(base64).map_err(|_| SignatureError::Bundle(format!("{field} is not base64")))
}

/// A field that is unknown is refused: it could carry a meaning that is missed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Json {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Material {
    public_key: Option<KeyName>,
    x509_certificate_chain: Option<Chain>,
    certificate: Option<IgnoredAny>,
    tlog_entries: Option<Vec<IgnoredAny>>,
    #[serde(rename = "timestampVerificationData")]
    _timestamps: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct KeyName {
    hint: Option<String>,
}

#[derive(Deserialize)]
struct Chain {
    certificates: Vec<RawBytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBytes {
    raw_bytes: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    sig: String,
    #[serde(rename = "keyid")]
    _keyid: Option<String>,
}

impl Material {
    fn made(self) -> Result<Made, SignatureError> {
        match (self.public_key, self.x509_certificate_chain, self.certificate) {
            (Some(key), None, None) => Ok(Made::Key(key.hint.filter(|hint| !hint.is_empty()))),
            (None, Some(chain), None) => match chain.certificates.len() {
                1..=MAX_CERTIFICATES => {
                    let ders = chain.certificates.iter().map(|c| decode("rawBytes", &c.raw_bytes));
                    Ok(Made::Certificates(ders.collect::<Result<_, _>>()?))
                }
                many => Err(SignatureError::Bundle(format!("{many} certificates; 1 to {MAX_CERTIFICATES} are possible"))),
            },
            (None, None, Some(_)) if self.tlog_entries.is_none_or(|entries| entries.is_empty()) => Err(SignatureError::Bundle(
                "a certificate of Sigstore's without tlogEntries: nothing shows that it was valid when it signed".into(),
            )),
            (None, None, Some(_)) => Ok(Made::Keyless),
            (None, None, None) => {
                Err(SignatureError::Bundle("verificationMaterial names neither a key nor a certificate".into()))
            }
            _ => {
                Err(SignatureError::Bundle("verificationMaterial names more than one of a key, a chain and a certificate".into()))
            }
        }
    }
}
