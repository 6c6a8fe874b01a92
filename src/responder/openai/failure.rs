//! Why an upstream did not answer: which [`Reason`] its answers come to, and what of its
//! own words the log may hold.

use std::{fmt, time::Duration};

use super::wire::ErrorBody;
use crate::responder::failure::{Reason, shorten};

/// An attempt that failed.
#[derive(Clone, Debug)]
pub(super) struct Failed {
    pub(super) reason: Reason,
    /// In our words, for the log alone.
    pub(super) cause: String,
    /// In the upstream's words, which may hold anything.
    pub(super) said: String,
    /// Not to be asked again before.
    pub(super) retry_after: Option<Duration>,
    /// The answer was without any event, which is how some servers say that a prompt is
    /// too long.
    pub(super) is_empty: bool,
}

impl Failed {
    pub(super) fn new(reason: Reason, cause: impl fmt::Display) -> Self {
        let (cause, said) = (cause.to_string(), String::new());
        Self { reason, cause, said, retry_after: None, is_empty: false }
    }

    /// What an error of the HTTP client comes to; without its URL, which may tell more
    /// than the log should.
    pub(super) fn of_client(error: reqwest::Error, otherwise: Reason) -> Self {
        let reason = match (error.is_connect(), error.is_timeout()) {
            (true, true) => Reason::ConnectTimeout,
            (true, false) => Reason::Unavailable,
            (false, _) => otherwise,
        };
        let error = error.without_url();
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
        Self::new(reason, causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }

    /// What an upstream's own words come to.
    pub(super) fn of_upstream(status: Option<u16>, body: &ErrorBody) -> Self {
        // Errors within a stream have no status of their own, but a code that may be one.
        let coded = body.code.parse().ok().filter(|code| (400..600).contains(code));
        let reason = classify(status.or(coded), body);
        let shown = status.map_or_else(|| "in the stream".into(), |status| status.to_string());
        let said = [("type", &body.kind), ("code", &body.code), ("message", &body.message)];
        let said = said.into_iter().filter(|(_, text)| !text.is_empty());
        let said = said.map(|(name, text)| format!("{name} {text}")).collect::<Vec<_>>();
        Self { said: said.join(", "), ..Self::new(reason, format_args!("status {shown}")) }
    }

    /// What the operator is told: without `secrets`, and without what people said in the
    /// conversation, which servers like to quote.
    pub(super) fn in_log<'a>(
        &self,
        secrets: &[String],
        mut conversation: impl Iterator<Item = &'a str>,
    ) -> String {
        let remove = |text: String, secret: &String| text.replace(secret.as_str(), "[hidden]");
        let cause = secrets.iter().fold(self.cause.clone(), remove);
        if self.said.is_empty() {
            return cause;
        }
        let said = shorten(&secrets.iter().fold(self.said.clone(), remove));
        if conversation.any(|text| quotes(&said, text)) {
            return format!("{cause}: its words are withheld, since they quote the conversation");
        }
        format!("{cause}: {said:?}")
    }

    /// The same upstream may answer if it is asked again.
    pub(super) const fn passes(&self) -> bool {
        match self.reason {
            Reason::ConnectTimeout
            | Reason::Unavailable
            | Reason::FirstContentTimeout
            | Reason::ChunkTimeout
            | Reason::RateLimited
            | Reason::Truncated
            | Reason::Failed
            | Reason::Protocol => true,
            Reason::TotalTimeout
            | Reason::Quota
            | Reason::Auth
            | Reason::Rejected
            | Reason::ContextTooLong
            | Reason::Overloaded => false,
        }
    }
}

/// `said` holds a part of `text`: all of it, or a run of characters that is no chance.
fn quotes(said: &str, text: &str) -> bool {
    const RUN: usize = 24;
    const SHORTEST: usize = 4;
    let text = text.trim();
    if text.chars().count() < SHORTEST {
        return false;
    }
    if said.contains(text) {
        return true;
    }
    // Each run of twice this length holds one of these in whole.
    let starts: Vec<_> = said.char_indices().map(|(at, _)| at).chain([said.len()]).collect();
    let runs = starts.windows(RUN / 2 + 1).step_by(RUN / 2);
    runs.map(|run| &said[run[0]..run[RUN / 2]]).any(|run| text.contains(run))
}

fn classify(status: Option<u16>, body: &ErrorBody) -> Reason {
    if is_context(body) {
        return Reason::ContextTooLong;
    }
    if is_quota(body) {
        return Reason::Quota;
    }
    if [&body.code, &body.kind].iter().any(|word| word.starts_with("rate_limit")) {
        return Reason::RateLimited;
    }
    match status {
        Some(401 | 403) => Reason::Auth,
        Some(402) => Reason::Quota,
        Some(429) => Reason::RateLimited,
        // Request Timeout, Conflict, Too Early: the server's trouble, not the request's.
        Some(408 | 409 | 425) => Reason::Unavailable,
        Some(300..500) => Reason::Rejected,
        Some(_) => Reason::Unavailable,
        None => Reason::Failed,
    }
}

/// Servers say in their own ways that a prompt is too long.
fn is_context(body: &ErrorBody) -> bool {
    let named = ["context_length_exceeded", "exceed_context_size_error", "string_above_max_length"];
    let worded = [
        "maximum context length",         // OpenAI, vLLM
        "maximum model length",           // vLLM
        "exceeds the available context",  // llama.cpp
        "context size has been exceeded", // llama.cpp
        "exceeds the context length",     // Ollama
        "context window",                 // LiteLLM and others
        "prompt is too long",             // Anthropic, behind gateways
        "input is too long",
    ];
    let message = body.message.to_lowercase();
    named.iter().any(|name| body.code == *name || body.kind == *name)
        || worded.iter().any(|words| message.contains(words))
}

fn is_quota(body: &ErrorBody) -> bool {
    let named = ["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"];
    named.iter().any(|name| body.code == *name || body.kind == *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(status: Option<u16>, body: &str) -> Reason {
        Failed::of_upstream(status, &ErrorBody::read(body.as_bytes())).reason
    }

    #[test]
    fn answers_of_real_servers_are_told_apart() {
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

    fn logged(body: &str, secrets: &[&str], conversation: &[&str]) -> String {
        let failed = Failed::of_upstream(Some(400), &ErrorBody::read(body.as_bytes()));
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).into()).collect();
        failed.in_log(&secrets, conversation.iter().copied())
    }

    #[test]
    fn what_is_logged_is_short_and_holds_no_secret_and_no_conversation() {
        let long = logged(&"日".repeat(9999), &[], &[]);
        assert!(long.chars().count() < 300, "{long}");
        let told = logged("no model `x`", &[], &["Hi", "What is the model of your car?", ""]);
        assert_eq!(told, "status 400: \"message no model `x`\"");
        let told = logged("the key sk-12345678 is wrong", &["sk-12345678"], &[]);
        assert!(told.contains("the key [hidden] is wrong"), "{told}");
        // At the place where it is cut, too.
        let told = logged(&format!("{}sk-12345678", "x".repeat(188)), &["sk-12345678"], &[]);
        assert!(!told.contains("sk-1"), "{told}");
        let question = "Who lives at number four, and why did they move there?";
        for said in [
            format!("invalid prompt: {question}"),
            format!("invalid prompt near {:?}", &question[9..40]),
            question.into(),
        ] {
            let told = logged(&said, &[], &["Hello", question]);
            assert!(told.contains("withheld") && !told.contains("number"), "{told}");
        }
        assert!(logged("bad: Hello", &[], &["Hello"]).contains("withheld"));
    }
}
