//! A responder that follows a script of chunks and keeps the prompts that it got.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use duologue::session::{
    Chunk, History, Outcome, Part, PartContent, Piece, Prompt, Reply, Responder, ToolCallPiece,
};
use futures_util::{StreamExt as _, stream};
use tokio::sync::Semaphore;

/// Answers each turn with the next script, and "ok" once they are used up. Each chunk waits for a
/// permit of `gate`.
#[derive(Clone)]
pub struct TestModel {
    pub gate: Arc<Semaphore>,
    scripts: Arc<Mutex<VecDeque<Vec<Chunk>>>>,
    prompts: Arc<Mutex<Vec<Prompt>>>,
}

impl TestModel {
    /// Returns a model whose chunks come at once.
    pub fn new(scripts: impl IntoIterator<Item = Vec<Chunk>>) -> Self {
        let model = Self::gated(scripts);
        model.gate.add_permits(1 << 20);
        model
    }

    /// Returns a model whose chunks wait for the gate.
    pub fn gated(scripts: impl IntoIterator<Item = Vec<Chunk>>) -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            scripts: Arc::new(Mutex::new(scripts.into_iter().collect())),
            prompts: Arc::default(),
        }
    }

    /// Returns the texts of each prompt so far: those of the history, then that of the message.
    pub fn prompts(&self) -> Vec<Vec<String>> {
        let prompts = self.prompts.lock().unwrap();
        let texts = |prompt: &Prompt| {
            let messages = prompt.history.iter().chain([&prompt.message]);
            messages.map(|message| message.text().as_ref().to_owned()).collect()
        };
        prompts.iter().map(texts).collect()
    }

    /// Returns the last prompt.
    pub fn last_prompt(&self) -> Prompt {
        self.prompts.lock().unwrap().last().unwrap().clone()
    }
}

impl Responder for TestModel {
    fn history(&self) -> History {
        History { messages: 100, size: 1 << 20 }
    }

    fn respond(&self, prompt: Prompt) -> Reply {
        self.prompts.lock().unwrap().push(prompt);
        let script = self.scripts.lock().unwrap().pop_front();
        let script = script.unwrap_or_else(|| vec![text("ok"), end("stop")]);
        let gate = Arc::clone(&self.gate);
        let chunks = stream::iter(script).then(move |chunk| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                chunk
            }
        });
        Reply { chunks: chunks.boxed(), context_trimmed: false, input_tokens: Some(1) }
    }
}

pub fn text(text: &str) -> Chunk {
    Chunk::Delta(Piece::Text(text.into()))
}

pub fn reasoning(text: &str) -> Chunk {
    Chunk::Delta(Piece::Reasoning(text.into()))
}

/// A piece of a tool call that the client runs.
pub fn call(id: &str, arguments: &str) -> Chunk {
    Chunk::Delta(Piece::ToolCall(ToolCallPiece {
        id: id.into(),
        name: "weather".into(),
        arguments: arguments.into(),
        plain_text: false,
        responder_executed: false,
    }))
}

pub fn part(content: PartContent) -> Chunk {
    Chunk::Part(Part::from(content))
}

pub fn end(finish_reason: &str) -> Chunk {
    Chunk::End(Outcome {
        model: Some("test-1".into()),
        ..Outcome::complete(Some(finish_reason.into()), None)
    })
}
