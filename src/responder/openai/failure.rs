//! Failures of an upstream: maps its errors to a [`Reason`].

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind},
    time::Duration,
};

use super::error_body::ErrorBody;
use crate::{
    responder::upstream::{
        Reason,
        redact::{self, Vocabulary},
    },
    telemetry::{causes, error_chain},
};

#[derive(Clone, Debug)]
pub(super) struct UpstreamError {
    pub(super) reason: Reason,
    /// The cause, for the log.
    pub(super) cause: String,
    /// The text of the upstream. It may contain anything.
    pub(super) upstream_text: String,
    /// The pause that the upstream asked for.
    pub(super) retry_after: Option<Duration>,
    /// The response had no event. Some servers refuse a prompt that is too long in this way.
    pub(super) is_empty: bool,
    /// The connection ended before any response. It may have been a reused one that the server was
    /// closing.
    pub(super) is_lost: bool,
}

impl UpstreamError {
    pub(super) fn new(reason: Reason, cause: impl fmt::Display) -> Self {
        let (cause, upstream_text) = (cause.to_string(), String::new());
        Self { reason, cause, upstream_text, retry_after: None, is_empty: false, is_lost: false }
    }

    /// The failure of the HTTP client. Its URL is removed, since it may contain a key.
    pub(super) fn of_client(error: reqwest::Error, otherwise: Reason) -> Self {
        let reason = match (error.is_connect(), error.is_timeout()) {
            (true, true) => Reason::ConnectTimeout,
            (true, false) => Reason::Unavailable,
            (false, _) => otherwise,
        };
        let is_lost = reason == Reason::Unavailable && causes(&error).any(is_lost_connection);
        // The error of a lost connection may contain the server's own text.
        let upstream_text = error_chain(&error.without_url());
        Self { upstream_text, is_lost, ..Self::new(reason, "the attempts failed") }
    }

    /// The failure that an upstream reports.
    pub(super) fn of_upstream(status: Option<u16>, body: &ErrorBody) -> Self {
        // An error within a stream has no HTTP status, but its code may be one.
        let coded = body.code.parse().ok().filter(|code| (400..600).contains(code));
        let reason = classify(status.or(coded), body);
        let shown = status.map_or_else(|| "in the stream".into(), |status| status.to_string());
        let upstream_text =
            [("type", &body.kind), ("code", &body.code), ("message", &body.message)];
        let upstream_text = upstream_text.into_iter().filter(|(_, text)| !text.is_empty());
        let upstream_text =
            upstream_text.map(|(name, text)| format!("{name} {text}")).collect::<Vec<_>>();
        Self {
            upstream_text: upstream_text.join(", "),
            ..Self::new(reason, format_args!("status {shown}"))
        }
    }

    /// Returns the text for the log.
    pub(super) fn in_log(&self, own: &Vocabulary) -> String {
        if self.upstream_text.is_empty() {
            return self.cause.clone();
        }
        format!("{}: {}", self.cause, redact::logged(&self.upstream_text, own))
    }
}

