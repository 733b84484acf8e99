//! EHBP (tinfoilsh/encrypted-http-body-protocol, SPEC.md): HPKE on the bodies of HTTP requests and answers.
//! Sans-I/O: bytes in, bytes out. Server and client halves.
//!
//! A body is a sequence of frames `u32be length ‖ ciphertext`; a frame of length zero is skipped. The protocol does not
//! detect a body that was cut between two frames: what travels inside has to say where it ends (`[DONE]`, a JSON value).

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{self, HKDF_SHA256, KeyType},
};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::AesGcm256, kdf::HkdfSha256, kem::X25519HkdfSha256, setup_receiver,
    setup_sender,
};
use zeroize::{Zeroize, Zeroizing};

/// Path of the key configuration.
pub const KEYS_PATH: &str = "/.well-known/hpke-keys";
/// Content type of the key configuration.
pub const KEYS_TYPE: &str = "application/ohttp-keys";
/// Request header with the encapsulated key, in hex.
pub const ENCAPSULATED_KEY: &str = "ehbp-encapsulated-key";
/// Response header with the nonce, in hex.
pub const RESPONSE_NONCE: &str = "ehbp-response-nonce";
/// Content type of the answer (422) to [`EhbpError::WrongKey`].
pub const PROBLEM_TYPE: &str = "application/problem+json";
/// Body of the answer (422) to [`EhbpError::WrongKey`]: clients fetch the key configuration again when they see its `type`.
pub const WRONG_KEY_PROBLEM: &str =
    r#"{"type":"urn:ietf:params:ehbp:error:key-config","title":"the request was encrypted to another key","status":422}"#;
/// Largest ciphertext of one frame in bytes, tag included; a longer one is refused from its length alone.
pub const MAX_FRAME: usize = 16 << 20;

const REQUEST_INFO: &[u8] = b"ehbp request";
const RESPONSE_LABEL: &[u8] = b"ehbp response";
const TAG_LEN: usize = 16;
const NONCE_LEN: usize = 12;
/// Length in bytes of X25519 keys, the exported secret, the response nonce and the response key.
const N: usize = 32;
/// RFC 9458 section 3: key id 0, KEM 0x0020 … symmetric suites: 4 bytes, HKDF-SHA256, AES-256-GCM.
const CONFIG_HEAD: [u8; 3] = [0x00, 0x00, 0x20];
const SUITE: [u8; 4] = [0x00, 0x01, 0x00, 0x02];

type Key = <X25519HkdfSha256 as Kem>::PrivateKey;
type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;
type Receiver = hpke::aead::AeadCtxR<AesGcm256, HkdfSha256, X25519HkdfSha256>;
type Sender = hpke::aead::AeadCtxS<AesGcm256, HkdfSha256, X25519HkdfSha256>;

/// The server's key pair, made anew at every start.
pub struct ServerKey {
    private: Key,
    public: PublicKey,
}

impl ServerKey {
    /// A fresh X25519 key.
    pub fn generate() -> Self {
        let (private, public) = X25519HkdfSha256::gen_keypair();
        Self { private, public }
    }

    /// The 41-byte key configuration (RFC 9458 section 3, without the length prefix).
    pub fn config(&self) -> Vec<u8> {
        [&CONFIG_HEAD[..], &self.public.to_bytes(), &[0, SUITE.len() as u8], &SUITE].concat()
    }

    /// Starts to decrypt a request from its `Ehbp-Encapsulated-Key` header: 64 hex digits.
    ///
    /// A request for another key is not noticed here but at its first frame.
    pub fn open(&self, encapsulated_key: &str) -> Result<RequestOpener, EhbpError> {
        let enc = parse_hex(ENCAPSULATED_KEY, encapsulated_key)?;
        let malformed = |_| EhbpError::Malformed(format!("{ENCAPSULATED_KEY} is no X25519 public key"));
        let key = EncappedKey::from_bytes(&enc).map_err(malformed)?;
        let context = setup_receiver(&OpModeR::Base, &self.private, &key, REQUEST_INFO).map_err(malformed)?;
        Ok(RequestOpener { context, enc, frames: Frames::default() })
    }
}

/// Decrypts the frames of one request body.
pub struct RequestOpener {
    context: Receiver,
    enc: [u8; N],
    frames: Frames,
}

impl RequestOpener {
    /// Feeds bytes of the body as they arrive; returns the plaintext of the frames that are whole.
    ///
    /// The caller bounds the sum: nothing here limits how many frames a body has.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, EhbpError> {
        let context = &mut self.context;
        self.frames.push(bytes, |index, frame| {
            context.open(frame, &[]).map_err(|_| match index {
                0 => EhbpError::WrongKey,
                _ => unauthentic(index),
            })
        })
    }

    /// The end of the body: fails if a frame is cut, or if no frame came at all, since only a frame proves that the
    /// sender knows the key that the response will be encrypted to (SPEC.md section 6.4).
    /// Gives the sealer of the response, and its nonce in hex.
    pub fn finish(self) -> Result<(ResponseSealer, String), EhbpError> {
        if self.frames.end()? == 0 {
            return Err(EhbpError::Malformed("the body holds no frame".into()));
        }
        let mut nonce = [0; N];
        getrandom::fill(&mut nonce).map_err(|_| EhbpError::Malformed("no random bytes for the response".into()))?;
        let mut secret = Zeroizing::new([0; N]);
        self.context.export(RESPONSE_LABEL, &mut *secret).map_err(|_| key_failure())?;
        Ok((ResponseSealer(ResponseKey::derive(&secret, &self.enc, &nonce)?), hex::encode(nonce)))
    }
}

