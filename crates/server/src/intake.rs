//! What happens to every request before and after its handler: access, body, encryption, counting. One place, so that no
//! answer to an encrypted request, a refusal included, leaves in clear.

use crate::{
    app::App,
    body::{self, BodyError},
    encrypted,
};
use axum::{
    body::Body,
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use std::{sync::Arc, time::Instant};

/// The middleware.
pub(crate) async fn intake(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let response = admit(&app, request, next).await;
    if !response.status().is_success() {
        tracing::warn!(path, status = response.status().as_u16(), "request refused");
    }
    app.metrics.request(&path, response.status(), start.elapsed());
    response
}

async fn admit(app: &App, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut verdict = app.gate.check(parts.uri.path(), &parts.headers).await;
    let opener = match encrypted::opener(&app.ehbp, &parts.headers) {
        Ok(opener) => opener,
        Err(e) => return encrypted::refuse(&e),
    };
    let received = match body::receive(body, &parts.headers, opener, verdict.is_ok(), &app.limits).await {
        Ok(received) => received,
        Err(BodyError::Plain(e)) => return e.into_response(),
        Err(BodyError::Encrypted(e)) => return encrypted::refuse(&e),
    };
    if verdict.is_ok() && received.too_large {
        verdict = Err(body::too_large(app.limits.body));
    }
    let response = match verdict {
        Ok(()) => next.run(Request::from_parts(parts, Body::from(received.bytes))).await,
        Err(e) => e.into_response(),
    };
    match received.sealer {
        Some((sealer, nonce)) => encrypted::seal(response, sealer, &nonce),
        None => response,
    }
}
