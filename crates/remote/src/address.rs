//! From a URL to a store and the name in it.

use crate::error::{Failure, RemoteError};
use coffer_seal::place::redact;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
    multipart::MultipartStore,
    path::Path,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use url::{Host, Url};

const CONNECT_TIMEOUT: &str = "5s";
/// Of one request: the largest are 8 MiB.
const TIMEOUT: &str = "120s";

/// A bucket, container or web server.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// Absent where nothing can be written.
    pub(crate) parts: Option<Arc<dyn MultipartStore>>,
    /// Whether it says what it holds.
    pub(crate) lists: bool,
}

/// Something in a store.
pub(crate) struct Address {
    pub(crate) store: Store,
    pub(crate) path: Path,
    /// The URL, as it may be shown.
    pub(crate) shown: String,
}

impl Address {
    /// The address that `text` is.
    pub(crate) fn parse(text: &str) -> Result<Self, RemoteError> {
        let shown = redact(text);
        let refused = |why: String| Failure::Url(why).at(&shown);
        let url = Url::parse(text).map_err(|e| refused(format!("is no URL: {e}")))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(refused(
                "a URL with a user, a query or a fragment is not taken; credentials come from the environment".into(),
            ));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(refused("names no bucket, container or host; write scheme://BUCKET/NAME".into()));
        }
        // `Url` has resolved these already; what was meant cannot be told.
        if text.split('/').any(|part| matches!(part.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")) {
            return Err(refused("`.` and `..` are not taken in a URL".into()));
        }
        let path = Path::from_url_path(url.path().trim_end_matches('/')).map_err(|e| refused(e.to_string()))?;
        if path.as_ref().is_empty() {
            return Err(refused("names nothing in the bucket; write scheme://BUCKET/NAME".into()));
        }
        Ok(Self { store: store(&url, &shown)?, path, shown: shown.trim_end_matches('/').to_owned() })
    }
}

/// The store of `url`; one for each bucket, so that connections are used again.
fn store(url: &Url, shown: &str) -> Result<Store, RemoteError> {
    static STORES: Mutex<Option<HashMap<String, Store>>> = Mutex::new(None);
    let key = url[..url::Position::BeforePath].to_owned();
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let stores = stores.get_or_insert_default();
    if let Some(store) = stores.get(&key) {
        return Ok(store.clone());
    }
    let store = build(url, &key, shown)?;
    stores.insert(key, store.clone());
    Ok(store)
}

fn build(url: &Url, root: &str, shown: &str) -> Result<Store, RemoteError> {
    let failed = |e: object_store::Error| RemoteError::of(shown, &e);
    match url.scheme() {
        "s3" => s3(root).map(Store::writable).map_err(failed),
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(root).with_retry(retry());
            let builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT);
            let builder = builder.with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT);
            builder.build().map(Store::writable).map_err(failed)
        }
        "az" => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(root).with_retry(retry());
            let builder = builder.with_config(AzureConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT);
            let builder = builder.with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT);
            builder.build().map(Store::writable).map_err(failed)
        }
        "https" | "http" => {
            if url.scheme() == "http" && !is_loopback(url) && !http_is_allowed() {
                let why = "plain http is read from this machine only; use https://, or set AWS_ALLOW_HTTP=true".into();
                return Err(Failure::Url(why).at(shown));
            }
            let options = ClientOptions::new()
                .with_allow_http(url.scheme() == "http")
                .with_config(ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT)
                .with_config(ClientConfigKey::Timeout, TIMEOUT);
            let web = HttpBuilder::new().with_url(root).with_client_options(options).with_retry(retry());
            Ok(Store { objects: Arc::new(web.build().map_err(failed)?), parts: None, lists: false })
        }
        scheme => {
            let why = format!("`{scheme}://` is not known; s3://, gs://, az:// and https:// are");
            Err(Failure::Url(why).at(shown))
        }
    }
}

fn s3(root: &str) -> object_store::Result<object_store::aws::AmazonS3> {
    let builder = AmazonS3Builder::from_env().with_url(root).with_retry(retry());
    let builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::ConnectTimeout), CONNECT_TIMEOUT);
    let builder = builder.with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), TIMEOUT);
    let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint].iter().find_map(|k| builder.get_config_value(k));
    match endpoint.and_then(|endpoint| Url::parse(&endpoint).ok()).is_some_and(|url| is_loopback(&url)) {
        true => builder.with_allow_http(true).build(),
        false => builder.build(),
    }
}

impl Store {
    /// A store that is written by multipart, too.
    pub(crate) fn writable<T: ObjectStore + MultipartStore>(store: T) -> Self {
        let store = Arc::new(store);
        Self { objects: store.clone(), parts: Some(store), lists: true }
    }
}

/// Four tries within about three seconds of waiting: a hiccup passes, and an outage is told while one still looks.
fn retry() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), ..Default::default() };
    RetryConfig { backoff, max_retries: 3, retry_timeout: Duration::from_secs(60) }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn http_is_allowed() -> bool {
    std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value.eq_ignore_ascii_case("true") || value == "1")
}