/// Encrypts the frames of one response body.
pub struct ResponseSealer(ResponseKey);

impl ResponseSealer {
    /// One frame; several if `plaintext` is longer than [`MAX_FRAME`] allows, none if it is empty.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, EhbpError> {
        frame(plaintext, |chunk| self.0.seal(chunk))
    }
}

/// The client's half of one request.
pub struct ClientRequest {
    context: Sender,
    enc: [u8; N],
}

impl ClientRequest {
    /// Encrypts `body`, which must not be empty, for the server whose key configuration is `config`.
    /// Gives the request's state, the `Ehbp-Encapsulated-Key` header and the framed body.
    pub fn seal(config: &[u8], body: &[u8]) -> Result<(Self, String, Vec<u8>), EhbpError> {
        if body.is_empty() {
            return Err(EhbpError::Malformed("a request without a body cannot be encrypted".into()));
        }
        let key = parse_config(config)?;
        let (enc, mut context) = setup_sender::<AesGcm256, HkdfSha256, X25519HkdfSha256>(&OpModeS::Base, &key, REQUEST_INFO)
            .map_err(|_| EhbpError::Malformed("the server's key is no X25519 public key".into()))?;
        let framed = frame(body, |chunk| context.seal(chunk, &[]).map_err(|_| key_failure()))?;
        let enc: [u8; N] = enc.to_bytes().into();
        Ok((Self { context, enc }, hex::encode(enc), framed))
    }

    /// Starts to decrypt the response from its `Ehbp-Response-Nonce` header: 64 hex digits.
    pub fn open(self, response_nonce: &str) -> Result<ResponseOpener, EhbpError> {
        let nonce = parse_hex(RESPONSE_NONCE, response_nonce)?;
        let mut secret = Zeroizing::new([0; N]);
        self.context.export(RESPONSE_LABEL, &mut *secret).map_err(|_| key_failure())?;
        Ok(ResponseOpener { key: ResponseKey::derive(&secret, &self.enc, &nonce)?, frames: Frames::default() })
    }
}

/// Decrypts the frames of one response body.
pub struct ResponseOpener {
    key: ResponseKey,
    frames: Frames,
}

impl ResponseOpener {
    /// Feeds bytes as they arrive; returns the plaintext of the frames that are whole.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, EhbpError> {
        let key = &mut self.key;
        self.frames.push(bytes, |index, frame| key.open(index, frame))
    }

    /// The end of the body: fails if a frame is cut.
    pub fn finish(self) -> Result<(), EhbpError> {
        self.frames.end().map(|_| ())
    }
}

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EhbpError {
    /// The request was encrypted to another key (or its first frame was changed): answer 422.
    #[error("the request was encrypted to another key")]
    WrongKey,
    /// Anything else: answer 400.
    #[error("encrypted body: {0}")]
    Malformed(String),
}

/// Cuts arriving bytes into frames. Holds at most one unfinished frame, and never reserves more than has arrived.
#[derive(Default)]
struct Frames {
    pending: Vec<u8>,
    opened: u64,
    failed: bool,
}

impl Frames {
    fn push<F>(&mut self, bytes: &[u8], open: F) -> Result<Vec<u8>, EhbpError>
    where
        F: FnMut(u64, &[u8]) -> Result<Vec<u8>, EhbpError>,
    {
        if self.failed {
            return Err(EhbpError::Malformed("an earlier frame was refused".into()));
        }
        let result = self.open_whole(bytes, open);
        self.failed = result.is_err();
        result
    }

    fn open_whole<F>(&mut self, bytes: &[u8], mut open: F) -> Result<Vec<u8>, EhbpError>
    where
        F: FnMut(u64, &[u8]) -> Result<Vec<u8>, EhbpError>,
    {
        self.pending.extend_from_slice(bytes);
        let mut plaintext = Vec::new();
        let mut rest = &self.pending[..];
        while let Some((head, body)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if length > MAX_FRAME || (1..TAG_LEN).contains(&length) {
                let at = self.opened;
                return Err(EhbpError::Malformed(format!(
                    "frame {at} is {length} bytes long: not 0, nor {TAG_LEN} to {MAX_FRAME}"
                )));
            }
            let Some((frame, next)) = body.split_at_checked(length) else { break };
            if length > 0 {
                let mut opened = open(self.opened, frame)?;
                plaintext.extend_from_slice(&opened);
                opened.zeroize();
                self.opened += 1;
            }
            rest = next;
        }
        let consumed = self.pending.len() - rest.len();
        self.pending.drain(..consumed);
        Ok(plaintext)
    }

