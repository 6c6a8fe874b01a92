//! The responder for models behind `POST …/chat/completions` with `stream: true`, as OpenAI, vLLM,
//! Ollama, llama.cpp and LiteLLM offer it.
//!
//! - `settings`, `upstream_table`: the upstreams and their limits.
//! - `context`: the part of the conversation that is sent. `messages`, `chat_message`: its form.
//!   `request`: the request with the options of the turn. `provider_data`: fields that a server wants
//!   back.
//! - `attempts`: retries and the choice of the upstream for one reply. `health`: the failures of an
//!   upstream so far.
//! - `upstream`: one upstream and its connections. `response`, `deadline_timer`: one streamed
//!   response with its timeouts. `body`, `sse`, `wire`: bytes to events. `assembly`, `tool_calls`,
//!   `citations`: events to chunks.
//! - `failure`, `error_body`: errors of an upstream. `report`: the log.
//! - `check`: the command `check-upstream`.
//!
//! Existing client libraries are not used: they retry on their own, also in the middle of a
//! response, or accept a broken-off response as complete.

mod assembly;
mod attempts;
mod body;
mod chat_message;
mod check;
mod citations;
mod context;
mod deadline_timer;
mod error_body;
mod failure;
mod health;
mod messages;
mod pool;
mod provider_data;
mod report;
mod request;
mod response;
pub mod settings;
mod sse;
mod tool_calls;
mod upstream;
pub mod upstream_table;
mod wire;

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

pub use check::check;
pub use settings::{Defaults, Endpoint, Settings, UpstreamSettings};

use self::{
    attempts::{Attempts, ReplyStream},
    context::{Budget, Context},
    pool::Pool,
    report::Report,
    upstream::Upstream,
};
use crate::session::{Chunks, History, Prompt, Reply, Responder};

/// Most messages of a log that are considered for a prompt.
const MAX_HISTORY: u32 = 1000;

/// Most bytes of a token, by the gateway's estimate.
const BYTES_PER_TOKEN: usize = 4;

/// The `openai` responder.
#[derive(Debug)]
pub struct OpenAi {
    pool: Arc<Pool>,
    budget: Budget,
}

impl OpenAi {
    /// Prepares the clients, without a connection.
    ///
    /// # Errors
    /// One line: a setting is wrong, or TLS cannot be set up.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        settings.validate()?;
        let upstreams = settings.upstreams.iter().cloned().map(|one| {
            let name = one.name.clone();
            Upstream::new(one).map_err(|problem| format!("upstream `{name}`: {problem}"))
        });
        let longest = settings.upstreams.iter().filter_map(|one| one.defaults.max_tokens).max();
        let budget = Budget {
            system_prompt: settings.system_prompt.clone().filter(|text| !text.is_empty()),
            context_tokens: settings.context_tokens,
            answer_tokens: longest.unwrap_or(settings.context_tokens / 4),
        };
        let pool = Pool {
            upstreams: upstreams.collect::<Result<_, _>>()?,
            total_timeout: settings.total_timeout,
        };
        Ok(Self { pool: Arc::new(pool), budget })
    }
}

impl Responder for OpenAi {
    fn history(&self) -> History {
        let tokens = self.budget.context_tokens;
        History { messages: MAX_HISTORY.min(tokens), size: tokens as usize * BYTES_PER_TOKEN }
    }

    fn has_room(&self) -> bool {
        self.pool.upstreams.iter().any(Upstream::has_room)
    }

    fn respond(&self, prompt: Prompt) -> Reply {
        let context = Context::new(&prompt, &self.budget);
        let report = Report::new(prompt.session, prompt.reply, context.tokens());
        Reply {
            context_trimmed: context.is_trimmed(),
            input_tokens: Some(context.tokens()),
            chunks: chunks(Attempts::new(Arc::clone(&self.pool), context, report)),
        }
    }
}

/// Returns the chunks of a reply. Dropping them drops the current wait, request or response.
fn chunks(attempts: Attempts) -> Chunks {
    let chunks = stream::once(attempts.begin()).flat_map(|(first, reply)| {
        let rest = stream::unfold(reply.map(Box::new), async |reply| {
            let mut reply: Box<ReplyStream> = reply?;
            let (chunk, is_over) = reply.next().await;
            Some((chunk, (!is_over).then_some(reply)))
        });
        stream::iter(first).chain(rest)
    });
    chunks.boxed()
}
