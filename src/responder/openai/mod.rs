//! Any model behind `POST …/chat/completions` with `stream: true`, as OpenAI, vLLM,
//! Ollama, llama.cpp and LiteLLM offer it.
//!
//! - `settings`, `file`: which upstreams, and how they are used.
//! - `context`: which part of the conversation is sent.
//! - `attempts`: one reply (attempts, the next upstream, giving up). `health`: what is
//!   remembered of an upstream.
//! - `upstream`: one upstream and its connections. `answer`, `timer`: one
//!   answer of it (timeouts, its end). `sse`, `wire`: bytes into events, events into pieces.
//! - `failure`: what its errors come to. `report`: the log.
//! - `check`: tries an upstream and says how it behaves.
//!
//! The client is our own rather than one of the ready-made: those ask again by themselves,
//! also after half an answer, or take an end for a good one.

mod attempts;
mod body;
mod check;
mod context;
mod deadline_timer;
mod error_body;
mod failure;
mod health;
mod pool;
mod report;
mod request;
mod response;
pub mod settings;
mod sse;
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

/// As much of a log as is looked at, in messages.
const MAX_HISTORY: u32 = 1000;

/// A token of an estimate has this many bytes at most.
const BYTES_PER_TOKEN: usize = 4;

/// See the module.
#[derive(Debug)]
pub struct OpenAi {
    pool: Arc<Pool>,
    budget: Budget,
}

impl OpenAi {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// One line, if the settings are impossible or no TLS can be set up.
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

/// Dropping it drops what it holds at the time: a wait, a request, an answer.
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