    /// How many frames were opened.
    fn end(&self) -> Result<u64, EhbpError> {
        match (self.failed, self.pending.len()) {
            (false, 0) => Ok(self.opened),
            (true, _) => Err(EhbpError::Malformed("an earlier frame was refused".into())),
            (_, left) => Err(EhbpError::Malformed(format!("the body ends {left} bytes into frame {}", self.opened))),
        }
    }
}

/// AES-256-GCM under a key that both sides derive from the request's HPKE context (SPEC.md section 4.4).
struct ResponseKey {
    key: LessSafeKey,
    base: [u8; NONCE_LEN],
    sealed: u64,
}

impl ResponseKey {
    fn derive(secret: &[u8; N], enc: &[u8; N], nonce: &[u8; N]) -> Result<Self, EhbpError> {
        let salt = [&enc[..], nonce].concat();
        let prk = hkdf::Salt::new(HKDF_SHA256, &salt).extract(secret);
        let mut key = Zeroizing::new([0; N]);
        let mut base = [0; NONCE_LEN];
        expand(&prk, b"key", &mut *key)?;
        expand(&prk, b"nonce", &mut base)?;
        let key = UnboundKey::new(&AES_256_GCM, &*key).map_err(|_| key_failure())?;
        Ok(Self { key: LessSafeKey::new(key), base, sealed: 0 })
    }

    fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, EhbpError> {
        let nonce = self.nonce(self.sealed);
        self.sealed = self.sealed.checked_add(1).ok_or_else(key_failure)?;
        let mut out = Vec::with_capacity(plaintext.len() + TAG_LEN);
        out.extend_from_slice(plaintext);
        self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut out).map_err(|_| key_failure())?;
        Ok(out)
    }

    fn open(&mut self, index: u64, frame: &[u8]) -> Result<Vec<u8>, EhbpError> {
        let mut out = frame.to_vec();
        let length = match self.key.open_in_place(self.nonce(index), Aad::empty(), &mut out) {
            Ok(plaintext) => plaintext.len(),
            Err(_) => return Err(unauthentic(index)),
        };
        out.truncate(length);
        Ok(out)
    }

    fn nonce(&self, index: u64) -> Nonce {
        let mut nonce = self.base;
        nonce.iter_mut().rev().zip(index.to_be_bytes().iter().rev()).for_each(|(n, i)| *n ^= i);
        Nonce::assume_unique_for_key(nonce)
    }
}

fn expand(prk: &hkdf::Prk, label: &[u8], out: &mut [u8]) -> Result<(), EhbpError> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    prk.expand(&[label], Length(out.len())).and_then(|okm| okm.fill(out)).map_err(|_| key_failure())
}

fn frame<F>(plaintext: &[u8], mut seal: F) -> Result<Vec<u8>, EhbpError>
where
    F: FnMut(&[u8]) -> Result<Vec<u8>, EhbpError>,
{
    let mut out = Vec::with_capacity(plaintext.len() + 4 + TAG_LEN);
    for chunk in plaintext.chunks(MAX_FRAME - TAG_LEN) {
        let ciphertext = seal(chunk)?;
        out.extend_from_slice(&(ciphertext.len() as u32).to_be_bytes());
        out.extend_from_slice(&ciphertext);
    }
    Ok(out)
}

fn parse_hex(header: &str, text: &str) -> Result<[u8; N], EhbpError> {
    let mut out = [0; N];
    hex::decode_to_slice(text.trim(), &mut out).map_err(|e| {
        EhbpError::Malformed(format!("{header}: expected {} hex digits, got {} characters: {e}", 2 * N, text.len()))
    })?;
    Ok(out)
}

/// Takes the public key from the first key configuration, which must offer HKDF-SHA256 with AES-256-GCM.
fn parse_config(config: &[u8]) -> Result<PublicKey, EhbpError> {
    let malformed = |what: &str| EhbpError::Malformed(format!("key configuration of {} bytes: {what}", config.len()));
    let (&[_, kem @ ..], rest) = config.split_first_chunk::<3>().ok_or_else(|| malformed("cut"))?;
    if kem != CONFIG_HEAD[1..] {
        return Err(malformed(&format!("KEM {:#06x} is not X25519 (0x0020)", u16::from_be_bytes(kem))));
    }
    let (key, rest) = rest.split_first_chunk::<N>().ok_or_else(|| malformed("cut"))?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(|| malformed("cut"))?;
    let suites = rest.get(..u16::from_be_bytes(*length) as usize).ok_or_else(|| malformed("cut"))?;
    if !suites.chunks(SUITE.len()).any(|suite| suite == SUITE) {
        return Err(malformed("no suite with HKDF-SHA256 and AES-256-GCM"));
    }
    PublicKey::from_bytes(key).map_err(|_| malformed("no X25519 public key"))
}

fn unauthentic(index: u64) -> EhbpError {
    EhbpError::Malformed(format!("frame {index} was changed, repeated, dropped or moved"))
}

fn key_failure() -> EhbpError {
    EhbpError::Malformed("the exchange's keys are used up".into())
}

#[cfg(test)]
mod tests;
