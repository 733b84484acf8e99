//! EHBP (tinfoilsh/encrypted-http-body-protocol, SPEC.md): HPKE on the bodies of HTTP requests and answers.
//! Sans-I/O: bytes in, bytes out. Server and client halves.

/// Path of the key configuration.
pub const KEYS_PATH: &str = "/.well-known/hpke-keys";
/// Content type of the key configuration.
pub const KEYS_TYPE: &str = "application/ohttp-keys";
/// Request header with the encapsulated key, in hex.
pub const ENCAPSULATED_KEY: &str = "ehbp-encapsulated-key";
/// Response header with the nonce, in hex.
pub const RESPONSE_NONCE: &str = "ehbp-response-nonce";

/// The server's key pair, made anew at every start.
pub struct ServerKey;

impl ServerKey {
    /// A fresh X25519 key.
    pub fn generate() -> Self {
        todo!()
    }
    /// The 41-byte key configuration.
    pub fn config(&self) -> Vec<u8> {
        todo!()
    }
    /// Starts to decrypt a request from its `Ehbp-Encapsulated-Key` header.
    pub fn open(&self, encapsulated_key: &str) -> Result<RequestOpener, EhbpError> {
        let _ = encapsulated_key;
        todo!()
    }
}

/// Decrypts the frames of one request body.
pub struct RequestOpener;

impl RequestOpener {
    /// Feeds bytes of the body as they arrive; returns the plaintext of the frames that are whole.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, EhbpError> {
        let _ = bytes;
        todo!()
    }
    /// The end of the body: fails if a frame is cut. Gives the sealer of the response, and its nonce in hex.
    pub fn finish(self) -> Result<(ResponseSealer, String), EhbpError> {
        todo!()
    }
}

/// Encrypts the frames of one response body.
pub struct ResponseSealer;

impl ResponseSealer {
    /// One frame.
    pub fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, EhbpError> {
        let _ = plaintext;
        todo!()
    }
}

/// The client's half of one request.
pub struct ClientRequest;

impl ClientRequest {
    /// Encrypts `body` for the server whose 41-byte key configuration is `config`.
    /// Gives the request's state, the `Ehbp-Encapsulated-Key` header and the framed body.
    pub fn seal(config: &[u8], body: &[u8]) -> Result<(Self, String, Vec<u8>), EhbpError> {
        let _ = (config, body);
        todo!()
    }
    /// Starts to decrypt the response from its `Ehbp-Response-Nonce` header.
    pub fn open(self, response_nonce: &str) -> Result<ResponseOpener, EhbpError> {
        let _ = response_nonce;
        todo!()
    }
}

/// Decrypts the frames of one response body.
pub struct ResponseOpener;

impl ResponseOpener {
    /// Feeds bytes as they arrive; returns the plaintext of the frames that are whole.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, EhbpError> {
        let _ = bytes;
        todo!()
    }
}

/// Why a body was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EhbpError {
    /// The request was encrypted to another key: answer 422.
    #[error("the request was encrypted to another key")]
    WrongKey,
    /// Anything else.
    #[error("encrypted body: {0}")]
    Malformed(String),
}
