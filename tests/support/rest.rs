//! REST, by a client library.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::{Address, Transport, proto};

/// An answer: status, headers, body.
pub struct Rest {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Rest {
    pub async fn call(server: &Address, method: &str, path: &str) -> Self {
        Self::send(Self::request(server, method, path)).await
    }

    pub fn request(server: &Address, method: &str, path: &str) -> RequestBuilder {
        let method: Method = method.parse().unwrap();
        reqwest::Client::new().request(method, server.url(path))
    }

    pub async fn send(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, body: response.text().await.unwrap() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A session of Ada's; its token.
pub async fn create(server: &Address) -> String {
    let created = Rest::call(server, "POST", "/token?name=Ada").await;
    created.json()["token"].as_str().unwrap().to_owned()
}

/// A message in one form for all transports: number, id, who, text.
pub type Entry = (u64, String, String, String);

/// The whole log as a transport shows it, page by page.
pub async fn history(server: &Address, transport: Transport, token: &str) -> Vec<Entry> {
    let mut log: Vec<Entry> = Vec::new();
    loop {
        let after = log.last().map_or(0, |entry| entry.0);
        let page = match transport {
            Transport::Grpc => page_by_grpc(server, token, after).await,
            Transport::Json | Transport::Proto | Transport::Sse => {
                page_by_rest(server, token, after).await
            }
        };
        if page.is_empty() {
            return log;
        }
        log.extend(page);
    }
}

async fn page_by_grpc(server: &Address, token: &str, after: u64) -> Vec<Entry> {
    let after = Some(after.try_into().unwrap());
    let request = proto::RefreshTokenRequest {
        token: token.into(),
        after,
        limit: None,
        ..Default::default()
    };
    let answer = super::client::stub(server).await.refresh_token(request).await.unwrap();
    let entry = |message: proto::Message| {
        let role = if message.role() == proto::Role::User { "user" } else { "assistant" };
        (u64::from(message.seq), message.id, role.to_owned(), message.text)
    };
    answer.into_inner().messages.into_iter().map(entry).collect()
}

async fn page_by_rest(server: &Address, token: &str, after: u64) -> Vec<Entry> {
    let path = format!("/refresh_token?token={token}&after={after}");
    let answer = Rest::call(server, "GET", &path).await.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entry = |message: &Value| {
        let seq = message["seq"].as_u64().unwrap();
        (seq, text(&message["id"]), text(&message["role"]), text(&message["msg"]))
    };
    answer["messages"].as_array().unwrap().iter().map(entry).collect()
}
