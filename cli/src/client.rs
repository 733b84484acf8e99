//! A small blocking client of the server: plain requests, and chats through the encrypted channel (EHBP).

use anyhow::{Context, Result, bail};
use coffer_seal::ehbp::{self, ClientRequest};
use std::io::Read;

/// Longest answer that is read.
const LIMIT: u64 = 16 << 20;

/// A server and the key to it.
pub(crate) struct Client {
    base: String,
    api_key: String,
    agent: ureq::Agent,
}

/// Status and body of an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Client {
    /// A client of the server at `base`, e.g. `http://127.0.0.1:8080`.
    pub(crate) fn new(base: &str, api_key: &str) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        Self { base: base.trim_end_matches('/').to_owned(), api_key: api_key.to_owned(), agent: config.new_agent() }
    }

    /// Posts `body` in plain text.
    pub(crate) fn post(&self, path: &str, body: &serde_json::Value) -> Result<Answer> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("authorization", format!("Bearer {}", self.api_key));
        let mut response = request.header("content-type", "application/json").send(body.to_string())?;
        Ok(Answer { status: response.status().as_u16(), body: response.body_mut().with_config().limit(LIMIT).read_to_string()? })
    }

    /// Posts `body` through the encrypted channel: only this client and the server can read it and the answer.
    pub(crate) fn post_encrypted(&self, path: &str, body: &serde_json::Value) -> Result<Answer> {
        let mut keys = self.agent.get(format!("{}{}", self.base, ehbp::KEYS_PATH)).call()?;
        let keys = keys.body_mut().with_config().limit(1 << 10).read_to_vec()?;
        let (state, encapsulated, sealed) = ClientRequest::seal(&keys, body.to_string().as_bytes())?;
        let mut response = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.api_key))
            .header("content-type", "application/json")
            .header(ehbp::ENCAPSULATED_KEY, encapsulated)
            .send(&sealed[..])?;
        let status = response.status().as_u16();
        let Some(nonce) = response.headers().get(ehbp::RESPONSE_NONCE) else {
            bail!("{}{path}: the answer (status {status}) is not encrypted", self.base);
        };
        let mut opener = state.open(nonce.to_str().context("response nonce is not text")?)?;
        let mut sealed = Vec::new();
        response.body_mut().as_reader().take(LIMIT).read_to_end(&mut sealed)?;
        let plain = opener.push(&sealed)?;
        Ok(Answer { status, body: String::from_utf8(plain).context("answer is not UTF-8")? })
    }
}
