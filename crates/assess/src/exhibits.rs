//! What a demonstration showed beside the measurements: a refused file, a sealed model, an encrypted answer.
//! Whoever ran it fills these in; the report shows them.

/// Evidence for the report; parts that were not shown are `None`.
#[derive(Clone, Debug, Default)]
pub struct Exhibits {
    /// A malicious file that the scanner refused.
    pub refused_file: Option<RefusedFile>,
    /// A model that was sealed.
    pub sealing: Option<Sealing>,
    /// A question that was asked through the encrypted channel.
    pub serving: Option<Serving>,
}

/// A malicious file that the scanner refused.
#[derive(Clone, Debug, serde::Serialize)]
pub struct RefusedFile {
    /// Name of the file.
    pub file: String,
    /// What loading it would have done.
    pub would_have: String,
    /// What the scanner found.
    pub findings: Vec<coffer_scan::Finding>,
}

/// A sealed model and the attempts on it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Sealing {
    /// The variant that was sealed.
    pub variant: String,
    /// Public key that it was sealed to.
    pub recipient: String,
    /// Bytes of the model's files.
    pub plain_bytes: u64,
    /// Bytes of the bundle.
    pub sealed_bytes: u64,
    /// Strings of the model (tensor names, pieces of weights) that were looked for in the bundle.
    pub strings_searched: u64,
    /// How many of them were found.
    pub strings_found: u64,
    /// Attempts that had to fail.
    pub attempts: Vec<Attempt>,
}

/// Something that must be refused, and what came of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Attempt {
    /// What was tried, e.g. `open after flipping byte 4711 of weights`.
    pub what: String,
    /// Whether it was refused.
    pub refused: bool,
    /// The error, or what happened instead.
    pub outcome: String,
}

/// A question that was asked through the encrypted channel, as both sides of the wire saw it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Serving {
    /// The variant that answered.
    pub variant: String,
    /// Attempts that had to fail, e.g. a request without an API key.
    pub attempts: Vec<Attempt>,
    /// What the client asked.
    pub prompt: String,
    /// What the client read.
    pub answer: String,
    /// Bytes on the wire, both ways.
    pub wire_bytes: u64,
    /// Bytes of prompt and answer among them that could be read.
    pub readable_bytes: u64,
    /// The first bytes of the request's body as an eavesdropper saw them.
    #[serde(serialize_with = "hexadecimal")]
    pub seen_request: Vec<u8>,
    /// The first bytes of the answer's body as an eavesdropper saw them.
    #[serde(serialize_with = "hexadecimal")]
    pub seen_answer: Vec<u8>,
}

fn hexadecimal<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex::encode(bytes))
}
