//! Starting servers and asking them.

use coffer_engine::{Engine, LoadOptions};
use coffer_model::ChatTemplate;
use coffer_server::{Access, Config, Limits, ServedModel, Server, start};
use coffer_store::Model;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

pub(crate) const MODEL: &str = "scribe-8m";
pub(crate) const PROMPT: &str = "It was late in the evening when the carriage";

/// A server and its address.
pub(crate) struct Host {
    pub(crate) server: Server,
}

/// A status, headers by lower-case name, and a body.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

/// A configuration with the demo model, open to everyone. The model is loaded once.
pub(crate) fn config() -> Config {
    static LOADED: OnceLock<(Arc<Engine>, Model)> = OnceLock::new();
    let (engine, model) = LOADED.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/models/scribe-8m");
        let model = coffer_store::open(&path, &[]).unwrap();
        let options = LoadOptions {
            isa: coffer_kernels::Isa::detect().unwrap(),
            threads: 1,
            context: None,
            kv_format: coffer_kernels::KvFormat::default(),
        };
        let engine = Engine::load(&model.config, &*model.weights, options, &mut |_, _| {}).unwrap();
        (Arc::new(engine), model)
    });
    let template = model.template.as_ref().unwrap().source();
    Config {
        model: ServedModel {
            name: MODEL.into(),
            engine: Arc::clone(engine),
            tokenizer: model.tokenizer.clone().unwrap(),
            template: Some(ChatTemplate::new(template, "", "").unwrap()),
            variant: Some(coffer_evidence::VariantDigest([7; 32])),
        },
        access: Access::DangerouslyOpen,
        slots: 4,
        queue: 16,
        kept_prefixes: 64 << 20,
        limits: Limits::default(),
    }
}

/// Starts a server after `change` was made to the configuration.
pub(crate) fn host_with(change: impl FnOnce(&mut Config)) -> Host {
    let mut config = config();
    change(&mut config);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    Host { server: start(listener, config).unwrap() }
}

pub(crate) fn host() -> Host {
    host_with(|_| {})
}

impl Host {
    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        reply(agent().get(self.url(path)).call())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(path, "application/json", body.to_string().as_bytes())
    }

    pub(crate) fn send(&self, path: &str, kind: &str, body: &[u8]) -> Reply {
        reply(agent().post(self.url(path)).header("content-type", kind).send(body))
    }

    /// A chat with one message that must succeed.
    pub(crate) fn chat(&self, more: Value) -> Value {
        let reply = self.post("/v1/chat/completions", &chat_body(more));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.json()
    }

    /// A streamed answer's events, `[DONE]` left out but demanded.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.header("content-type"), "text/event-stream");
        events(&reply.body)
    }

    /// The value of a metric.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|l| l.split([' ', '{']).next() == Some(name));
        line.map_or(0.0, |l| l.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until no sequence runs or waits.
    pub(crate) fn wait_idle(&self) {
        let start = Instant::now();
        while self.metric("coffer_active") + self.metric("coffer_queued") > 0.0 {
            assert!(start.elapsed() < Duration::from_secs(10), "a slot was not freed");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Writes a request by hand and gives the connection.
    pub(crate) fn raw(&self, head: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        stream
    }

    /// Starts a chat by hand; the answer is left unread.
    pub(crate) fn raw_chat(&self, more: Value) -> TcpStream {
        let body = chat_body(more).to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.raw(&head, body.as_bytes())
    }
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// Checks an error's status and code, and that its shape is OpenAI's; gives its message.
    pub(crate) fn error(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        let json = self.json();
        assert_eq!(json["error"]["code"], code, "{}", self.body);
        assert!(json["error"]["type"].is_string() && json["error"].get("param").is_some());
        json["error"]["message"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn agent() -> ureq::Agent {
    let timeout = Some(Duration::from_secs(60));
    ureq::Agent::config_builder().http_status_as_error(false).timeout_global(timeout).build().into()
}

pub(crate) fn reply(result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = result.unwrap();
    let body = response.body_mut().read_to_vec().unwrap();
    Reply {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

/// A chat with one message, greedy and short unless `more` says otherwise.
pub(crate) fn chat_body(more: Value) -> Value {
    let mut body = json!({
        "model": MODEL, "temperature": 0, "max_tokens": 8, "messages": [{"role": "user", "content": PROMPT}],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The objects of a stream of events that ends with `[DONE]`.
pub(crate) fn events(text: &str) -> Vec<Value> {
    let mut events: Vec<&str> = text.split("\n\n").filter_map(|e| e.strip_prefix("data: ")).collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    events.iter().map(|e| serde_json::from_str(e).unwrap()).collect()
}

/// Reads until the peer closes or `text` was seen; gives what was read.
pub(crate) fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => seen.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => panic!("{e}, after {} bytes", seen.len()),
        }
        if String::from_utf8_lossy(&seen).contains(text) {
            break;
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

pub(crate) fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}
