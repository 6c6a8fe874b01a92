//! A scripted responder.

use std::sync::Arc;

use duologue::session::{Chunk, History, Outcome, Piece, Prompt, Reply, Responder};
use futures_util::{StreamExt as _, stream};
use tokio::sync::{Semaphore, mpsc};

/// A step of a scripted reply.
#[derive(Clone, Debug)]
pub enum Step {
    /// Says this.
    Say(&'static str),
    /// Waits for the test.
    Gate,
    /// Leaves older messages out.
    Trim,
    /// The text is complete; the usage may follow.
    Finish,
    /// Never ends.
    Hang,
    /// Ends as it should.
    End,
    /// Dies.
    Panic,
    /// Says this much.
    Flood(usize),
}

/// Plays the same script for every turn. Reports dropped replies.
#[derive(Clone)]
pub struct Scripted {
    script: Arc<[Step]>,
    pub gate: Arc<Semaphore>,
    cancelled: mpsc::UnboundedSender<()>,
}

impl Scripted {
    /// Returns the responder, and a receiver of replies that were dropped before their end.
    pub fn new(script: &[Step]) -> (Self, mpsc::UnboundedReceiver<()>) {
        let (cancelled, told) = mpsc::unbounded_channel();
        (Self { script: script.into(), gate: Arc::new(Semaphore::new(0)), cancelled }, told)
    }
}

struct DropNotifier(mpsc::UnboundedSender<()>);

impl Drop for DropNotifier {
    fn drop(&mut self) {
        let _nobody_asks = self.0.send(());
    }
}

impl Responder for Scripted {
    fn history(&self) -> History {
        History::NONE
    }

    fn respond(&self, _: Prompt) -> Reply {
        let guard = DropNotifier(self.cancelled.clone());
        let gate = Arc::clone(&self.gate);
        let steps: Vec<_> = self.script.to_vec();
        let chunks = stream::unfold(
            (steps.into_iter(), gate, guard),
            |(mut steps, gate, guard)| async move {
                let chunk = loop {
                    match steps.next()? {
                        Step::Say(text) => break Chunk::Delta(Piece::Text(text.into())),
                        Step::Flood(size) => break Chunk::Delta(Piece::Text("x".repeat(size))),
                        Step::Gate => gate.acquire().await.unwrap().forget(),
                        Step::Trim => break Chunk::ContextTrimmed { input_tokens: Some(3) },
                        Step::Finish => {
                            break Chunk::Finished { finish_reason: Some("stop".into()) };
                        }
                        Step::Hang => std::future::pending().await,
                        Step::Panic => panic!("as scripted"),
                        Step::End => {
                            let finish_reason = Some("stop".into());
                            break Chunk::End(Outcome::complete(finish_reason, None));
                        }
                    }
                };
                Some((chunk, (steps, gate, guard)))
            },
        );
        Reply { chunks: chunks.boxed(), context_trimmed: false, input_tokens: Some(7) }
    }
}