/// Returns true if the server has probably not processed the request (RFC 9112, section 9.3.1; RFC
/// 9113, section 8.7).
fn is_lost_connection(error: &(dyn Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<h2::Error>() {
        let is_leaving = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
        return is_leaving || error.reason() == Some(h2::Reason::REFUSED_STREAM);
    }
    let of_system = error.downcast_ref::<io::Error>().map(io::Error::kind);
    error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message)
        || matches!(of_system, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

fn classify(status: Option<u16>, body: &ErrorBody) -> Reason {
    if is_named(body, &CONTEXT) {
        return Reason::ContextTooLong;
    }
    if is_named(body, &QUOTA) {
        return Reason::Quota;
    }
    if [&body.code, &body.kind].iter().any(|word| word.starts_with("rate_limit")) {
        return Reason::RateLimited;
    }
    match status {
        Some(400 | 413 | 422 | 500) | None if is_context(body) => Reason::ContextTooLong,
        Some(401 | 403) => Reason::Auth,
        Some(402) => Reason::Quota,
        Some(429) => Reason::RateLimited,
        // Request Timeout, Conflict, Too Early: the request itself is valid.
        Some(408 | 409 | 425) => Reason::Unavailable,
        Some(300..500) => Reason::Rejected,
        Some(_) => Reason::Unavailable,
        None => Reason::Failed,
    }
}

const CONTEXT: [&str; 3] =
    ["context_length_exceeded", "exceed_context_size_error", "string_above_max_length"];

const QUOTA: [&str; 3] = ["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"];

fn is_named(body: &ErrorBody, names: &[&str]) -> bool {
    names.iter().any(|name| body.code == *name || body.kind == *name)
}

/// Returns true if the message says that the prompt is too long. Called only for statuses that
/// leave the cause open: with others, such a message means something else, as "too many tokens" per
/// minute.
fn is_context(body: &ErrorBody) -> bool {
    let worded = [
        "maximum context length",            // OpenAI, vLLM
        "maximum model length",              // vLLM
        "exceeds the available context",     // llama.cpp
        "context size has been exceeded",    // llama.cpp
        "exceeds the context length",        // Ollama
        "model's context length",            // SGLang, Together
        "maximum prompt length",             // xAI
        "`inputs` tokens",                   // Text Generation Inference
        "`inputs` must have less than",      // Text Generation Inference
        "maximum number of tokens",          // Gemini
        "prompt is too long",                // Anthropic, behind gateways
        "reduce the length of the messages", // OpenAI, Groq
        "input is too long",
        "too many tokens", // Cohere
    ];
    let message = without_quotes(&body.message.to_lowercase());
    let is_worded = worded.iter().any(|words| message.contains(words));
    // "context window" alone may have another meaning.
    let exceeds = ["exceed", "too long", "too large", "larger than", "longer than", "does not fit"];
    let is_window =
        message.contains("context window") && exceeds.iter().any(|words| message.contains(words));
    has_general_code(body) && (is_worded || is_window)
}

/// Returns true if code and type leave open what is wrong. A specific code decides alone: the
/// message may quote the conversation.
fn has_general_code(body: &ErrorBody) -> bool {
    const GENERAL: [&str; 10] = [
        "",
        "invalid_request_error",
        "invalid_request",
        "badrequesterror",
        "bad_request",
        "bad_request_error",
        "server_error",
        "internal_server_error",
        "validation",
        "error",
    ];
    let is_general = |word: &str| {
        let word = word.to_ascii_lowercase();
        word.parse::<u16>().is_ok() || GENERAL.contains(&word.as_str())
    };
    is_general(&body.code) && is_general(&body.kind)
}

/// Removes quoted passages: they may be of the user.
fn without_quotes(message: &str) -> String {
    let mut kept = String::with_capacity(message.len());
    let mut closing = None;
    for letter in message.chars() {
        match (closing, letter) {
            (Some(end), letter) if letter == end => closing = None,
            (Some(_), _) => {}
            (None, '"') => closing = Some('"'),
            (None, '\u{201c}') => closing = Some('\u{201d}'),
            (None, letter) => kept.push(letter),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(status: Option<u16>, body: &str) -> Reason {
        UpstreamError::of_upstream(status, &ErrorBody::read(body.as_bytes())).reason
    }

    #[test]
    fn responses_of_real_servers_are_classified() {
        for (status, body, expected) in [
            (
                401,
                r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
                Reason::Auth,
            ),
            (403, "", Reason::Auth),
            (402, "", Reason::Quota),
            (
                429,
                r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#,
                Reason::Quota,
            ),
            (
                429,
                r#"{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}"#,
                Reason::RateLimited,
            ),
            (429, "", Reason::RateLimited),
            (
                429,
                r#"{"message":"Too many tokens, please wait before trying again."}"#,
                Reason::RateLimited,
            ),
            (401, r#"{"error":"no context window for you"}"#, Reason::Auth),
            (503, r#"{"error":"too many tokens in the queue"}"#, Reason::Unavailable),
            (
                400,
                r#"{"error":{"message":"This model's maximum context length is 4096 tokens. However, you requested 5000","type":"BadRequestError","param":null,"code":400}}"#,
                Reason::ContextTooLong,
            ),
            (
                400,
                r#"{"object":"error","message":"The decoder prompt (length 9000) is longer than the maximum model length of 4096.","code":400}"#,
                Reason::ContextTooLong,
            ),
            (
                400,
                r#"{"error":{"message":"m","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#,
                Reason::ContextTooLong,
            ),
            (
                400,
                r#"{"error":{"code":400,"message":"request (20009 tokens) exceeds the available context size (16384 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":20009,"n_ctx":16384}}"#,
                Reason::ContextTooLong,
            ),
            (
                500,
                r#"{"error":"the input length exceeds the context length"}"#,
                Reason::ContextTooLong,
            ),
            (
                500,
                r#"{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}"#,
                Reason::ContextTooLong,
            ),
            (400, r#"{"error":{"message":"'messages' is required"}}"#, Reason::Rejected),
            // Messages that quote the conversation.
            (
                400,
                r#"{"error":{"message":"Invalid prompt: what does it mean to exceed the context window?","type":"invalid_request_error","code":"invalid_prompt"}}"#,
                Reason::Rejected,
            ),
            (
                400,
                r#"{"error":{"message":"Flagged: \"my prompt is too long\"","type":"invalid_request_error","code":null}}"#,
                Reason::Rejected,
            ),
            (400, r#"{"error":{"message":"no context window for cats"}}"#, Reason::Rejected),
            (
                400,
                r#"{"error":{"message":"The request exceeds the model's context window."}}"#,
                Reason::ContextTooLong,
            ),
            (404, r#"{"error":{"message":"model \"x\" not found"}}"#, Reason::Rejected),
            (422, r#"{"detail":[]}"#, Reason::Rejected),
            (302, "", Reason::Rejected),
            (408, "", Reason::Unavailable),
            (500, "oops", Reason::Unavailable),
            (
                503,
                r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#,
                Reason::Unavailable,
            ),
            (529, "", Reason::Unavailable),
        ] {
            assert_eq!(reason(Some(status), body), expected, "{status} {body}");
        }
        for (body, expected) in [
            (r#"{"error":{"message":"m","code":429}}"#, Reason::RateLimited),
            (r#"{"error":{"message":"m","code":"502"}}"#, Reason::Unavailable),
            (r#"{"error":{"message":"m","code":"rate_limit_exceeded"}}"#, Reason::RateLimited),
            (r#"{"error":{"message":"m","type":"server_error"}}"#, Reason::Failed),
        ] {
            assert_eq!(reason(None, body), expected, "{body}");
        }
    }

    #[test]
    fn context_errors_of_many_servers_are_known() {
        for message in [
            "The input (12000 tokens) is longer than the model's context length (8192 tokens).",
            "This model's maximum prompt length is 131072 but the request contains 200000 tokens.",
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096.",
            "Input validation error: `inputs` must have less than 4095 tokens. Given: 9000",
            "The input token count (1100000) exceeds the maximum number of tokens allowed (1048575).",
            "Please reduce the length of the messages or completion.",
        ] {
            let body = serde_json::json!({"error": {"message": message}}).to_string();
            assert_eq!(reason(Some(400), &body), Reason::ContextTooLong, "{message}");
            assert_eq!(
                reason(Some(400), &format!("[{body}]")),
                Reason::ContextTooLong,
                "{message}"
            );
        }
    }
}
