//! From a generation to a response: one JSON object, or server-sent events.

use super::sampling::Wishes;
use crate::{
    app::App,
    error::{ApiError, json_response},
    generation::{Chosen, Finish, Generation, Job, Piece, Usage},
};
use axum::{
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Duration};

/// Silence after which a comment is sent, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How an endpoint words its answers.
pub(crate) trait Form: Send + 'static {
    /// `object` of a whole answer and of a chunk.
    const OBJECTS: [&'static str; 2];
    /// The first choice of a stream, before any text.
    fn opening(&self) -> Option<Value>;
    /// A choice of a stream with some text.
    fn part(&mut self, text: &str, tokens: &[Chosen]) -> Value;
    /// The last choice of a stream.
    fn closing(&self, finish: Finish) -> Value;
    /// The only choice of a whole answer.
    fn whole(&mut self, text: &str, tokens: &[Chosen], finish: Finish) -> Value;
}

/// Runs `job` and words its answer.
pub(crate) async fn answer<F: Form>(app: Arc<App>, id: String, job: Job, wishes: &Wishes, form: F) -> Result<Response, ApiError> {
    let generation = Generation::start(&app, job)?;
    let envelope = Envelope::new(&app, id, wishes);
    if wishes.stream { Ok(streamed(generation, envelope, form)) } else { collected(generation, &envelope, form).await }
}

/// An answer's identifier: `prefix` and 96 random bits.
pub(crate) fn answer_id(prefix: &str) -> Result<String, ApiError> {
    let mut random = [0u8; 12];
    getrandom::fill(&mut random).map_err(ApiError::internal)?;
    Ok(format!("{prefix}-{}", hex::encode(random)))
}

/// What is the same in every object of an answer.
struct Envelope {
    id: String,
    created: u64,
    model: String,
    fingerprint: Option<String>,
    include_usage: bool,
}

impl Envelope {
    fn new(app: &App, id: String, wishes: &Wishes) -> Self {
        Self {
            id,
            created: crate::app::unix_time(),
            model: app.model.name.clone(),
            fingerprint: app.fingerprint.clone(),
            include_usage: wishes.include_usage,
        }
    }

    fn wrap(&self, object: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        })
    }

    fn chunk(&self, object: &str, choices: &[Value], usage: Option<Usage>) -> Event {
        let mut value = self.wrap(object, choices);
        if self.include_usage {
            value["usage"] = usage.map_or(Value::Null, usage_json);
        }
        Event::default().data(value.to_string())
    }
}

async fn collected<F: Form>(mut generation: Generation, envelope: &Envelope, mut form: F) -> Result<Response, ApiError> {
    let mut all = Piece::default();
    while let Some(piece) = generation.next().await? {
        all.text += &piece.text;
        all.tokens.extend(piece.tokens);
        all.finish = piece.finish;
    }
    let finish = all.finish.unwrap_or(Finish::Stop);
    let mut value = envelope.wrap(F::OBJECTS[0], &[form.whole(&all.text, &all.tokens, finish)]);
    value["usage"] = usage_json(generation.usage());
    Ok(json_response(StatusCode::OK, &value))
}

fn streamed<F: Form>(generation: Generation, envelope: Envelope, form: F) -> Response {
    let opening: Vec<Event> = form.opening().map(|choice| envelope.chunk(F::OBJECTS[1], &[choice], None)).into_iter().collect();
    let events = stream::unfold(Some((generation, envelope, form)), |state| async {
        let (mut generation, envelope, mut form) = state?;
        match generation.next().await {
            Ok(Some(piece)) => Some((events(&piece, &generation, &envelope, &mut form), Some((generation, envelope, form)))),
            Ok(None) => None,
            // No `[DONE]` follows: the client knows that the answer is not whole.
            Err(error) => Some((vec![Event::default().data(error.json().to_string())], None)),
        }
    });
    let events = stream::iter(opening).chain(events.flat_map(stream::iter)).map(Ok::<_, Infallible>);
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

fn events<F: Form>(piece: &Piece, generation: &Generation, envelope: &Envelope, form: &mut F) -> Vec<Event> {
    let object = F::OBJECTS[1];
    let mut events = Vec::new();
    if !piece.text.is_empty() || !piece.tokens.is_empty() {
        events.push(envelope.chunk(object, &[form.part(&piece.text, &piece.tokens)], None));
    }
    if let Some(finish) = piece.finish {
        events.push(envelope.chunk(object, &[form.closing(finish)], None));
        if envelope.include_usage {
            events.push(envelope.chunk(object, &[], Some(generation.usage())));
        }
        events.push(Event::default().data("[DONE]"));
    }
    events
}

fn usage_json(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "prompt_tokens_details": { "cached_tokens": usage.reused },
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    })
}
