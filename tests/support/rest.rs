//! REST, by a client library.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::{Door, Running, proto};

/// An answer: status, headers, body.
pub struct Rest {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: String,
}

impl Rest {
    pub async fn call(server: &Running, method: &str, path: &str) -> Self {
        Self::send(Self::request(server, method, path)).await
    }

    pub fn request(server: &Running, method: &str, path: &str) -> RequestBuilder {
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
pub async fn create(server: &Running) -> String {
    let created = Rest::call(server, "POST", "/token?name=Ada").await;
    created.json()["token"].as_str().unwrap().to_owned()
}

/// The whole log as a door shows it: number, id, who, text, in one form for all.
pub async fn history(
    server: &Running,
    door: Door,
    token: &str,
) -> Vec<(u64, String, String, String)> {
    if door == Door::Grpc {
        let request =
            proto::RefreshTokenRequest { token: token.into(), after: Some(0), limit: None };
        let answer = super::client::stub(server).await.refresh_token(request).await.unwrap();
        let entry = |message: proto::Message| {
            let role = if message.role() == proto::Role::User { "user" } else { "assistant" };
            (u64::from(message.seq), message.id, role.to_owned(), message.text)
        };
        return answer.into_inner().messages.into_iter().map(entry).collect();
    }
    let path = format!("/refresh_token?token={token}&after=0");
    let answer = Rest::call(server, "GET", &path).await.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let entry = |message: &Value| {
        let seq = message["seq"].as_u64().unwrap();
        (seq, text(&message["id"]), text(&message["role"]), text(&message["msg"]))
    };
    answer["messages"].as_array().unwrap().iter().map(entry).collect()
}
