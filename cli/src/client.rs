//! A small blocking client of OpenAI-compatible servers: plain requests, and chats through the encrypted channel of ours (EHBP).

use anyhow::{Context, Result, bail};
use coffer_seal::ehbp::{self, ClientRequest};
use std::{io::Read, time::Duration};
use ureq::{Agent, Body, RequestBuilder, config::ConfigBuilder, http::Response, typestate::AgentScope};

/// Longest answer that is read.
const LIMIT: u64 = 16 << 20;
/// Longest time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// A server and the key to it.
pub(crate) struct Client {
    base: String,
    api_key: String,
    agent: Agent,
}

/// Status and body of an answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Client {
    /// A client of the server at `base`, e.g. `http://127.0.0.1:8080`; without a key if `api_key` is empty.
    pub(crate) fn new(base: &str, api_key: &str) -> Self {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        let agent = secured(config).build().new_agent();
        Self { base: base.trim_end_matches('/').to_owned(), api_key: api_key.to_owned(), agent }
    }

    /// Gets `path`.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        answer(self.authorized(self.agent.get(format!("{}{path}", self.base))).call()?)
    }

    /// Posts `body` in plain text.
    pub(crate) fn post(&self, path: &str, body: &serde_json::Value) -> Result<Answer> {
        let request = self.authorized(self.agent.post(format!("{}{path}", self.base)));
        answer(request.header("content-type", "application/json").send(body.to_string())?)
    }

    fn authorized<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match self.api_key.is_empty() {
            true => request,
            false => request.header("authorization", format!("Bearer {}", self.api_key)),
        }
    }

    /// Posts `body` through the encrypted channel: only this client and the server can read it and the answer.
    pub(crate) fn post_encrypted(&self, path: &str, body: &serde_json::Value) -> Result<Answer> {
        let mut keys = self.agent.get(format!("{}{}", self.base, ehbp::KEYS_PATH)).call()?;
        let keys = keys.body_mut().with_config().limit(1 << 10).read_to_vec()?;
        let (state, encapsulated, sealed) = ClientRequest::seal(&keys, body.to_string().as_bytes())?;
        let mut response = self
            .authorized(self.agent.post(format!("{}{path}", self.base)))
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

fn answer(mut response: Response<Body>) -> Result<Answer> {
    Ok(Answer { status: response.status().as_u16(), body: response.body_mut().with_config().limit(LIMIT).read_to_string()? })
}

/// Adds https, with the certificates that the system trusts.
#[cfg(feature = "remote")]
fn secured(config: ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope> {
    use ureq::tls::{RootCerts, TlsConfig};
    let cryptography = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier);
    config.tls_config(tls.unversioned_rustls_crypto_provider(cryptography).build())
}

#[cfg(not(feature = "remote"))]
fn secured(config: ConfigBuilder<AgentScope>) -> ConfigBuilder<AgentScope> {
    config
}
